/// A verified, decompressed block in memory of its own. Immutable; whoever holds a reference may read
/// the bytes, also when the cache has let go of it.
final class Block: @unchecked Sendable {
    // @unchecked: the memory is written before the object is shared, and never after.

    enum Kind: UInt8, Sendable {
        /// Entries with restart points: data, index, range tombstones.
        case entries
        /// Bytes that another type makes sense of: filter, properties.
        case raw
    }

    // What a search reads first, so that it shares the object's first cache line.
    let base: UnsafeRawPointer
    /// Where entries end and restart points begin.
    let entriesEnd: Int
    let restartCount: Int
    /// One for each restart point; nil with fewer than two, where there is nothing to search.
    private let restarts: UnsafeMutablePointer<RestartPoint>?
    /// Bytes that all keys at restart points begin with; they are not in the heads.
    private let restartPrefixCount: Int
    let kind: Kind

    /// Bytes of the contents.
    let count: Int
    let fileOffset: UInt64
    /// Where the block came from, for messages.
    let file: String
    /// Bytes of memory that the block costs, for the cache's budget.
    let charge: Int

    /// What an object and its place in a cache cost beside the contents.
    static let overheadBytes = 192
    /// Filters are read a cache line at a time. For the rest what malloc gives is enough: to align more than that
    /// splits its chunks.
    static func alignment(_ kind: Kind) -> Int { kind == .raw ? 64 : 16 }

    /// Takes ownership of `memory`, which was allocated with `Block.alignment(kind)`, whatever it throws.
    /// Checks that the restart points lie within the block and begin with whole keys.
    init(
        adopting memory: UnsafeMutableRawPointer,
        count: Int,
        allocated: Int,
        kind: Kind,
        file: String,
        fileOffset: UInt64
    ) throws(EngineError) {
        let layout = kind == .entries ? RestartLayout(memory, count) : RestartLayout.none
        base = UnsafeRawPointer(memory)
        entriesEnd = layout.entriesEnd
        restartCount = layout.count
        restarts = layout.points
        restartPrefixCount = layout.prefixCount
        self.kind = kind
        self.count = count
        self.fileOffset = fileOffset
        self.file = file
        charge = allocated + Self.overheadBytes + layout.count * MemoryLayout<RestartPoint>.stride
        guard layout.isSound else { throw damaged(at: max(0, count - 4), "restart points within the block") }
    }

    deinit {
        restarts?.deallocate()
        base.deallocate()
    }

    /// Reads the contents while the block is certainly alive: the optimizer may release it right after
    /// the last use of the object, which is not the last use of a pointer.
    @inline(__always)
    func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        defer { withExtendedLifetime(self) {} }
        return try body(UnsafeRawBufferPointer(start: base, count: count))
    }

    /// The contents, to be used only while the block is certainly alive.
    @inline(__always)
    var contents: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }

    /// Offset of the entry at restart point `index`, which is one of `0 ..< restartCount`.
    @inline(__always)
    func restart(_ index: Int) -> Int { restarts.map { Int($0[index].offset) } ?? 0 }

    /// The index of the last restart point whose entry sorts before the target, or 0. The block has
    /// restart points. Mostly decided by the heads, which lie together: each key that is not looked
    /// at is a cache miss less.
    @inline(__always)
    func lastRestart(before key: UnsafeRawBufferPointer, _ trailer: Trailer) -> Int {
        guard let restarts else { return 0 }
        let prefixCount = restartPrefixCount
        if prefixCount > 0 {
            // The first entry has the prefix, as all others do.
            let first = BlockEntry(base, at: 0, limit: entriesEnd)
            let order = compareKeys(
                UnsafeRawBufferPointer(rebasing: key.prefix(prefixCount)),
                UnsafeRawBufferPointer(start: base + first.keyOffset, count: prefixCount)
            )
            if order != 0 { return order < 0 ? 0 : restartCount - 1 }
        }
        let head = RestartPoint.head(key, skipping: prefixCount)
        var low = 0
        var high = restartCount - 1
        while low < high {
            let middle = (low + high + 1) >> 1
            let point = restarts[middle]
            let isBefore =
                point.head != head ? point.head < head : isEntryBefore(Int(point.offset), key, trailer)
            if isBefore { low = middle } else { high = middle - 1 }
        }
        return low
    }

    /// Whether the whole key at a restart point sorts before the target.
    @inline(never)
    private func isEntryBefore(_ offset: Int, _ key: UnsafeRawBufferPointer, _ trailer: Trailer) -> Bool {
        let entry = BlockEntry(base, at: offset, limit: entriesEnd)
        let entryKey = UnsafeRawBufferPointer(start: base + entry.keyOffset, count: entry.unshared)
        return compareInternal(entryKey, entry.trailer(in: base), key, trailer) < 0
    }

    /// The error for contents that cannot be parsed at `offset` in the (decompressed) block.
    @inline(never)
    func damaged(at offset: Int, _ expected: String = "an entry within the block") -> EngineError {
        .corruption(
            file: file,
            offset: fileOffset,
            expected: expected,
            found: "bytes that make none at offset \(offset) of the block's \(count)"
        )
    }
}
