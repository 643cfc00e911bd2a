import Glibc

/// What an entry says of its key. The raw values are part of every format; they never change.
public enum EntryKind: UInt8, Sendable {
    case delete = 0
    case put = 1
    /// The entry's key is the first key of the range, its value the first key after it.
    case rangeDelete = 2
}

/// A 56-bit number, one for each entry of each write batch, totally ordered.
public typealias SequenceNumber = UInt64

let maximumSequenceNumber: SequenceNumber = (1 << 56) - 1

/// `sequence << 8 | kind`: the eight bytes that follow a user key in an internal key.
///
/// Internal keys sort by user key ascending, then by trailer descending, so that the newest entry of
/// a key comes first (LevelDB's order).
struct Trailer: Equatable, Comparable, Sendable {
    let rawValue: UInt64

    @inline(__always) init(rawValue: UInt64) { self.rawValue = rawValue }
    @inline(__always) init(sequence: SequenceNumber, kind: EntryKind) {
        rawValue = sequence << 8 | UInt64(kind.rawValue)
    }

    /// Sorts before every entry of its key whose sequence is at most `sequence`: where a search starts.
    @inline(__always) static func seek(_ sequence: SequenceNumber) -> Trailer {
        Trailer(rawValue: sequence << 8 | 0xff)
    }
    /// Sorts before every other entry of its key.
    static let first = Trailer(rawValue: .max)
    /// Sorts after every other entry of its key.
    static let last = Trailer(rawValue: 0)

    @inline(__always) var sequence: SequenceNumber { rawValue >> 8 }
    /// nil for a byte that no version of the format has used.
    @inline(__always) var kind: EntryKind? { EntryKind(rawValue: UInt8(truncatingIfNeeded: rawValue)) }

    /// By raw value: a *greater* trailer is newer and sorts *earlier* among the entries of one key.
    @inline(__always) static func < (left: Trailer, right: Trailer) -> Bool { left.rawValue < right.rawValue }
}

/// An owned internal key: file boundaries and seek targets that outlive a buffer.
struct InternalKey: Equatable, Sendable {
    var userKey: [UInt8]
    var trailer: Trailer

    init(userKey: [UInt8], trailer: Trailer) {
        self.userKey = userKey
        self.trailer = trailer
    }
    init(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) {
        self.userKey = [UInt8](userKey)
        self.trailer = trailer
    }
}

extension InternalKey: Comparable {
    static func < (left: InternalKey, right: InternalKey) -> Bool {
        let order = compareKeys(left.userKey, right.userKey)
        return order != 0 ? order < 0 : left.trailer > right.trailer
    }
}

/// Negative, zero or positive: bytes compared as unsigned, a prefix before what it begins.
@inline(__always)
func compareKeys(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Int {
    let common = min(left.count, right.count)
    if common > 0, let a = left.baseAddress, let b = right.baseAddress {
        let order = memcmp(a, b, common)
        if order != 0 { return Int(order) }
    }
    return left.count - right.count
}

@inline(__always)
func compareKeys(_ left: [UInt8], _ right: [UInt8]) -> Int {
    left.withUnsafeBytes { a in right.withUnsafeBytes { b in compareKeys(a, b) } }
}

/// The order of internal keys, without building one: user key ascending, then trailer descending.
@inline(__always)
func compareInternal(
    _ leftKey: UnsafeRawBufferPointer, _ leftTrailer: Trailer,
    _ rightKey: UnsafeRawBufferPointer, _ rightTrailer: Trailer
) -> Int {
    let order = compareKeys(leftKey, rightKey)
    if order != 0 { return order }
    if leftTrailer.rawValue == rightTrailer.rawValue { return 0 }
    return leftTrailer.rawValue > rightTrailer.rawValue ? -1 : 1
}
