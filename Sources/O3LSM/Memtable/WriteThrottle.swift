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
    private let counters: [StallCause: Counter]

    private final class Counter: Sendable {
        let count = Atomic<Int>(0)
        let nanoseconds = Atomic<UInt64>(0)
    }

    /// Waits shorter than this are saved up: sleeping costs more than it delays.
    private static let leastSleepNanoseconds: UInt64 = 500_000

    init() {
        counters = Dictionary(uniqueKeysWithValues: StallCause.allCases.map { ($0, Counter()) })
    }

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
        sleep(nanoseconds)
        record(cause.load(ordering: .relaxed) == 1 ? .l0Pressure : .dmPressure, monotonicNanoseconds() - now)
    }

    func record(_ cause: StallCause, _ nanoseconds: UInt64) {
        guard let counter = counters[cause] else { return }
        counter.count.wrappingAdd(1, ordering: .relaxed)
        counter.nanoseconds.wrappingAdd(nanoseconds, ordering: .relaxed)
    }

    func statistics() -> [String: Statistics.Stall] {
        Dictionary(
            uniqueKeysWithValues: counters.map { cause, counter in
                (
                    cause.rawValue,
                    Statistics.Stall(
                        count: counter.count.load(ordering: .relaxed),
                        seconds: Double(counter.nanoseconds.load(ordering: .relaxed)) / 1e9)
                )
            })
    }

    private func sleep(_ nanoseconds: UInt64) {
        var time = timespec(tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
        nanosleep(&time, nil)
    }
}
