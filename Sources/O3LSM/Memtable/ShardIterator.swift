/// A cursor over the index of one shard. `owner` keeps the memtable's slabs alive. Belongs to one thread, and is never
/// entered twice: hence no exclusivity checks at run time.
final class ShardIterator: InternalIterator {
    private let shard: Shard
    private let owner: AnyObject
    @exclusivity(unchecked) private var node: UInt32 = 0
    @exclusivity(unchecked) private var view: EntryView?

    init(_ shard: Shard, owner: AnyObject) {
        self.shard = shard
        self.owner = owner
    }

    override var isValid: Bool { view != nil }
    override var userKey: UnsafeRawBufferPointer { view?.key ?? super.userKey }
    override var trailer: Trailer { view?.trailer ?? .last }
    override var value: UnsafeRawBufferPointer { view?.value ?? super.value }

    /// The checked entry under the cursor, for those who also verify its checksum.
    var entry: EntryView? { view }
    var entryOffset: UInt32 { node }

    override func seekToFirst() throws(EngineError) { try move(to: shard.isEmpty ? 0 : shard.successor(0, 0)) }
    override func seekToLast() throws(EngineError) { try move(to: shard.findLast()) }
    override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        try move(to: shard.findAtOrAfter(userKey, trailer))
    }
    override func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        try move(to: shard.findBefore(userKey, trailer))
    }
    override func next() throws(EngineError) {
        guard let previous = view else { return }
        try move(to: shard.successor(node, 0))
        // Entries lie in the order in which they were written: the one after this one is wanted from memory soon.
        if view != nil { shard.prefetch(shard.successor(node, 0)) }
        // Damaged links must not lead a scan, or a flush, round in circles.
        if let view, compareInternal(previous.key, previous.trailer, view.key, view.trailer) >= 0 {
            self.view = nil
            throw shard.corruption(at: node, "an entry after the one before it", "one that is not")
        }
    }
    override func previous() throws(EngineError) {
        guard let view else { return }
        try move(to: shard.findBefore(view.key, view.trailer))
    }

    @inline(__always)
    private func move(to target: UInt32) throws(EngineError) {
        node = target
        view = target == 0 ? nil : shard.entryWithValue(target)
        if view == nil, let error = shard.corruptionMet { throw error }
    }
}
