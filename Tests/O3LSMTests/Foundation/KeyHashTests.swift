import Testing

@testable import O3LSM

@Suite struct KeyHashTests {
    private func hash(_ bytes: [UInt8]) -> UInt64 { bytes.withUnsafeBytes { hashKey($0) } }

    /// The hash is part of the table format: these values never change.
    @Test func valuesAreFixed() {
        let values = [0, 1, 3, 4, 7, 8, 15, 16, 17, 32, 33, 100].map { hash(Array((0..<UInt8($0)))) }
        #expect(values == Self.fixed, "\(values)")
    }

    private static let fixed: [UInt64] = [
        0xf90109d2335f6b4f,
        0xd42e4632eec3107c,
        0x2fd0ba2863a602cf,
        0x1b9894ec08a39677,
        0x2d9d7f106c24bad6,
        0xc92c921969ae22f8,
        0xbb163d51e8a8a2d9,
        0xcffddf58cf3f58cc,
        0xda82a7e40c3c03b5,
        0x82a993ddfb5089ca,
        0x93a624c0c9de26d7,
        0x628f61b88dccbe0a,
    ]

    @Test func everyLengthAndByteCounts() {
        var seen: Set<UInt64> = []
        var count = 0
        for length in 0...80 {
            var bytes = [UInt8](repeating: 0x61, count: length)
            seen.insert(hash(bytes))
            count += 1
            for index in bytes.indices {
                bytes[index] ^= 1
                seen.insert(hash(bytes))
                count += 1
                bytes[index] ^= 1
            }
        }
        #expect(seen.count == count)
    }

    /// One flipped bit of a key flips about half of the hash.
    @Test func flipsSpread() {
        var generator = SeededRandom(4)
        for length in [1, 2, 3, 4, 5, 8, 9, 16, 17, 24, 40] {
            var flips = 0
            var trials = 0
            for _ in 0..<50 {
                var bytes = generator.bytes(length)
                let before = hash(bytes)
                for bit in 0..<length * 8 {
                    bytes[bit / 8] ^= 1 << UInt8(bit % 8)
                    flips += (before ^ hash(bytes)).nonzeroBitCount
                    bytes[bit / 8] ^= 1 << UInt8(bit % 8)
                    trials += 1
                }
            }
            let average = Double(flips) / Double(trials)
            #expect(average > 30 && average < 34, "length \(length): \(average)")
        }
    }

    /// Counters, big-endian, as a file system's keys have them: buckets fill evenly by high and low bits.
    @Test func countersSpread() {
        for shift in [0, 52] as [UInt64] {
            var buckets = [Int](repeating: 0, count: 4096)
            for number in 0..<UInt64(409_600) {
                let key = [0x69] + withUnsafeBytes(of: number.bigEndian, Array.init)
                buckets[Int(truncatingIfNeeded: hash(key) >> shift) & 4095] += 1
            }
            #expect((buckets.max() ?? 0) < 160 && (buckets.min() ?? 0) > 50)
        }
    }
}
