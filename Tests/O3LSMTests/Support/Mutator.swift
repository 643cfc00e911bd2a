@testable import O3LSM

/// Makes bytes that are nearly right: a seeded mutation of one element of a corpus. The kinds of mutation are those
/// that fuzzers have found to matter: flipped bits, interesting numbers in place of fields, parts removed, repeated,
/// and exchanged with those of another element.
struct Mutator {
    private(set) var random: SeededRandom
    private static let interesting: [UInt64] = [
        0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff,
        1 << 32, 1 << 56, 1 << 62, 1 << 63, .max - 1, .max,
    ]

    init(seed: UInt64) { random = SeededRandom(seed) }

    mutating func below(_ bound: Int) -> Int { random.below(bound) }

    /// One to four mutations of a random element.
    mutating func mutation(of corpus: [[UInt8]]) -> [UInt8] {
        var bytes = corpus[random.below(corpus.count)]
        for _ in 0...random.below(4) { mutate(&bytes, corpus) }
        return bytes
    }

    mutating func mutate(_ bytes: inout [UInt8], _ corpus: [[UInt8]]) {
        guard !bytes.isEmpty else {
            bytes = [UInt8(truncatingIfNeeded: random.next())]
            return
        }
        let place = random.below(bytes.count)
        switch random.below(10) {
        case 0, 1, 2: bytes[place] ^= UInt8(1) << UInt8(random.below(8))
        case 3: bytes[place] = UInt8(truncatingIfNeeded: random.next())
        case 4, 5:
            let value = Self.interesting[random.below(Self.interesting.count)]
            for byte in 0..<[1, 2, 4, 8][random.below(4)] where place + byte < bytes.count {
                bytes[place + byte] = UInt8(truncatingIfNeeded: value >> UInt64(8 * byte))
            }
        case 6: bytes.removeLast(bytes.count - place)
        case 7: bytes.removeSubrange(place..<min(bytes.count, place + 1 + random.below(16)))
        case 8:
            let part = bytes[place..<min(bytes.count, place + 1 + random.below(64))]
            bytes.insert(contentsOf: part, at: random.below(bytes.count))
        default:
            let other = corpus[random.below(corpus.count)]
            guard !other.isEmpty else { return }
            let from = random.below(other.count)
            bytes.replaceSubrange(place..<min(bytes.count, place + 32), with: other[from..<min(other.count, from + 32)])
        }
    }
}
