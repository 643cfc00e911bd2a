/// Which flushes are handed out when, and which memtables are flushed together. Pure decisions, made by the control
/// plane for `FlushScheduler`.
enum FlushSchedule {
    /// A flush that nobody has been offered.
    struct Candidate: Equatable {
        /// 0 for the memtables that are committed first. Only commits free memory, and they go in this order.
        var age: Int
        /// Bytes of the shards.
        var bytes: Int
        /// Tables of L0 that overlap the range.
        var level0Depth: Int
        /// Where the caller finds it.
        var index: Int
    }

    /// What executors, memory and L0 are like.
    struct Situation {
        /// Flushes that live nodes can execute at once.
        var slots: Int
        /// Share of DM in use, 0 … 1.
        var occupancy: Double
        /// Greatest number of L0 tables over one key, and how many start a compaction.
        var level0Depth: Int
        var level0Trigger: Int

        /// Writers are slowed, and what frees memory soonest is best.
        var isMemoryScarce: Bool { occupancy >= 0.6 }
    }

    /// Share of a memtable that a merge must be likely to save.
    private static let worthwhileSaving = 0.125
    private static let sampledKeys = 256

    /// How many flushes may be offered or executed at a time: as many as nodes can take, and as many again that wait,
    /// so that no node runs dry. What is not offered yet can still be put in another order, or merged.
    static func window(_ situation: Situation) -> Int { 2 * max(situation.slots, 1) }

    /// The order in which to offer flushes: the oldest memtables first. Of one memtable those first over whose range L0
    /// is not deep (reads of the others suffer most from one table more), unless memory is scarce; then the largest
    /// first, for the longest of a memtable's flushes decides when it is committed.
    static func order(_ candidates: [Candidate], _ situation: Situation) -> [Candidate] {
        let minds = !situation.isMemoryScarce
        func rank(_ candidate: Candidate) -> (Int, Int, Int, Int) {
            let isDeep = minds && candidate.level0Depth >= situation.level0Trigger
            return (candidate.age, isDeep ? 1 : 0, -candidate.bytes, candidate.index)
        }
        return candidates.sorted { rank($0) < rank($1) }
    }

    /// How many of the memtables that wait are flushed as one: the oldest, and those after it for as long as a merge
    /// saves writes, or keeps a deep L0 from growing.
    ///
    /// - Parameter waiting: sealed, oldest first; they are in one place, DM or private memory.
    /// - Returns: at least 1.
    static func mergeCount(_ waiting: [Memtable], _ situation: Situation) -> Int {
        // One table for several memtables is written, and frees their memory, later than the first of several would be.
        let most = situation.isMemoryScarce ? 2 : FlushDescriptor.maximumSources
        var count = 1
        while count < min(waiting.count, most) {
            guard haveSameShards(waiting[0], waiting[count]),
                situation.level0Depth >= situation.level0Trigger
                    || saving(waiting[0..<count], waiting[count]) >= worthwhileSaving
            else { break }
            count += 1
        }
        return count
    }

    /// Boundaries stay as they are while shards are balanced (`ShardBoundaries`): mostly they agree.
    private static func haveSameShards(_ left: Memtable, _ right: Memtable) -> Bool {
        left.isInDM == right.isInDM && left.map.shards.map(\.lowerBound) == right.map.shards.map(\.lowerBound)
    }

    /// The share of a memtable's entries that hide, or repeat, one of the older memtables; 1 when it deletes ranges.
    static func saving(_ older: ArraySlice<Memtable>, _ newer: Memtable) -> Double {
        if !newer.tombstones.isEmpty { return 1 }
        let sample = ShardBoundaries.sample(newer.map.shards.filter { !$0.isEmpty })
        guard !sample.isEmpty else { return 0 }
        // Spread over all shards; strides of a key-ordered sample are as random as the keys.
        let step = max(1, sample.count / sampledKeys)
        var looked = 0
        var found = 0
        for index in stride(from: 0, to: sample.count, by: step) {
            let hash = sample[index].key.withUnsafeBytes { hashKey($0) }
            looked += 1
            if older.contains(where: { $0.filter.mayContain(hash) }) { found += 1 }
        }
        return Double(found) / Double(looked)
    }
}
