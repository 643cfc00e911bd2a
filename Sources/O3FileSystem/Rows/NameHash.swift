import CSystem
import Glibc

/// The keyed hash that orders a directory's entries: 56 bits, never zero.
///
/// Dentries sort by hash so that a listing can be resumed from a number (see `DirectoryCookie`). The
/// key is random for each store, so that nobody can prepare names that collide. SipHash-1-3, after
/// Aumasson and Bernstein's paper; the values are part of the store's format.
struct NameHash: Equatable, Sendable {
    static let mask: UInt64 = (1 << 56) - 1

    let key0: UInt64
    let key1: UInt64

    /// With a key that nobody can guess.
    static func random() throws(FileSystemError) -> NameHash {
        var random: (UInt64, UInt64) = (0, 0)
        let count = withUnsafeMutableBytes(of: &random) { o3_getrandom($0.baseAddress, $0.count) }
        guard count == 16 else {
            throw .engine(.io(operation: "get random bytes for", path: "the superblock", code: EIO))
        }
        return NameHash(key0: random.0, key1: random.1)
    }

    func callAsFunction(_ name: UnsafeRawBufferPointer) -> UInt64 {
        var v0 = key0 ^ 0x736f_6d65_7073_6575
        var v1 = key1 ^ 0x646f_7261_6e64_6f6d
        var v2 = key0 ^ 0x6c79_6765_6e65_7261
        var v3 = key1 ^ 0x7465_6462_7974_6573

        @inline(__always) func rotate(_ value: UInt64, _ bits: UInt64) -> UInt64 {
            value << bits | value >> (64 - bits)
        }
        @inline(__always) func round() {
            v0 = v0 &+ v1
            v1 = rotate(v1, 13) ^ v0
            v0 = rotate(v0, 32)
            v2 = v2 &+ v3
            v3 = rotate(v3, 16) ^ v2
            v0 = v0 &+ v3
            v3 = rotate(v3, 21) ^ v0
            v2 = v2 &+ v1
            v1 = rotate(v1, 17) ^ v2
            v2 = rotate(v2, 32)
        }
        @inline(__always) func absorb(_ word: UInt64) {
            v3 ^= word
            round()
            v0 ^= word
        }

        var offset = 0
        while name.count - offset >= 8 {
            absorb(UInt64(littleEndian: name.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
            offset += 8
        }
        var last = UInt64(truncatingIfNeeded: name.count) << 56
        var shift: UInt64 = 0
        while offset < name.count {
            last |= UInt64(name[offset]) << shift
            shift += 8
            offset += 1
        }
        absorb(last)
        v2 ^= 0xff
        round()
        round()
        round()
        let hash = (v0 ^ v1 ^ v2 ^ v3) & Self.mask
        return hash == 0 ? 1 : hash
    }
}

/// Where a directory listing goes on: 63 bits, so that it is positive as an off_t.
///
/// 0 is the start, 1 follows ".", 2 follows ".."; any other cookie holds the hash of the entry it
/// follows (high 56 bits) and that entry's place, from 1, among the entries of the same hash (low 7
/// bits). It names a point between keys and not an entry, so it stays valid whatever is created or
/// removed. Two names of one directory with the same hash are rarer than one in 100,000 directories
/// of a million entries; if one of the two is removed just between two reads that part them, the
/// other may be missed or repeated.
struct DirectoryCookie: Equatable {
    static let start: UInt64 = 0
    static let afterSelf: UInt64 = 1
    static let afterParent: UInt64 = 2

    private static let ordinalBits: UInt64 = 7
    private static let maximumOrdinal: UInt64 = (1 << ordinalBits) - 1

    /// The hash at which the listing goes on, and how many entries of it were already seen.
    let hash: UInt64
    let seen: UInt64

    init(hash: UInt64, seen: UInt64) {
        self.hash = hash
        self.seen = seen
    }

    init(_ rawValue: UInt64) {
        hash = (rawValue >> Self.ordinalBits) & NameHash.mask
        seen = rawValue <= Self.afterParent ? 0 : rawValue & Self.maximumOrdinal
    }

    /// After more entries of one hash than an ordinal can count, the listing goes on at the next hash:
    /// it must never go round in circles.
    var rawValue: UInt64 {
        seen <= Self.maximumOrdinal
            ? hash << Self.ordinalBits | seen : (min(hash + 1, NameHash.mask)) << Self.ordinalBits
    }
}
