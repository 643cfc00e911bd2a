/// A cursor over the point entries of one table. One thread; keeps the table and its block alive.
///
/// One thread uses it, and no call of it leads back into it. Hence its properties need no exclusivity
/// checks at run time, of which a step through a block would make several.
final class TableIterator: InternalIterator {
    private let table: Table
    private let fillCache: Bool
    @exclusivity(unchecked) private var index = IndexCursor()
    @exclusivity(unchecked) private var data = BlockCursor()
    @exclusivity(unchecked) private var readAhead: ReadAhead

    init(_ table: Table, fillCache: Bool, readAhead: Int) {
        self.table = table
        self.fillCache = fillCache
        self.readAhead = ReadAhead(initial: readAhead)
    }

    override var isValid: Bool { data.isValid }
    override var userKey: UnsafeRawBufferPointer { data.userKey }
    override var trailer: Trailer { data.trailer }
    override var value: UnsafeRawBufferPointer { data.value }

    override func seekToFirst() throws(EngineError) {
        data.invalidate()
        try index.seekToFirst(in: table, fillCache: fillCache)
        guard try openBlock() else { return }
        try data.seekToFirst()
        try skipForward()
    }

    override func seekToLast() throws(EngineError) {
        data.invalidate()
        try index.seekToLast(in: table, fillCache: fillCache)
        guard try openBlock() else { return }
        try data.seekToLast()
        try skipBackward()
    }

    override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        data.invalidate()
        try index.seek(userKey, trailer, in: table, fillCache: fillCache)
        guard try openBlock() else { return }
        try data.seek(userKey, trailer)
        try skipForward()
    }

    override func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        data.invalidate()
        try index.seek(userKey, trailer, in: table, fillCache: fillCache)
        guard index.isValid else { return try seekToLast() }
        guard try openBlock() else { return }
        try data.seekBefore(userKey, trailer)
        try skipBackward()
    }

    override func next() throws(EngineError) {
        guard data.isValid else { return }
        try data.next()
        if !data.isValid { try skipForward() }
    }

    override func previous() throws(EngineError) {
        guard data.isValid else { return }
        try data.previous()
        if !data.isValid { try skipBackward() }
    }

    override func skip(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        guard data.isValid, table.properties.largestSequence <= sequence, compareKeys(data.userKey, userKey) < 0
        else { return }
        try seek(userKey, .first)
    }

    override func skipBack(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        guard data.isValid, table.properties.largestSequence <= sequence, compareKeys(data.userKey, userKey) >= 0
        else { return }
        try seekBefore(userKey, .first)
    }

    /// To the first entry of the next block, while the current one has none left.
    private func skipForward() throws(EngineError) {
        while !data.isValid, index.isValid {
            try index.next(in: table, fillCache: fillCache)
            if try openBlock() { try data.seekToFirst() }
        }
    }

    /// To the last entry of the previous block, while the current one has none left.
    private func skipBackward() throws(EngineError) {
        while !data.isValid, index.isValid {
            try index.previous(in: table, fillCache: fillCache)
            if try openBlock() { try data.seekToLast() }
        }
    }

    /// Takes the block that the index names into `data`; false when the index is not valid.
    private func openBlock() throws(EngineError) -> Bool {
        data.invalidate()
        guard index.isValid else { return false }
        let handle = try index.handle(in: table)
        if data.block?.fileOffset != handle.offset { data.reset(try read(handle)) }
        readAhead.visit(handle)
        return true
    }

    private func read(_ handle: BlockHandle) throws(EngineError) -> Block {
        if let cached = try table.cached(handle, .entries, touch: fillCache) { return cached }
        let stored = try readAhead.stored(handle, in: table.file, dataEnd: table.properties.dataEnd)
        let block =
            if let stored {
                try BlockDecoder.decode(stored, handle, kind: .entries, file: table.file.path)
            } else {
                try table.readBlock(handle, .entries)
            }
        return fillCache ? table.store(block, handle) : block
    }
}
