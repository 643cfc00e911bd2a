/// Where a search can begin, and the eight bytes of its key that decide most comparisons.
struct RestartPoint {
    /// Bytes of the user key behind the block's common prefix, as a big-endian number, zeros behind a
    /// key that is shorter: unequal heads order as their keys do.
    var head: UInt64
    var offset: UInt32

    @inline(__always)
    static func head(_ key: UnsafeRawBufferPointer, skipping prefixCount: Int) -> UInt64 {
        guard let base = key.baseAddress, key.count > prefixCount else { return 0 }
        let rest = key.count - prefixCount
        if rest >= 8 {
            return UInt64(bigEndian: base.loadUnaligned(fromByteOffset: prefixCount, as: UInt64.self))
        }
        var head: UInt64 = 0
        for index in 0..<rest {
            head |= UInt64(base.load(fromByteOffset: prefixCount + index, as: UInt8.self)) << UInt64(56 - 8 * index)
        }
        return head
    }
}

/// The restart points of a block, checked and laid out for the search. Computed once, when a block is
/// read. Whoever makes one owns `points`.
struct RestartLayout {
    var entriesEnd = 0
    var count = 0
    var points: UnsafeMutablePointer<RestartPoint>?
    var prefixCount = 0
    var isSound = true

    static var none: RestartLayout { RestartLayout() }

    private init() {}

    init(_ memory: UnsafeMutableRawPointer, _ blockCount: Int) {
        let base = UnsafeRawPointer(memory)
        isSound = false
        guard blockCount >= 4 else { return }
        let stated = Int(UInt32(littleEndian: base.loadUnaligned(fromByteOffset: blockCount - 4, as: UInt32.self)))
        let end = blockCount - 4 - stated * 4
        // Entries and restart points come together or not at all.
        guard end >= 0, (end == 0) == (stated == 0) else { return }
        entriesEnd = end
        guard stated > 0 else {
            isSound = true
            return
        }
        func offset(_ index: Int) -> Int {
            Int(UInt32(littleEndian: base.loadUnaligned(fromByteOffset: end + index * 4, as: UInt32.self)))
        }
        func key(_ index: Int) -> UnsafeRawBufferPointer? {
            let entry = BlockEntry(base, at: offset(index), limit: end)
            guard entry.isWhole, entry.shared == 0 else { return nil }
            return UnsafeRawBufferPointer(start: base + entry.keyOffset, count: entry.unshared)
        }
        guard offset(0) == 0, let first = key(0), let last = key(stated - 1) else { return }
        guard stated > 1, let firstBase = first.baseAddress, let lastBase = last.baseAddress else {
            count = 1
            isSound = true
            return
        }
        prefixCount = commonPrefixLength(firstBase, lastBase, min(first.count, last.count))
        let points = UnsafeMutablePointer<RestartPoint>.allocate(capacity: stated)
        self.points = points
        count = stated
        for index in 0..<stated {
            // The keys between share what the first and the last one share, in a block that is in order.
            guard let key = key(index), key.count >= prefixCount else { return }
            let point = RestartPoint(
                head: RestartPoint.head(key, skipping: prefixCount),
                offset: UInt32(offset(index))
            )
            (points + index).initialize(to: point)
        }
        isSound = true
    }
}
