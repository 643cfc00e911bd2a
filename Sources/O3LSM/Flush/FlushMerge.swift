/// The entries of shards of one key range, of one memtable or of several, in key order and each key's newest first.
///
/// Few are merged at once, so that a look at each of them is cheaper than a heap. One thread.
struct FlushMerge {
    private let shards: [Shard]
    private let iterators: [ShardIterator]
    private var position: Int

    /// - Parameter sources: with the memtables that keep their slabs.
    /// - Throws: `.corruption` of what is in DM.
    init(_ sources: [(shard: Shard, memtable: Memtable)]) throws(EngineError) {
        shards = sources.map(\.shard)
        iterators = sources.map { ShardIterator($0.shard, owner: $0.memtable) }
        position = 0
        for iterator in iterators { try iterator.seekToFirst() }
        position = smallest()
    }

    /// The current entry, its checksum verified; nil at the end.
    func entry() throws(EngineError) -> EntryView? {
        let iterator = iterators[position]
        guard let entry = iterator.entry else { return nil }
        let room = RegionLayout.slabBytes - Int(iterator.entryOffset) % RegionLayout.slabBytes
        guard entry.isIntact(room: room) else {
            throw shards[position].corruption(
                at: iterator.entryOffset, "an entry with an intact checksum", "other bytes")
        }
        return entry
    }

    mutating func next() throws(EngineError) {
        try iterators[position].next()
        if iterators.count > 1 { position = smallest() }
    }

    private func smallest() -> Int {
        var best = 0
        for candidate in 1..<max(iterators.count, 1) {
            guard let entry = iterators[candidate].entry else { continue }
            if let found = iterators[best].entry,
                compareInternal(found.key, found.trailer, entry.key, entry.trailer) <= 0
            {
                continue
            }
            best = candidate
        }
        return best
    }
}
