import Synchronization

/// Chooses between reading directly and asking a server, by running estimates of what both cost. One for each kind and class
/// of read. Thread-safe; what threads lose to each other are samples.
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
///
/// Where the offset cache knows a place, the direct way is to read by it. Passing it by, with a walk, is the third way: one of
/// eight timed direct reads tries it, without bursts, since there is nothing to wake.
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
        /// Whether places that the offset cache knows are passed by.
        var isWalk = false
    }

    /// The ways as statistics name them.
    enum Preference: String { case direct, cached, delegated }

    private let isAutomatic: Bool
    private let hasPlace: Bool
    /// Trials left in this burst, whether it delegates, and what is preferred: `Mark`. In memory that outlives this object.
    private let word: UnsafeMutablePointer<Atomic<UInt64>>
    private let isWordOwned: Bool
    private let direct = Estimate()
    private let delegated = Estimate()
    private let walk = Estimate()
    /// Reads so far, and at how many of them the next burst begins.
    private let reads = Atomic<UInt64>(0)
    private let delegatedReads = Atomic<UInt64>(0)
    private let walks = Atomic<UInt64>(0)
    private let nextBurst = Atomic<UInt64>(0)
    /// Reads that have passed by this burst since one was part of it.
    private let passed = Atomic<UInt64>(0)
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

    /// Bits of the word.
    private enum Mark {
        static let trials: UInt64 = 1 << 32 - 1
        static let isBurstDelegated: UInt64 = 1 << 32
        static let burst = trials | isBurstDelegated
        static let prefersDelegation: UInt64 = 1 << 33
        static let prefersWalk: UInt64 = 1 << 34
    }

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

        /// Adds a sample of the chosen way; true when the value has changed, once for `block` of them.
        func add(_ nanoseconds: UInt64, block: UInt64 = blockSamples) -> Bool {
            guard samples.add(nanoseconds) >= block, let mean = samples.take(atLeast: block) else { return false }
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
    /// A burst that so many reads have passed by ends.
    private static let mostPassed: UInt64 = 4096
    private static let looksEvery: UInt64 = 64
    private static let timedEvery: UInt64 = 512
    private static let timedDelegatedEvery: UInt64 = 8
    private static let walkEveryTimed: UInt64 = 8
    private static let walkSamples: UInt64 = 8

    /// - Parameters:
    ///   - isAutomatic: false chooses to delegate always.
    ///   - hasPlace: whether the reads are of keys whose place the offset cache knows.
    ///   - word: memory for what it has come to, zero, which outlives it; nil: its own.
    init(isAutomatic: Bool, hasPlace: Bool = false, word: UnsafeMutablePointer<Atomic<UInt64>>? = nil) {
        self.isAutomatic = isAutomatic
        self.hasPlace = hasPlace
        isWordOwned = word == nil
        self.word = word ?? .allocate(capacity: 1)
        self.word.initialize(to: Atomic(isAutomatic ? 0 : Mark.prefersDelegation))
    }

    deinit { if isWordOwned { word.deallocate() } }

    /// Estimates; 0: not known.
    var directNanoseconds: UInt64 { direct.value.load(ordering: .relaxed) }
    var delegatedNanoseconds: UInt64 { delegated.value.load(ordering: .relaxed) }

    /// Reads that were made to try a way.
    var trials: UInt64 { trialCount.load(ordering: .relaxed) }

    /// Estimates of reading by a place that the cache knows, and of a walk; 0: not known, or no such read.
    var placeNanoseconds: UInt64 { hasPlace ? directNanoseconds : 0 }
    var walkNanoseconds: UInt64 { hasPlace ? walk.value.load(ordering: .relaxed) : directNanoseconds }

    /// Whether asking is known to be the faster way.
    var prefersDelegation: Bool { word.pointee.load(ordering: .relaxed) & Mark.prefersDelegation != 0 }

    var preference: Preference {
        if prefersDelegation { return .delegated }
        return hasPlace && word.pointee.load(ordering: .relaxed) & Mark.prefersWalk == 0 ? .cached : .direct
    }

    /// Reads by the way that was chosen for them.
    var counts: (direct: UInt64, cached: UInt64, delegated: UInt64) {
        let (asked, walked) = (delegatedReads.load(ordering: .relaxed), walks.load(ordering: .relaxed))
        let all = reads.load(ordering: .relaxed)
        let looked = all - min(all, asked)
        return hasPlace ? (walked, looked - min(looked, walked), asked) : (looked, 0, asked)
    }

    /// How to do the next read.
    ///
    /// - Parameters:
    ///   - count: reads for which this one stands, itself among them: the others went the direct way unasked.
    ///   - isServed: false when there is nobody to ask.
    func way(standingFor count: UInt64 = 1, isServed: Bool = true) -> Way {
        let before = reads.wrappingAdd(count, ordering: .relaxed).oldValue
        guard isServed else { return Way(isDelegated: false, isTimed: false) }
        func passes(_ step: UInt64) -> Bool { before / step != (before &+ count) / step }
        if isAutomatic, before == 0 || passes(Self.looksEvery) { beginIfDue(before &+ count) }
        let found = word.pointee.load(ordering: .relaxed)
        if found & Mark.trials != 0, let trial = takeTrial() { return trial }
        if found & Mark.prefersDelegation != 0 {
            delegatedReads.wrappingAdd(1, ordering: .relaxed)
            return Way(isDelegated: true, isTimed: passes(Self.timedDelegatedEvery))
        }
        var way = Way(isDelegated: false, isTimed: passes(Self.timedEvery))
        guard hasPlace else { return way }
        let isOther = way.isTimed && (before / Self.timedEvery) % Self.walkEveryTimed == 0
        way.isWalk = isOther != (found & Mark.prefersWalk != 0)
        if way.isWalk { walks.wrappingAdd(1, ordering: .relaxed) }
        return way
    }

    /// Counts a read that had no use for the burst, if there is one.
    func passBy() {
        guard word.pointee.load(ordering: .relaxed) & Mark.trials != 0,
            passed.wrappingAdd(1, ordering: .relaxed).newValue > Self.mostPassed
        else { return }
        let before = word.pointee.bitwiseAnd(~Mark.burst, ordering: .acquiringAndReleasing).oldValue
        if before & Mark.trials != 0 { plan(after: burstCost.load(ordering: .relaxed)) }
    }

    /// Begins a burst when it is time.
    @inline(never)
    private func beginIfDue(_ now: UInt64) {
        let due = nextBurst.load(ordering: .relaxed)
        guard now >= due, nextBurst.compareExchange(expected: due, desired: .max, ordering: .relaxed).exchanged else { return }
        burstCost.store(0, ordering: .relaxed)
        if directNanoseconds == 0 {
            begin(isDelegated: false, reads: Self.firstDirectReads, warmUp: Self.firstDirectReads / 2)
        } else if prefersDelegation {
            begin(isDelegated: false, reads: Self.directReads, warmUp: Self.directReads / 4)
        } else {
            begin(isDelegated: true, reads: Self.burstReads, warmUp: Self.burstReads / 2)
        }
    }

    private func begin(isDelegated: Bool, reads: UInt64, warmUp: UInt64) {
        _ = burstSamples.take(atLeast: 1)
        burstLeast.store(.max, ordering: .relaxed)
        _ = burstGroup.take(atLeast: 1)
        burstLength.store(reads, ordering: .relaxed)
        burstWarmUp.store(warmUp, ordering: .relaxed)
        passed.store(0, ordering: .relaxed)
        word.pointee.bitwiseOr((isDelegated ? Mark.isBurstDelegated : 0) | reads, ordering: .releasing)
    }

    @inline(never)
    private func takeTrial() -> Way? {
        var found = word.pointee.load(ordering: .acquiring)
        while found & Mark.trials != 0 {
            let left = found & Mark.trials
            let cost = burstCost.load(ordering: .relaxed)
            let isDear = cost > Self.mostBurstNanoseconds
            let isLast = left == 1 || isDear
            let (exchanged, other) = word.pointee.compareExchange(
                expected: found, desired: isLast ? found & ~Mark.burst : found - 1, ordering: .acquiringAndReleasing)
            if exchanged {
                trialCount.wrappingAdd(1, ordering: .relaxed)
                passed.store(0, ordering: .relaxed)
                let isWarmUp = burstLength.load(ordering: .relaxed) &- left < burstWarmUp.load(ordering: .relaxed)
                    && cost < Self.mostBurstNanoseconds / 2
                let isDelegated = found & Mark.isBurstDelegated != 0
                if isDelegated { delegatedReads.wrappingAdd(1, ordering: .relaxed) }
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
        let (asking, walking) = (delegatedNanoseconds, walk.value.load(ordering: .relaxed))
        let looking = walking > 0 ? min(walking, directNanoseconds) : directNanoseconds
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
        if prefersDelegation != isPreferred {
            setMark(Mark.prefersDelegation, isPreferred)
            agreements.store(3, ordering: .relaxed)
        } else if agreements.load(ordering: .relaxed) < Self.mostAgreements {
            agreements.wrappingAdd(1, ordering: .relaxed)
        }
        plan(after: burstCost.load(ordering: .relaxed))
    }

    private func setMark(_ mark: UInt64, _ isSet: Bool) {
        if isSet {
            word.pointee.bitwiseOr(mark, ordering: .relaxed)
        } else {
            word.pointee.bitwiseAnd(~mark, ordering: .relaxed)
        }
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
        if way.isWalk {
            guard walk.add(sample, block: Self.walkSamples) else { return }
            setMark(Mark.prefersWalk, walk.value.load(ordering: .relaxed) < directNanoseconds)
            return
        }
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
