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

    let base: UnsafeRawPointer
    /// Bytes of the contents.
    let count: Int
    let kind: Kind
    /// Where entries end and restart points begin.
    let entriesEnd: Int
    let restartCount: Int
    /// Where the block came from, for messages.
    let file: String
    let fileOffset: UInt64
    /// Bytes of memory that the block costs, for the cache's budget.
    let charge: Int

    /// What an object and its place in a cache cost beside the contents.
    static let overheadBytes = 160
    /// Filters are read a cache line at a time.
    static let alignment = 64

    /// Takes ownership of `memory`, which was allocated with `Block.alignment`, whatever it throws.
    init(
        adopting memory: UnsafeMutableRawPointer, count: Int, allocated: Int, kind: Kind, file: String,
        fileOffset: UInt64
    ) throws(EngineError) {
        base = UnsafeRawPointer(memory)
        self.count = count
        self.kind = kind
        self.file = file
        self.fileOffset = fileOffset
        charge = allocated + Self.overheadBytes
        guard kind == .entries else {
            entriesEnd = 0
            restartCount = 0
            return
        }
        var restarts = 0
        var end = -1
        if count >= 4 {
            restarts = Int(UInt32(littleEndian: base.loadUnaligned(fromByteOffset: count - 4, as: UInt32.self)))
            end = count - 4 - restarts * 4
        }
        restartCount = restarts
        entriesEnd = end
        // Entries and restart points come together or not at all.
        guard end >= 0, (end == 0) == (restarts == 0) else {
            throw .corruption(
                file: file, offset: fileOffset, expected: "restart points within a block of \(count) bytes",
                found: "\(restarts) of them")
        }
    }

    deinit { base.deallocate() }

    /// Reads the contents while the block is certainly alive: the optimizer may release it right after
    /// the last use of the object, which is not the last use of a pointer.
    @inline(__always)
    func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        defer { withExtendedLifetime(self) {} }
        return try body(UnsafeRawBufferPointer(start: base, count: count))
    }

    /// Offset of the entry at restart point `index`; unchecked but for being inside the array.
    @inline(__always)
    func restart(_ index: Int) -> Int {
        Int(UInt32(littleEndian: base.loadUnaligned(fromByteOffset: entriesEnd + index * 4, as: UInt32.self)))
    }

    /// The error for contents that cannot be parsed at `offset` in the (decompressed) block.
    @inline(never)
    func damaged(at offset: Int, _ expected: String = "an entry within the block") -> EngineError {
        .corruption(
            file: file, offset: fileOffset, expected: expected,
            found: "bytes that make none at offset \(offset) of the block's \(count)")
    }
}

/// The lengths and places of one entry. All offsets are within the block that it was parsed from.
struct BlockEntry {
    /// Bytes of user key shared with the entry before.
    var shared: Int
    /// Bytes of user key stored here, at `keyOffset`.
    var unshared: Int
    var keyOffset: Int
    var valueCount: Int

    @inline(__always) var trailerOffset: Int { keyOffset + unshared }
    @inline(__always) var valueOffset: Int { keyOffset + unshared + 8 }
    @inline(__always) var end: Int { keyOffset + unshared + 8 + valueCount }

    /// nil when no whole entry lies at `offset` before `limit`.
    @inline(__always)
    init?(_ base: UnsafeRawPointer, at offset: Int, limit: Int) {
        guard offset >= 0, limit - offset >= 3 else { return nil }
        let first = base.load(fromByteOffset: offset, as: UInt8.self)
        let second = base.load(fromByteOffset: offset + 1, as: UInt8.self)
        let third = base.load(fromByteOffset: offset + 2, as: UInt8.self)
        if (first | second | third) < 0x80 {
            shared = Int(first)
            unshared = Int(second)
            valueCount = Int(third)
            keyOffset = offset + 3
        } else {
            var position = offset
            guard let a = Self.varint(base, &position, limit), let b = Self.varint(base, &position, limit),
                let c = Self.varint(base, &position, limit)
            else { return nil }
            (shared, unshared, valueCount, keyOffset) = (a, b, c, position)
        }
        // Each length is below 2^35: the sum cannot overflow.
        guard end <= limit else { return nil }
    }

    /// A varint of at most five bytes.
    @inline(__always)
    private static func varint(_ base: UnsafeRawPointer, _ position: inout Int, _ limit: Int) -> Int? {
        var result = 0
        var shift = 0
        while position < limit, shift < 35 {
            let byte = Int(base.load(fromByteOffset: position, as: UInt8.self))
            position += 1
            result |= (byte & 0x7f) << shift
            if byte < 0x80 { return result }
            shift += 7
        }
        return nil
    }
}
