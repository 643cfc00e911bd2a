/// A cursor over the entries of one block after another. Keeps the block it stands in alive. Not
/// thread-safe. After a throw it is not valid.
struct BlockCursor: ~Copyable {
    private(set) var block: Block?
    private var key = ByteBuffer(capacity: 128)
    private(set) var trailer = Trailer.last
    /// Where the current entry begins; -1 when the cursor is not valid.
    private var offset = -1
    private var nextOffset = 0
    private var valueOffset = 0
    private var valueCount = 0

    init() {}

    var isValid: Bool { @inline(__always) borrowing get { offset >= 0 } }
    var userKey: UnsafeRawBufferPointer { @inline(__always) borrowing get { key.bytes } }
    var value: UnsafeRawBufferPointer {
        @inline(__always) borrowing get {
            guard let block, offset >= 0 else { return UnsafeRawBufferPointer(start: nil, count: 0) }
            return UnsafeRawBufferPointer(start: block.base + valueOffset, count: valueCount)
        }
    }

    /// Moves to another block, or to none; the cursor is not valid until it is moved.
    mutating func reset(_ block: Block?) {
        self.block = block
        offset = -1
    }

    mutating func invalidate() { offset = -1 }

    mutating func seekToFirst() throws(EngineError) {
        offset = -1
        guard let block, block.restartCount > 0 else { return }
        try start(block, at: 0)
    }

    mutating func seekToLast() throws(EngineError) {
        offset = -1
        guard let block, block.restartCount > 0 else { return }
        try start(block, at: block.restart(block.restartCount - 1))
        while nextOffset < block.entriesEnd { try parse(block, at: nextOffset) }
    }

    /// To the first entry at or after the target.
    mutating func seek(_ userKey: UnsafeRawBufferPointer, _ target: Trailer) throws(EngineError) {
        offset = -1
        guard let block, block.restartCount > 0 else { return }
        try start(block, at: block.restart(block.lastRestart(before: userKey, target)))
        while compareInternal(key.bytes, trailer, userKey, target) < 0 {
            guard nextOffset < block.entriesEnd else {
                offset = -1
                return
            }
            try parse(block, at: nextOffset)
        }
    }

    /// To the last entry before the target, strictly.
    mutating func seekBefore(_ userKey: UnsafeRawBufferPointer, _ target: Trailer) throws(EngineError) {
        try seek(userKey, target)
        if isValid { try previous() } else { try seekToLast() }
    }

    /// The cursor is valid before.
    @inline(__always)
    mutating func next() throws(EngineError) {
        guard let block, nextOffset < block.entriesEnd else {
            offset = -1
            return
        }
        try parse(block, at: nextOffset)
    }

    /// The cursor is valid before. Entries have no links backward: the interval is walked again.
    mutating func previous() throws(EngineError) {
        let current = offset
        offset = -1
        guard let block, current > 0 else { return }
        // The last restart point before the current entry.
        var low = 0
        var high = block.restartCount - 1
        while low < high {
            let middle = (low + high + 1) >> 1
            if block.restart(middle) < current { low = middle } else { high = middle - 1 }
        }
        try start(block, at: block.restart(low))
        while nextOffset < current { try parse(block, at: nextOffset) }
        guard nextOffset == current else {
            offset = -1
            throw block.damaged(at: current)
        }
    }

    private mutating func start(_ block: Block, at restart: Int) throws(EngineError) {
        key.truncate(to: 0)
        try parse(block, at: restart)
    }

    /// Reads the entry at `position`; `key` holds the key of the entry before it.
    @inline(__always)
    private mutating func parse(_ block: Block, at position: Int) throws(EngineError) {
        let entry = BlockEntry(block.base, at: position, limit: block.entriesEnd)
        guard entry.isWhole, entry.shared <= key.count else {
            offset = -1
            throw block.damaged(at: position)
        }
        key.truncate(to: entry.shared)
        key.append(UnsafeRawBufferPointer(start: block.base + entry.keyOffset, count: entry.unshared))
        trailer = entry.trailer(in: block.base)
        offset = position
        nextOffset = entry.end
        valueOffset = entry.valueOffset
        valueCount = entry.valueCount
    }
}
