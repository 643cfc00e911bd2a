/// The lengths and places of one entry. All offsets are within the block that it was parsed from.
struct BlockEntry {
    /// Bytes of user key shared with the entry before.
    var shared = 0
    /// Bytes of user key stored here, at `keyOffset`.
    var unshared = 0
    /// -1: there is no whole entry here.
    var keyOffset = -1
    var valueCount = 0

    @inline(__always) var isWhole: Bool { keyOffset >= 0 }
    @inline(__always) var trailerOffset: Int { keyOffset + unshared }
    @inline(__always) var valueOffset: Int { keyOffset + unshared + 8 }
    @inline(__always) var end: Int { keyOffset + unshared + 8 + valueCount }

    @inline(__always)
    func trailer(in base: UnsafeRawPointer) -> Trailer {
        Trailer(rawValue: UInt64(littleEndian: base.loadUnaligned(fromByteOffset: trailerOffset, as: UInt64.self)))
    }

    /// Parses the entry at `offset`; not `isWhole` when it does not end before `limit`.
    @inline(__always)
    init(_ base: UnsafeRawPointer, at offset: Int, limit: Int) {
        guard offset >= 0, limit - offset >= 3 else { return }
        let first = base.load(fromByteOffset: offset, as: UInt8.self)
        let second = base.load(fromByteOffset: offset + 1, as: UInt8.self)
        let third = base.load(fromByteOffset: offset + 2, as: UInt8.self)
        if (first | second | third) < 0x80 {
            shared = Int(first)
            unshared = Int(second)
            valueCount = Int(third)
            keyOffset = offset + 3
        } else {
            parseLong(base, offset, limit)
        }
        // Each length is below 2^35: the sum cannot overflow.
        if end > limit { keyOffset = -1 }
    }

    @inline(never)
    private mutating func parseLong(_ base: UnsafeRawPointer, _ offset: Int, _ limit: Int) {
        var position = offset
        shared = Self.varint(base, &position, limit)
        unshared = Self.varint(base, &position, limit)
        valueCount = Self.varint(base, &position, limit)
        keyOffset = min(shared, unshared, valueCount) < 0 ? -1 : position
        if keyOffset < 0 { (shared, unshared, valueCount) = (0, 0, 0) }
    }

    /// A varint of at most five bytes; -1 when there is none.
    @inline(__always)
    private static func varint(_ base: UnsafeRawPointer, _ position: inout Int, _ limit: Int) -> Int {
        var result = 0
        var shift = 0
        while position < limit, shift < 35 {
            let byte = Int(base.load(fromByteOffset: position, as: UInt8.self))
            position += 1
            result |= (byte & 0x7f) << shift
            if byte < 0x80 { return result }
            shift += 7
        }
        return -1
    }
}
