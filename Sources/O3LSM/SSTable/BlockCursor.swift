/// A cursor over the entries of one block after another. Keeps the block it stands in alive. Not
/// thread-safe. After a throw it is not valid.
struct BlockCursor: ~Copyable {
    private(set) var block: Block?
    /// Its entries, at hand: a step counts no references to the block.
    private var entries = UnsafeRawBufferPointer(start: nil, count: 0)
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
            guard let base = entries.baseAddress, offset >= 0 else { return UnsafeRawBufferPointer(start: nil, count: 0) }
            return UnsafeRawBufferPointer(start: base + valueOffset, count: valueCount)
        }
    }

    /// Moves to another block, or to none; the cursor is not valid until it is moved.
    mutating func reset(_ block: Block?) {
        self.block = block
        entries = UnsafeRawBufferPointer(start: block?.base, count: block?.entriesEnd ?? 0)
        offset = -1
    }

    mutating func invalidate() { offset = -1 }

    mutating func seekToFirst() throws(EngineError) {
        offset = -1
        guard let block, block.restartCount > 0 else { return }
        try start(at: 0)
    }

    mutating func seekToLast() throws(EngineError) {
        offset = -1
        guard let block, block.restartCount > 0 else { return }
        try start(at: block.restart(block.restartCount - 1))
        while nextOffset < entries.count { try parse(at: nextOffset) }
    }

    /// To the first entry at or after the target.
    mutating func seek(_ userKey: UnsafeRawBufferPointer, _ target: Trailer) throws(EngineError) {
        offset = -1
        guard let block, block.restartCount > 0 else { return }
        try start(at: block.restart(block.lastRestart(before: userKey, target)))
        while compareInternal(key.bytes, trailer, userKey, target) < 0 {
            guard nextOffset < entries.count else {
                offset = -1
                return
            }
            try parse(at: nextOffset)
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
        guard nextOffset < entries.count else {
            offset = -1
            return
        }
        try parse(at: nextOffset)
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
        try start(at: block.restart(low))
        while nextOffset < current { try parse(at: nextOffset) }
        guard nextOffset == current else {
            offset = -1
            throw block.damaged(at: current)
        }
    }

    private mutating func start(at restart: Int) throws(EngineError) {
        key.truncate(to: 0)
        try parse(at: restart)
    }

    /// Reads the entry at `position`; `key` holds the key of the entry before it.
    @inline(__always)
    private mutating func parse(at position: Int) throws(EngineError) {
        guard let base = entries.baseAddress else {
            offset = -1
            return
        }
        let entry = BlockEntry(base, at: position, limit: entries.count)
        guard entry.isWhole, entry.shared <= key.count else {
            offset = -1
            throw damaged(at: position)
        }
        key.truncate(to: entry.shared)
        key.append(UnsafeRawBufferPointer(start: base + entry.keyOffset, count: entry.unshared))
        trailer = entry.trailer(in: base)
        offset = position
        nextOffset = entry.end
        valueOffset = entry.valueOffset
        valueCount = entry.valueCount
    }

    @inline(never)
    private borrowing func damaged(at position: Int) -> EngineError {
        block?.damaged(at: position)
            ?? .corruption(file: "", offset: UInt64(position), expected: "an entry of a block", found: "no block")
    }
}
