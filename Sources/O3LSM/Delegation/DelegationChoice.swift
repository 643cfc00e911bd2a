import Synchronization

/// Chooses between reading directly and asking a server, by running estimates of what both cost. One for each kind of
/// read. Thread-safe; what threads lose to each other are samples.
///
/// The way that is not chosen is tried in bursts: a single request finds a server that sleeps and memory that it has not
/// mapped, which says nothing of a hundred requests in a row, so the first ones of a burst do not count as samples.
/// What they cost does count against the next burst: trials take below a hundredth of the time. The chosen way is timed
/// at each 64th read when it is the direct one, since clocks cost as much as a part of it.
final class DelegationChoice: @unchecked Sendable {
    // @unchecked: all words are atomic.

    /// How a read is to be done.
    struct Way: Equatable {
        var isDelegated: Bool
        /// Whether the caller is to report what it cost.
        var isTimed: Bool
        /// Whether it is a trial of the way that is not chosen, and whether it is one of the first of its burst.
        var isTrial = false
        var isWarmUp = false

        /// Whether it is like a read without delegation.
        @inline(__always) var isPlain: Bool { !isDelegated && !isTimed }
    }

    private let isAutomatic: Bool
    private let direct = Estimate()
    private let delegated = Estimate()
    private let isDelegationPreferred = Atomic<Bool>(false)
    /// Reads so far, in steps of `timedEvery`, and at how many of them the next burst begins.
    private let reads = Atomic<UInt64>(0)
    private let nextBurst = Atomic<UInt64>(.max)
    /// Trials left in this burst, and above them whether it delegates.
    private let burst = Atomic<UInt64>(0)
    private let burstCost = Atomic<UInt64>(0)
    /// Reads, one line of the processor's cache for each stripe of the hashes.
    private let counters: UnsafeMutableRawPointer

    /// A running mean of nanoseconds.
    private final class Estimate: Sendable {
        let value = Atomic<UInt64>(0)
        let samples = Atomic<UInt64>(0)

        func add(_ nanoseconds: UInt64) {
            let old = value.load(ordering: .relaxed)
            let count = samples.wrappingAdd(1, ordering: .relaxed).newValue
            guard old > 0 else { return value.store(max(1, nanoseconds), ordering: .relaxed) }
            // A reader that lost its processor must not turn the choice around.
            let sample = min(nanoseconds, DelegationChoice.mostOfOld * old)
            // A first sample may be such a one: later ones correct it fast.
            let weight: UInt64 = count <= DelegationChoice.youngSamples && sample < old ? 2 : 16
            value.store(max(1, ((weight - 1) * old + sample) / weight), ordering: .relaxed)
        }
    }

    static let burstReads: UInt64 = 24
    static let warmUpReads: UInt64 = 8
    /// A burst may cost the time until the next one over this.
    private static let costShare: UInt64 = 128
    /// What a burst is taken to cost before there has been one.
    private static let firstBurstNanoseconds: UInt64 = 250_000
    private static let leastInterval: UInt64 = 1024
    private static let mostInterval: UInt64 = 1 << 22
    private static let delegates: UInt64 = 1 << 32
    private static let timedEvery: UInt64 = 64
    private static let youngSamples: UInt64 = 16
    private static let mostOfOld: UInt64 = 8
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
    var directNanoseconds: UInt64 { direct.value.load(ordering: .relaxed) }
    var delegatedNanoseconds: UInt64 { delegated.value.load(ordering: .relaxed) }

    /// Whether asking is known to be the faster way.
    var prefersDelegation: Bool { !isAutomatic || isDelegationPreferred.load(ordering: .relaxed) }

    /// How to do the next read.
    ///
    /// - Parameter hash: anything that differs between threads more often than not.
    @inline(__always)
    func way(_ hash: UInt64) -> Way {
        guard isAutomatic else { return Way(isDelegated: true, isTimed: true) }
        let counter = sharedWord64(counters + Int(hash & UInt64(Self.stripes - 1)) * Self.stripeBytes)
        let isTick = counter.pointee.wrappingAdd(1, ordering: .relaxed).newValue & (Self.timedEvery - 1) == 0
        if isTick { tick() }
        if burst.load(ordering: .relaxed) != 0, let trial = takeTrial() { return trial }
        if isDelegationPreferred.load(ordering: .relaxed) { return Way(isDelegated: true, isTimed: true) }
        return Way(isDelegated: false, isTimed: isTick)
    }

    /// Counts reads, and begins a burst when one is due.
    @inline(never)
    private func tick() {
        let now = reads.wrappingAdd(Self.timedEvery, ordering: .relaxed).newValue
        let due = nextBurst.load(ordering: .relaxed)
        if due == .max {
            // Nothing is planned before it is known what a read costs.
            if directNanoseconds > 0, burst.load(ordering: .relaxed) == 0 { plan(after: Self.firstBurstNanoseconds) }
        } else if now >= due, nextBurst.compareExchange(expected: due, desired: .max, ordering: .relaxed).exchanged {
            burstCost.store(0, ordering: .relaxed)
            let direction = isDelegationPreferred.load(ordering: .relaxed) ? 0 : Self.delegates
            burst.store(direction | Self.burstReads, ordering: .relaxed)
        }
    }

    @inline(never)
    private func takeTrial() -> Way? {
        var found = burst.load(ordering: .relaxed)
        while found != 0 {
            let left = found & (Self.delegates - 1)
            let (exchanged, other) = burst.compareExchange(
                expected: found, desired: left <= 1 ? 0 : found - 1, ordering: .relaxed)
            if exchanged {
                if left <= 1 { plan(after: burstCost.load(ordering: .relaxed)) }
                return Way(
                    isDelegated: found & Self.delegates != 0, isTimed: true, isTrial: true,
                    isWarmUp: Self.burstReads - left < Self.warmUpReads)
            }
            found = other
        }
        return nil
    }

    /// Puts the next burst so far away that one of the cost given is a small share of the time until then.
    private func plan(after cost: UInt64) {
        let read = max(1, prefersDelegation ? delegatedNanoseconds : directNanoseconds)
        let interval = min(max(Self.leastInterval, Self.costShare * cost / read), Self.mostInterval)
        // Before the first one there is no need for a least interval: reads that take long should not wait for it.
        let wanted = delegatedNanoseconds == 0 && cost == Self.firstBurstNanoseconds ? Self.costShare * cost / read : interval
        nextBurst.store(
            reads.load(ordering: .relaxed) + min(max(Self.timedEvery, wanted), Self.mostInterval), ordering: .relaxed)
    }

    /// Reports what a read cost that was to be timed.
    func record(_ nanoseconds: UInt64, _ way: Way) {
        if way.isTrial { burstCost.wrappingAdd(nanoseconds, ordering: .relaxed) }
        if way.isWarmUp { return }
        (way.isDelegated ? delegated : direct).add(nanoseconds)
        guard isAutomatic else { return }
        let (asking, looking) = (delegatedNanoseconds, directNanoseconds)
        // Only what has been seen often enough is believed.
        let isKnown = asking > 0 && looking > 0 && delegated.samples.load(ordering: .relaxed) >= Self.warmUpReads
        let isPreferred = isKnown && asking < looking
        if isPreferred != isDelegationPreferred.load(ordering: .relaxed) {
            isDelegationPreferred.store(isPreferred, ordering: .relaxed)
        }
    }
}
