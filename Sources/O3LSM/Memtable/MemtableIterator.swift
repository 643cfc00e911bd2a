/// A cursor over a memtable: its shards, one after the other.
final class MemtableIterator: InternalIterator {
    private let map: ShardMap
    private let owner: Memtable
    @exclusivity(unchecked) private var cursors: [ShardIterator?]
    @exclusivity(unchecked) private var position = 0
    /// One of `cursors`, which keep it alive: used without counting.
    @exclusivity(unchecked) private var reference: Unmanaged<ShardIterator>?
    private let isFar: Bool
    /// The block of far memory that was read last, see `payForStep`.
    @exclusivity(unchecked) private var block = UInt64.max

    init(map: ShardMap, owner: Memtable) {
        self.map = map
        self.owner = owner
        cursors = Array(repeating: nil, count: map.shards.count)
        isFar = owner.fabric != nil
    }

    override var isValid: Bool { reference?._withUnsafeGuaranteedRef { $0.isValid } ?? false }
    override var userKey: UnsafeRawBufferPointer { reference?._withUnsafeGuaranteedRef { $0.userKey } ?? super.userKey }
    override var trailer: Trailer { reference?._withUnsafeGuaranteedRef { $0.trailer } ?? .last }
    override var value: UnsafeRawBufferPointer { reference?._withUnsafeGuaranteedRef { $0.value } ?? super.value }

    override func seekToFirst() throws(EngineError) {
        // The head, and the entry.
        owner.fabric?.roundTrips(1)
        try cursor(0).seekToFirst()
        try skipForward()
        if isFar { payForStep() }
    }
    override func seekToLast() throws(EngineError) {
        owner.fabric?.roundTrips(RegionLayout.Entry.maximumHeight)
        try cursor(map.shards.count - 1).seekToLast()
        try skipBackward()
        if isFar { payForStep() }
    }
    override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        if isFar { owner.payForSearch(userKey, trailer) }
        try cursor(map.route(userKey)).seek(userKey, trailer)
        if isFar { block = currentBlock }
        try skipForward()
        if isFar { payForStep() }
    }
    override func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        if isFar { owner.payForSearch(userKey, trailer) }
        try cursor(map.route(userKey)).seekBefore(userKey, trailer)
        if isFar { block = currentBlock }
        try skipBackward()
        if isFar { payForStep() }
    }
    override func next() throws(EngineError) {
        try move { (cursor) throws(EngineError) in try cursor.next() }
        if !isValid { try skipForward() }
        if isFar { payForStep() }
    }
    override func previous() throws(EngineError) {
        if isFar, isValid { owner.payForSearch(userKey, trailer) }
        try move { (cursor) throws(EngineError) in try cursor.previous() }
        if isFar { block = currentBlock }
        try skipBackward()
        if isFar { payForStep() }
    }

    // Shard by shard: those in between are passed over, unless they hold something newer.
    override func skip(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        while isValid, isOld(position, sequence), compareKeys(self.userKey, userKey) < 0 {
            let last = map.route(userKey)
            var place = position
            while place < last, isOld(place, sequence) { place += 1 }
            if isFar { owner.payForSearch(userKey, .first) }
            if isOld(place, sequence) {
                try cursor(place).seek(userKey, .first)
            } else {
                try cursor(place).seekToFirst()
            }
            try skipForward()
            if isFar { payForStep() }
        }
    }
    override func skipBack(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        while isValid, isOld(position, sequence), compareKeys(self.userKey, userKey) >= 0 {
            let first = map.route(userKey)
            var place = position
            while place > first, isOld(place, sequence) { place -= 1 }
            if isFar { owner.payForSearch(userKey, .first) }
            if isOld(place, sequence) {
                try cursor(place).seekBefore(userKey, .first)
            } else {
                try cursor(place).seekToLast()
            }
            try skipBackward()
            if isFar { payForStep() }
        }
    }

    /// Whether no entry of a shard that a reader may ever see beside a range tombstone of `sequence` is newer than it. The
    /// reader has seen the tombstone: whatever is reserved from now on is newer than all that the reader may see.
    private func isOld(_ place: Int, _ sequence: SequenceNumber) -> Bool {
        // 0 while it is written to.
        let last = owner.lastSequence
        return last > 0 && last <= sequence || map.shards[place].newestSequence <= sequence
    }

    /// Where the entry under the cursor begins: its shard and the number of its block there.
    private var currentBlock: UInt64 {
        let offset = reference?._withUnsafeGuaranteedRef { $0.isValid ? Int($0.entryOffset) : nil } ?? nil
        guard let offset else { return .max }
        return UInt64(position) << 32 | UInt64(offset / FabricDistance.blockBytes)
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

    @inline(__always)
    private func move(_ body: (ShardIterator) throws(EngineError) -> Void) throws(EngineError) {
        var failure: EngineError?
        reference?._withUnsafeGuaranteedRef { cursor in
            do throws(EngineError) { try body(cursor) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    private func cursor(_ index: Int) -> ShardIterator {
        position = index
        let cursor = cursors[index] ?? ShardIterator(map.shards[index], owner: owner)
        cursors[index] = cursor
        reference = .passUnretained(cursor)
        return cursor
    }
    private func skipForward() throws(EngineError) {
        while !isValid, position + 1 < map.shards.count { try cursor(position + 1).seekToFirst() }
    }
    private func skipBackward() throws(EngineError) {
        while !isValid, position > 0 { try cursor(position - 1).seekToLast() }
    }
}
