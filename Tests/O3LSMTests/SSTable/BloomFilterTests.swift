import Testing

@testable import O3LSM

@Suite struct BloomFilterTests {
    private func key(_ number: UInt64, _ prefix: String) -> UInt64 {
        (Array(prefix.utf8) + withUnsafeBytes(of: number.bigEndian, Array.init)).withUnsafeBytes { hashKey($0) }
    }

    private func falsePositives(
        keys: Int,
        bitsPerKey: Int,
        prefix: String,
        probes: UInt64 = 100_000
    ) -> Double {
        var buffer = ByteBuffer()
        BloomFilter.build((0..<UInt64(keys)).map { key($0, prefix) }, bitsPerKey: bitsPerKey, into: &buffer)
        #expect(BloomFilter.isWellFormed(buffer.bytes))
        for number in 0..<UInt64(keys) { #expect(BloomFilter.mayContain(key(number, prefix), buffer.bytes)) }
        var hits = 0
        for number in 0..<probes where BloomFilter.mayContain(key(1 << 40 + number, prefix), buffer.bytes) { hits += 1 }
        return Double(hits) / Double(probes)
    }

    @Test func falsePositiveRateIsBounded() {
        for prefix in ["", "i", "a longer common prefix of keys/"] {
            let rate = falsePositives(keys: 50_000, bitsPerKey: 10, prefix: prefix)
            print("10 bits: \(rate)")
            #expect(rate < 0.0125)
            #expect(rate > 0.002)
        }
        #expect(falsePositives(keys: 20_000, bitsPerKey: 16, prefix: "x") < 0.003)
        #expect(falsePositives(keys: 20_000, bitsPerKey: 32, prefix: "x") < 0.0005)
        #expect(falsePositives(keys: 20_000, bitsPerKey: 4, prefix: "x") < 0.2)
    }

    @Test func smallFilters() {
        for count in 1...40 { #expect(falsePositives(keys: count, bitsPerKey: 10, prefix: "s", probes: 2000) < 0.05) }
    }

    @Test func malformedBytesAreNoFilter() {
        for bytes in [[], [UInt8](repeating: 0, count: 72), [UInt8](repeating: 200, count: 72), [1, 2, 3]] as [[UInt8]]
        {
            #expect(!bytes.withUnsafeBytes { BloomFilter.isWellFormed($0) })
        }
    }
}
