import CSystem
import Glibc
import Synchronization

/// Lets only as many threads wait for requests as the load needs.
///
/// The kernel hands requests to waiting threads in turn. With more of them than clients, each request
/// wakes the thread that has slept longest, on a processor that has to wake up for it, with cold
/// caches: one client is served half as fast by eight waiting threads as by one. So workers beyond
/// `limit` are parked, and a supervising thread looks each millisecond:
/// - every serving worker is busy and a request waits: twice as many may serve;
/// - for a while, one worker fewer would have done: one fewer may serve.
///
/// It sleeps while there are no requests. A request thus waits a millisecond at most for others that
/// block, and only the first time.
final class ReaderGate: Sendable {
    /// How many workers the session has.
    private let workers: Int
    /// Workers with a number below this serve.
    private let limit = Atomic<Int>(1)
    private let busy = Atomic<Int>(0)
    /// Most workers that were busy at once since the supervisor last looked.
    private let peak = Atomic<Int>(0)
    private let requests = Atomic<UInt64>(0)
    private let isOver = Atomic<Bool>(false)

    /// A word to sleep on: changes when parked workers may serve.
    private let parking = FutexWord()
    /// A word to sleep on: 1 while the supervisor sleeps.
    private let supervision = FutexWord()

    private static let tickMicroseconds: UInt32 = 1000
    /// Ticks without requests after which the supervisor sleeps.
    private static let idleTicks = 20
    /// Ticks over which the need for workers is measured before one is parked.
    private static let shrinkTicks = 50

    init(workers: Int) { self.workers = workers }

    // MARK: Workers

    /// Waits until worker `number` may serve.
    func pass(_ number: Int) {
        while number >= limit.load(ordering: .acquiring), !isOver.load(ordering: .acquiring) {
            let seen = parking.value
            guard number >= limit.load(ordering: .sequentiallyConsistent), !isOver.load(ordering: .acquiring) else {
                return
            }
            parking.sleep(while: seen)
        }
    }

    /// A worker has a request.
    func begin() {
        let now = busy.add(1, ordering: .sequentiallyConsistent).newValue
        if now > peak.load(ordering: .relaxed) { peak.store(now, ordering: .relaxed) }
        if supervision.value == 1 { wakeSupervisor() }
    }

    /// The request was answered.
    func end() {
        busy.subtract(1, ordering: .sequentiallyConsistent)
        requests.store(requests.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
    }

    /// The session ends: everybody passes, the supervisor returns.
    func finish() {
        isOver.store(true, ordering: .sequentiallyConsistent)
        parking.change()
        wakeSupervisor()
    }

    // MARK: Supervisor

    /// The supervising thread's life. `hasPending`: whether a request waits that no thread has taken.
    func supervise(hasPending: () -> Bool) {
        var lastRequests = requests.load(ordering: .relaxed)
        var quietTicks = 0
        var shrinkTick = 0
        while !isOver.load(ordering: .acquiring) {
            usleep(Self.tickMicroseconds)
            let allowed = limit.load(ordering: .relaxed)
            if allowed < workers, busy.load(ordering: .relaxed) >= allowed, hasPending() {
                limit.store(min(workers, allowed * 2), ordering: .sequentiallyConsistent)
                parking.change()
                shrinkTick = 0
            }
            shrinkTick += 1
            if shrinkTick >= Self.shrinkTicks {
                shrinkTick = 0
                let needed = peak.exchange(busy.load(ordering: .relaxed), ordering: .relaxed)
                if allowed > 1, needed < allowed { limit.store(allowed - 1, ordering: .relaxed) }
            }
            let nowRequests = requests.load(ordering: .relaxed)
            quietTicks = nowRequests == lastRequests ? quietTicks + 1 : 0
            lastRequests = nowRequests
            if quietTicks >= Self.idleTicks {
                quietTicks = 0
                sleepUntilRequest()
            }
        }
    }

    private func sleepUntilRequest() {
        supervision.value = 1
        // A worker that began before it could see the word is seen here.
        guard busy.load(ordering: .sequentiallyConsistent) == 0, !isOver.load(ordering: .sequentiallyConsistent) else {
            supervision.value = 0
            return
        }
        supervision.sleep(while: 1)
    }

    private func wakeSupervisor() {
        supervision.value = 0
        supervision.wake()
    }
}

/// A 32-bit word that threads of this process sleep on.
private final class FutexWord: Sendable {
    // Never moves; what it points to is atomic.
    private nonisolated(unsafe) let word: UnsafeMutablePointer<Atomic<UInt32>>

    init() {
        word = .allocate(capacity: 1)
        word.initialize(to: Atomic(0))
    }

    deinit { word.deallocate() }

    var value: UInt32 {
        get { word.pointee.load(ordering: .sequentiallyConsistent) }
        set { word.pointee.store(newValue, ordering: .sequentiallyConsistent) }
    }

    /// Returns when woken, when the value is no longer `expected`, or for no reason.
    func sleep(while expected: UInt32) {
        _ = o3_futex_wait(UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), expected, nil)
    }

    func wake() { _ = o3_futex_wake(UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), .max) }

    /// Wakes all, also those who are about to sleep.
    func change() {
        word.pointee.add(1, ordering: .sequentiallyConsistent)
        wake()
    }
}
