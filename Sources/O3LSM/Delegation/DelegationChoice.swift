import Synchronization

/// Chooses between reading directly and asking a server, by running estimates of what both cost. One for each kind of
/// read. Thread-safe; what threads lose to each other are samples.
///
/// The way that is not chosen is tried in bursts: a single request finds a server that sleeps and memory that it has not
/// mapped, which says nothing of a thousand requests in a row, so the first ones of a burst do not count as samples, and
/// a burst goes on, twice as long each time, when a few requests in a row were faster than direct reads: a worker that has
/// just woken up may have to share the reader's processor for milliseconds. Only the verdict of a burst
/// turns the choice around. What bursts cost puts the next one off: they take a sixteenth of the time at first, and half as
/// much after each one that has said the same, down to a thousandth. A chosen way that has become dearer than the other one was asks for
/// a burst early. The first burst is of direct reads, the second one follows at once: short runs have an answer, too.
///
/// The chosen way is timed at each 512th read when it is the direct one, at each eighth when it delegates, since clocks cost
/// as much as a part of a read, and cursors that are timed more than others.
final class DelegationChoice: @unchecked Sendable {
    // @unchecked: all words are atomic.

    /// How a read is to be done.
    struct Way: Equatable {
        var isDelegated: Bool
        /// Whether the caller is to report what it cost.
        var isTimed: Bool
        /// Whether it is a trial, and whether it is one of the first of its burst.
        var isTrial = false
        var isWarmUp = false

        /// Whether it is like a read without delegation.
        @inline(__always) var isPlain: Bool { !isDelegated && !isTimed }
    }

    private let isAutomatic: Bool
    private let direct = Estimate()
    private let delegated = Estimate()
    private let isDelegationPreferred = Atomic<Bool>(false)
    /// Reads so far, in steps of `ticksEvery`, and at how many of them the next burst begins.
    private let reads = Atomic<UInt64>(0)
    private let nextBurst = Atomic<UInt64>(.max)
    /// Trials left in this burst, and above them whether it delegates.
    private let burst: Atomic<UInt64>
    private let burstLength = Atomic<UInt64>(firstDirectReads)
    private let burstWarmUp = Atomic<UInt64>(firstDirectReads / 2)
    /// What the reads of this burst have cost, with those before it that it goes on from; and how many there were.
    private let burstCost = Atomic<UInt64>(0)
    private let burstSamples = Samples()
    /// The least mean of `groupSamples` of them in a row, and those that come next.
    private let burstLeast = Atomic<UInt64>(.max)
    private let burstGroup = Samples()
    private let trialCount = Atomic<UInt64>(0)
    /// How many bursts in a row have changed nothing, and before which read none may begin.
    private let agreements = Atomic<UInt64>(0)
    private let earliestBurst = Atomic<UInt64>(0)
    /// Reads, one line of the processor's cache for each stripe of the hashes.
    private let counters: UnsafeMutableRawPointer

    /// Nanoseconds that wait to be averaged.
    private final class Samples: Sendable {
        let sum = Atomic<UInt64>(0)
        let count = Atomic<UInt64>(0)

        func add(_ nanoseconds: UInt64) -> UInt64 {
            sum.wrappingAdd(nanoseconds, ordering: .relaxed)
            return count.wrappingAdd(1, ordering: .relaxed).newValue
        }

        /// Their mean, nil when there are fewer than `least`; none are left.
        func take(atLeast least: UInt64) -> UInt64? {
            let (sum, count) = (sum.exchange(0, ordering: .relaxed), count.exchange(0, ordering: .relaxed))
            return count >= max(1, least) ? max(1, sum / count) : nil
        }
    }

    /// What a read costs one way, in nanoseconds; 0: not known.
    private final class Estimate: Sendable {
        let value = Atomic<UInt64>(0)
        let samples = Samples()

        /// Adds a sample of the chosen way; true when the value has changed.
        func add(_ nanoseconds: UInt64) -> Bool {
            guard samples.add(nanoseconds) >= blockSamples, let mean = samples.take(atLeast: blockSamples) else { return false }
            let old = value.load(ordering: .relaxed)
            value.store(old > 0 ? (3 * old + mean) / 4 : mean, ordering: .relaxed)
            return true
        }
    }

    /// Reads of a burst: the first of all, which is of direct ones; of direct ones later; of delegated ones.
    static let firstDirectReads: UInt64 = 64
    static let directReads: UInt64 = 32
    static let burstReads: UInt64 = 64
    /// Up to which length bursts go on.
    private static let mostDirectReads: UInt64 = 128
    private static let mostBurstReads: UInt64 = 1024
    /// Less than that of a burst says nothing.
    private static let leastSamples: UInt64 = 8
    /// So many in a row show what is possible: a scan reports as many at once as it has memtables.
    private static let groupSamples: UInt64 = 4
    /// A burst that has cost so much ends, its warm-up when it has cost half of it.
    private static let mostBurstNanoseconds: UInt64 = 8_000_000
    /// Samples of the chosen way that change its estimate together.
    private static let blockSamples: UInt64 = 32
    /// A reader that lost its processor must not turn the choice around: a sample counts as no more than so many reads.
    private static let mostOfKnown: UInt64 = 8
    /// A burst may cost the time until the next one over `firstShare`, and over twice as much for each one before that
    /// agreed; one that comes early because costs have changed, over `costShare`.
    private static let firstShare: UInt64 = 8
    private static let costShare: UInt64 = 128
    private static let mostAgreements: UInt64 = 7
    private static let leastInterval: UInt64 = 1024
    private static let mostInterval: UInt64 = 1 << 22
    private static let delegates: UInt64 = 1 << 32
    private static let ticksEvery: UInt64 = 64
    private static let timedEvery: UInt64 = 512
    private static let timedDelegatedEvery: UInt64 = 8
    private static let stripes = 16
    private static let stripeBytes = 64

    /// - Parameter isAutomatic: false chooses to delegate always.
    init(isAutomatic: Bool) {
        self.isAutomatic = isAutomatic
        burst = Atomic(isAutomatic ? Self.firstDirectReads : 0)
        counters = .allocate(byteCount: Self.stripes * Self.stripeBytes, alignment: Self.stripeBytes)
        counters.initializeMemory(as: UInt8.self, repeating: 0, count: Self.stripes * Self.stripeBytes)
    }

    deinit { counters.deallocate() }

    /// Estimates; 0: not known.
    var directNanoseconds: UInt64 { direct.value.load(ordering: .relaxed) }
    var delegatedNanoseconds: UInt64 { delegated.value.load(ordering: .relaxed) }

    /// Reads that were made to try a way.
    var trials: UInt64 { trialCount.load(ordering: .relaxed) }

    /// Whether asking is known to be the faster way.
    var prefersDelegation: Bool { !isAutomatic || isDelegationPreferred.load(ordering: .relaxed) }

    /// How to do the next read.
    ///
    /// - Parameter hash: anything that differs between threads more often than not.
    @inline(__always)
    func way(_ hash: UInt64) -> Way {
        let counter = sharedWord64(counters + Int(hash & UInt64(Self.stripes - 1)) * Self.stripeBytes)
        let count = counter.pointee.wrappingAdd(1, ordering: .relaxed).newValue
        let isDelegatedTick = count & (Self.timedDelegatedEvery - 1) == 0
        guard isAutomatic else { return Way(isDelegated: true, isTimed: isDelegatedTick) }
        let isDirectTick = count & (Self.ticksEvery - 1) == 0 && tick()
        if burst.load(ordering: .relaxed) != 0, let trial = takeTrial() { return trial }
        if isDelegationPreferred.load(ordering: .relaxed) { return Way(isDelegated: true, isTimed: isDelegatedTick) }
        return Way(isDelegated: false, isTimed: isDirectTick)
    }

    /// Counts reads, and begins a burst when one is due.
    ///
    /// - Returns: whether a direct read is to be timed.
    @inline(never)
    private func tick() -> Bool {
        let now = reads.wrappingAdd(Self.ticksEvery, ordering: .relaxed).newValue
        let due = nextBurst.load(ordering: .relaxed)
        guard now >= due, nextBurst.compareExchange(expected: due, desired: .max, ordering: .relaxed).exchanged else {
            return now & (Self.timedEvery - 1) == 0
        }
        burstCost.store(0, ordering: .relaxed)
        if directNanoseconds == 0 {
            begin(isDelegated: false, reads: Self.firstDirectReads, warmUp: Self.firstDirectReads / 2)
        } else if isDelegationPreferred.load(ordering: .relaxed) {
            begin(isDelegated: false, reads: Self.directReads, warmUp: Self.directReads / 4)
        } else {
            begin(isDelegated: true, reads: Self.burstReads, warmUp: Self.burstReads / 2)
        }
        return false
    }

    private func begin(isDelegated: Bool, reads: UInt64, warmUp: UInt64) {
        _ = burstSamples.take(atLeast: 1)
        burstLeast.store(.max, ordering: .relaxed)
        _ = burstGroup.take(atLeast: 1)
        burstLength.store(reads, ordering: .relaxed)
        burstWarmUp.store(warmUp, ordering: .relaxed)
        burst.store((isDelegated ? Self.delegates : 0) | reads, ordering: .releasing)
    }

    @inline(never)
    private func takeTrial() -> Way? {
        var found = burst.load(ordering: .acquiring)
        while found & (Self.delegates - 1) != 0 {
            let left = found & (Self.delegates - 1)
            let cost = burstCost.load(ordering: .relaxed)
            let isDear = cost > Self.mostBurstNanoseconds
            let isLast = left == 1 || isDear
            let (exchanged, other) = burst.compareExchange(
                expected: found, desired: isLast ? 0 : found - 1, ordering: .acquiringAndReleasing)
            if exchanged {
                trialCount.wrappingAdd(1, ordering: .relaxed)
                let isWarmUp = burstLength.load(ordering: .relaxed) - left < burstWarmUp.load(ordering: .relaxed)
                    && cost < Self.mostBurstNanoseconds / 2
                let isDelegated = found & Self.delegates != 0
                if isLast { judge(isDelegated, isDear: isDear) }
                return Way(isDelegated: isDelegated, isTimed: true, isTrial: true, isWarmUp: isWarmUp || isLast)
            }
            found = other
        }
        return nil
    }

    /// The end of a burst. Called by one thread at a time: the one that took its last trial.
    private func judge(_ isDelegated: Bool, isDear: Bool) {
        guard let mean = burstSamples.take(atLeast: isDear ? 1 : Self.leastSamples) else {
            // Nobody serves, or there was nothing to ask about.
            return plan(after: burstCost.load(ordering: .relaxed))
        }
        let length = burstLength.load(ordering: .relaxed)
        (isDelegated ? delegated : direct).value.store(mean, ordering: .relaxed)
        let (asking, looking) = (delegatedNanoseconds, directNanoseconds)
        if asking == 0 { return begin(isDelegated: true, reads: Self.burstReads, warmUp: Self.burstReads / 2) }
        let isAffordable = burstCost.load(ordering: .relaxed) < Self.mostBurstNanoseconds
        let isHopeful = burstLeast.load(ordering: .relaxed) < looking
        if isAffordable, isDelegated, looking <= asking, isHopeful, length < Self.mostBurstReads {
            return begin(isDelegated: true, reads: 2 * length, warmUp: length)
        }
        // What is close is looked at twice.
        if isAffordable, !isDelegated, looking < asking + asking / 4, length < Self.mostDirectReads {
            return begin(isDelegated: false, reads: 2 * length, warmUp: 0)
        }
        let isPreferred = asking < looking
        if isDelegationPreferred.exchange(isPreferred, ordering: .relaxed) != isPreferred {
            agreements.store(3, ordering: .relaxed)
        } else if agreements.load(ordering: .relaxed) < Self.mostAgreements {
            agreements.wrappingAdd(1, ordering: .relaxed)
        }
        plan(after: burstCost.load(ordering: .relaxed))
    }

    /// Puts the next burst so far away that one of the cost given is a small share of the time until then.
    private func plan(after cost: UInt64) {
        let read = max(1, prefersDelegation ? delegatedNanoseconds : directNanoseconds)
        func interval(_ share: UInt64) -> UInt64 { min(max(Self.leastInterval, share * cost / read), Self.mostInterval) }
        let now = reads.load(ordering: .relaxed)
        earliestBurst.store(now + interval(Self.costShare), ordering: .relaxed)
        nextBurst.store(now + interval(Self.firstShare << agreements.load(ordering: .relaxed)), ordering: .relaxed)
    }

    /// Reports what a read cost that was to be timed.
    func record(_ nanoseconds: UInt64, _ way: Way) {
        let known = max(directNanoseconds, delegatedNanoseconds)
        let sample = known > 0 ? min(nanoseconds, Self.mostOfKnown * known) : nanoseconds
        if way.isTrial {
            burstCost.wrappingAdd(nanoseconds, ordering: .relaxed)
            if burstGroup.add(nanoseconds) >= Self.groupSamples, let mean = burstGroup.take(atLeast: 1),
                mean < burstLeast.load(ordering: .relaxed)
            {
                burstLeast.store(mean, ordering: .relaxed)
            }
            if !way.isWarmUp { _ = burstSamples.add(sample) }
            return
        }
        guard (way.isDelegated ? delegated : direct).add(sample), isAutomatic else { return }
        let (chosen, other) = way.isDelegated ? (delegated, direct) : (direct, delegated)
        let (dear, cheap) = (chosen.value.load(ordering: .relaxed), other.value.load(ordering: .relaxed))
        let due = nextBurst.load(ordering: .relaxed)
        let early = earliestBurst.load(ordering: .relaxed)
        if cheap > 0, dear > cheap, due != .max, early < due {
            _ = nextBurst.compareExchange(expected: due, desired: early, ordering: .relaxed)
        }
    }
}
