/// A cursor over a memtable: its shards, one after the other.
final class MemtableIterator: InternalIterator {
    private let map: ShardMap
    private let owner: Memtable
    private var cursors: [ShardIterator?]
    private var position = 0
    private var current: ShardIterator?
    /// The block of far memory that was read last, see `payForStep`.
    private var block = UInt64.max

    init(map: ShardMap, owner: Memtable) {
        self.map = map
        self.owner = owner
        cursors = Array(repeating: nil, count: map.shards.count)
    }

    override var isValid: Bool { current?.isValid ?? false }
    override var userKey: UnsafeRawBufferPointer { current?.userKey ?? super.userKey }
    override var trailer: Trailer { current?.trailer ?? .last }
    override var value: UnsafeRawBufferPointer { current?.value ?? super.value }

    override func seekToFirst() throws(EngineError) {
        // The head, and the entry.
        owner.fabric?.roundTrips(1)
        try cursor(0).seekToFirst()
        try skipForward()
        if owner.fabric != nil { payForStep() }
    }
    override func seekToLast() throws(EngineError) {
        owner.fabric?.roundTrips(RegionLayout.Entry.maximumHeight)
        try cursor(map.shards.count - 1).seekToLast()
        try skipBackward()
        if owner.fabric != nil { payForStep() }
    }
    override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        if owner.fabric != nil { owner.payForSearch(userKey, trailer) }
        try cursor(map.route(userKey)).seek(userKey, trailer)
        if owner.fabric != nil { block = currentBlock }
        try skipForward()
        if owner.fabric != nil { payForStep() }
    }
    override func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        if owner.fabric != nil { owner.payForSearch(userKey, trailer) }
        try cursor(map.route(userKey)).seekBefore(userKey, trailer)
        if owner.fabric != nil { block = currentBlock }
        try skipBackward()
        if owner.fabric != nil { payForStep() }
    }
    override func next() throws(EngineError) {
        try current?.next()
        try skipForward()
        if owner.fabric != nil { payForStep() }
    }
    override func previous() throws(EngineError) {
        if owner.fabric != nil, isValid { owner.payForSearch(userKey, trailer) }
        try current?.previous()
        if owner.fabric != nil { block = currentBlock }
        try skipBackward()
        if owner.fabric != nil { payForStep() }
    }

    /// Where the entry under the cursor begins: its shard and the number of its block there.
    private var currentBlock: UInt64 {
        guard let current, current.isValid else { return .max }
        return UInt64(position) << 32 | UInt64(Int(current.entryOffset) / FabricDistance.blockBytes)
    }

    /// Waits for the entry under the cursor to come from far memory, unless it came with the one before it: a round
    /// trip brings a block.
    @inline(never)
    private func payForStep() {
        let block = currentBlock
        guard block != .max, block != self.block else { return }
        self.block = block
        owner.fabric?.roundTrips(1)
    }

    private func cursor(_ index: Int) -> ShardIterator {
        position = index
        let cursor = cursors[index] ?? ShardIterator(map.shards[index], owner: owner)
        cursors[index] = cursor
        current = cursor
        return cursor
    }
    private func skipForward() throws(EngineError) {
        while !isValid, position + 1 < map.shards.count { try cursor(position + 1).seekToFirst() }
    }
    private func skipBackward() throws(EngineError) {
        while !isValid, position > 0 { try cursor(position - 1).seekToLast() }
    }
}
