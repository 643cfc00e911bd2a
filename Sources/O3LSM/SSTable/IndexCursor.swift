/// A cursor over the data blocks of a table in key order, through one or two levels of index.
/// Not thread-safe. After a throw it is not valid. The table is passed to each call, so that the
/// iterator that owns both does not refer to it twice.
struct IndexCursor: ~Copyable {
    private var top = BlockCursor()
    /// Only with two levels: the cursor in the lower index block that `top` names.
    private var leaf = BlockCursor()
    private var isTwoLevel = false

    init() {}

    var isValid: Bool { borrowing get { isTwoLevel ? leaf.isValid : top.isValid } }

    /// Where the current data block lies. The cursor is valid.
    borrowing func handle(in table: Table) throws(EngineError) -> BlockHandle {
        try table.handle(isTwoLevel ? leaf.value : top.value, within: table.properties.dataEnd)
    }

    /// To the block that would hold the first entry at or after the target.
    mutating func seek(
        _ key: UnsafeRawBufferPointer,
        _ trailer: Trailer,
        in table: Table,
        fillCache: Bool
    ) throws(EngineError) {
        guard try open(table, fillCache) else { return }
        try top.seek(key, trailer)
        guard isTwoLevel, try openLeaf(table, fillCache) else { return }
        try leaf.seek(key, trailer)
        if !leaf.isValid { try skipForward(table, fillCache) }
    }

    mutating func seekToFirst(in table: Table, fillCache: Bool) throws(EngineError) {
        guard try open(table, fillCache) else { return }
        try top.seekToFirst()
        guard isTwoLevel, try openLeaf(table, fillCache) else { return }
        try leaf.seekToFirst()
        if !leaf.isValid { try skipForward(table, fillCache) }
    }

    mutating func seekToLast(in table: Table, fillCache: Bool) throws(EngineError) {
        guard try open(table, fillCache) else { return }
        try top.seekToLast()
        guard isTwoLevel, try openLeaf(table, fillCache) else { return }
        try leaf.seekToLast()
        if !leaf.isValid { try skipBackward(table, fillCache) }
    }

    /// The cursor is valid before.
    mutating func next(in table: Table, fillCache: Bool) throws(EngineError) {
        guard isTwoLevel else { return try top.next() }
        try leaf.next()
        if !leaf.isValid { try skipForward(table, fillCache) }
    }

    /// The cursor is valid before.
    mutating func previous(in table: Table, fillCache: Bool) throws(EngineError) {
        guard isTwoLevel else { return try top.previous() }
        try leaf.previous()
        if !leaf.isValid { try skipBackward(table, fillCache) }
    }

    private mutating func skipForward(_ table: Table, _ fillCache: Bool) throws(EngineError) {
        while top.isValid, !leaf.isValid {
            try top.next()
            if try openLeaf(table, fillCache) { try leaf.seekToFirst() }
        }
    }

    private mutating func skipBackward(_ table: Table, _ fillCache: Bool) throws(EngineError) {
        while top.isValid, !leaf.isValid {
            try top.previous()
            if try openLeaf(table, fillCache) { try leaf.seekToLast() }
        }
    }

    /// False: the table has no data.
    private mutating func open(_ table: Table, _ fillCache: Bool) throws(EngineError) -> Bool {
        leaf.invalidate()
        top.invalidate()
        guard table.footer.indexLevels > 0 else { return false }
        isTwoLevel = table.footer.indexLevels == 2
        if top.block == nil { top.reset(try table.indexBlock(fillCache: fillCache)) }
        return true
    }

    /// Takes the block that `top` names into `leaf`; false, and no leaf, when `top` is not valid.
    private mutating func openLeaf(_ table: Table, _ fillCache: Bool) throws(EngineError) -> Bool {
        leaf.invalidate()
        guard top.isValid else { return false }
        let handle = try table.handle(top.value, within: table.footer.index.offset)
        if leaf.block?.fileOffset != handle.offset {
            leaf.reset(try table.block(handle, .entries, fillCache: fillCache))
        }
        return true
    }
}
