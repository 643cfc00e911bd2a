import Glibc
import Synchronization

/// Why a write had to wait.
public enum StallCause: String, Sendable, CaseIterable, Codable {
    /// The region has no room for another memtable.
    case dmFull = "dm_full"
    /// The region fills faster than flushes empty it: writers are slowed in proportion.
    case dmPressure = "dm_pressure"
    /// L0 is so deep that reads would suffer: writers wait.
    case l0Full = "l0_full"
    /// L0 grows faster than compactions shrink it: writers are slowed in proportion.
    case l0Pressure = "l0_pressure"
    /// Storage is nearly full, and what was deleted is being given back: writers wait before they fail.
    case storageFull = "storage_full"
}

/// Back-pressure. The control plane sets a rate; writers pay for their bytes in time, so that they are
/// slowed smoothly long before they would have to stop. Every wait is counted with its cause.
final class WriteThrottle: Sendable {
    private let bytesPerSecond = Atomic<Int>(0)
    private let cause = Atomic<Int>(0)
    private let nextFreeNanoseconds = Atomic<UInt64>(0)
    private let waits = Mutex<[StallCause: Waits]>([:])

    private struct Waits {
        var count = 0
        /// Of the waits that are over.
        var nanoseconds: UInt64 = 0
        /// When the waits that go on began.
        var begun: [UInt64] = []

        mutating func begin(_ now: UInt64) {
            count += 1
            begun.append(now)
        }

        mutating func end(_ start: UInt64, _ now: UInt64) {
            guard let index = begun.firstIndex(of: start) else { return }
            begun.swapAt(index, begun.count - 1)
            begun.removeLast()
            nanoseconds += now - start
        }

        func statistics(_ now: UInt64) -> Statistics.Stall {
            // Who began after `now` was asked for has not waited.
            let ages = begun.map { now > $0 ? now - $0 : 0 }
            return Statistics.Stall(
                count: count, seconds: Double(ages.reduce(nanoseconds, +)) / 1e9, waiting: begun.count,
                longestWaitSeconds: Double(ages.max() ?? 0) / 1e9)
        }
    }

    /// Waits shorter than this are saved up: sleeping costs more than it delays.
    private static let leastSleepNanoseconds: UInt64 = 500_000

    /// Sets the rate writers are held to; 0 for none.
    func setRate(_ rate: Int, cause newCause: StallCause) {
        cause.store(newCause == .l0Pressure ? 1 : 0, ordering: .relaxed)
        bytesPerSecond.store(rate, ordering: .relaxed)
    }

    var rate: Int { bytesPerSecond.load(ordering: .relaxed) }

    /// Delays a writer of this many bytes as the rate asks.
    @inline(__always)
    func admit(_ bytes: Int) {
        let rate = bytesPerSecond.load(ordering: .relaxed)
        if rate > 0 { pay(bytes, rate) }
    }

    private func pay(_ bytes: Int, _ rate: Int) {
        let now = monotonicNanoseconds()
        let price = UInt64(bytes) * 1_000_000_000 / UInt64(rate)
        var free = nextFreeNanoseconds.load(ordering: .relaxed)
        while true {
            let (exchanged, original) = nextFreeNanoseconds.compareExchange(
                // Nobody sleeps for longer than a second, so that more would never be paid back.
                expected: free, desired: min(max(free, now), now + 1_000_000_000) + price, ordering: .relaxed)
            if exchanged { break }
            free = original
        }
        guard free > now + WriteThrottle.leastSleepNanoseconds else { return }
        // A rate that has just risen must not leave a writer asleep on the old one's debt.
        let nanoseconds = min(free - now, 1_000_000_000)
        let wait = begin(cause.load(ordering: .relaxed) == 1 ? .l0Pressure : .dmPressure, now)
        sleep(nanoseconds)
        end(wait)
    }

    /// A wait that goes on.
    struct Wait {
        fileprivate let cause: StallCause
        fileprivate let start: UInt64
    }

    /// Counts a wait from its beginning, so that one that does not end is seen, too. One that goes on for another reason is
    /// counted as that one's from now on. To be ended with `end`.
    func wait(_ wait: inout Wait?, for cause: StallCause) {
        if let wait {
            guard wait.cause != cause else { return }
            end(wait)
        }
        wait = begin(cause, monotonicNanoseconds())
    }

    private func begin(_ cause: StallCause, _ now: UInt64) -> Wait {
        waits.withLock { $0[cause, default: Waits()].begin(now) }
        return Wait(cause: cause, start: now)
    }

    func end(_ wait: Wait?) {
        guard let wait else { return }
        let now = monotonicNanoseconds()
        waits.withLock { $0[wait.cause]?.end(wait.start, now) }
    }

    func statistics() -> [String: Statistics.Stall] {
        let now = monotonicNanoseconds()
        return waits.withLock { waits in
            Dictionary(
                uniqueKeysWithValues: StallCause.allCases.map { ($0.rawValue, waits[$0, default: Waits()].statistics(now)) })
        }
    }

    private func sleep(_ nanoseconds: UInt64) {
        var time = timespec(tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
        nanosleep(&time, nil)
    }
}
