import Synchronization

/// Chooses between looking a key up directly and asking a server, by running estimates of what both cost.
/// Thread-safe; what threads lose to each other are samples.
///
/// The way that is not chosen is tried so seldom that its trials cost below a hundredth of the time, whatever they
/// cost; the one that is chosen is timed at each 64th lookup when it is the direct one, since clocks cost as much as a
/// part of it.
final class DelegationChoice: @unchecked Sendable {
    // @unchecked: all words are atomic.

    /// How a lookup is to be done.
    struct Way {
        var isDelegated: Bool
        /// Whether the caller is to report what it cost.
        var isTimed: Bool
    }

    private let isAutomatic: Bool
    private let direct = Atomic<UInt64>(0)
    private let delegated = Atomic<UInt64>(0)
    /// Lookups between two trials of the other way, a power of two, less one.
    private let trialMask = Atomic<UInt64>(firstTrials - 1)
    /// Lookups, one line of the processor's cache for each stripe of the hashes.
    private let counters: UnsafeMutableRawPointer

    private static let firstTrials: UInt64 = 64
    private static let mostTrials: UInt64 = 1 << 20
    /// A trial may cost a lookup of the chosen way times its interval over this.
    private static let costShare: UInt64 = 128
    private static let timedMask: UInt64 = 63
    private static let stripes = 16
    private static let stripeBytes = 64

    /// - Parameter isAutomatic: false chooses to delegate always.
    init(isAutomatic: Bool) {
        self.isAutomatic = isAutomatic
        counters = .allocate(byteCount: Self.stripes * Self.stripeBytes, alignment: Self.stripeBytes)
        counters.initializeMemory(as: UInt8.self, repeating: 0, count: Self.stripes * Self.stripeBytes)
    }

    deinit { counters.deallocate() }

    /// Estimates; 0: not known.
    var directNanoseconds: UInt64 { direct.load(ordering: .relaxed) }
    var delegatedNanoseconds: UInt64 { delegated.load(ordering: .relaxed) }

    /// Whether asking is known to be the faster way, for `keys` looked up with one request.
    func prefersDelegation(keys: Int = 1) -> Bool {
        guard isAutomatic else { return true }
        let asking = delegatedNanoseconds
        let looking = directNanoseconds
        return asking > 0 && looking > 0 && asking / UInt64(max(1, keys)) < looking
    }

    func way(_ hash: UInt64) -> Way {
        guard isAutomatic else { return Way(isDelegated: true, isTimed: true) }
        let counter = sharedWord64(counters + Int(hash & UInt64(Self.stripes - 1)) * Self.stripeBytes)
        let count = counter.pointee.wrappingAdd(1, ordering: .relaxed).newValue
        let isTrial = count & trialMask.load(ordering: .relaxed) == 0
        if prefersDelegation() { return Way(isDelegated: !isTrial, isTimed: true) }
        return Way(isDelegated: isTrial, isTimed: isTrial || count & Self.timedMask == 1)
    }

    /// Reports what a lookup cost.
    func record(_ nanoseconds: UInt64, isDelegated: Bool) {
        if isDelegated { Self.move(delegated, nanoseconds) } else { Self.move(direct, nanoseconds) }
        let (asking, looking) = (delegatedNanoseconds, directNanoseconds)
        guard asking > 0, looking > 0 else { return }
        let ratio = max(asking, looking) / max(1, min(asking, looking))
        var trials = Self.firstTrials
        while trials < Self.mostTrials, trials < ratio * Self.costShare { trials *= 2 }
        trialMask.store(trials - 1, ordering: .relaxed)
    }

    private static func move(_ estimate: borrowing Atomic<UInt64>, _ nanoseconds: UInt64) {
        let old = estimate.load(ordering: .relaxed)
        // One that was interrupted must not turn the choice around.
        let sample = old == 0 ? nanoseconds : min(nanoseconds, 4 * old)
        estimate.store(old == 0 ? max(1, sample) : max(1, (7 * old + sample) / 8), ordering: .relaxed)
    }
}
