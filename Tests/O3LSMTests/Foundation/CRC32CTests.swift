import Testing

@testable import O3LSM

@Suite struct CRC32CTests {
    private func sum(_ bytes: [UInt8]) -> UInt32 { bytes.withUnsafeBytes { CRC32C.checksum($0) } }

    /// RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
    @Test func knownVectors() {
        #expect(sum([]) == 0)
        #expect(sum(Array("123456789".utf8)) == 0xe306_9283)
        #expect(sum([UInt8](repeating: 0, count: 32)) == 0x8a91_36aa)
        #expect(sum([UInt8](repeating: 0xff, count: 32)) == 0x62a8_ab43)
        #expect(sum(Array(0..<32)) == 0x46dd_794e)
        #expect(sum(Array((0..<32).reversed())) == 0x113f_db5c)
    }

    @Test func instructionAgreesWithSoftware() {
        var generator = SeededRandom(1)
        for length in Array(0...100) + [1000, 4096, 4099] {
            let bytes = generator.bytes(length + 3)
            bytes.withUnsafeBytes { whole in
                for start in 0..<3 {
                    let part = UnsafeRawBufferPointer(rebasing: whole[start..<start + length])
                    #expect(CRC32C.checksum(part, seed: 77) == CRC32C.software(part, seed: 77))
                }
            }
        }
    }

    @Test func sumsContinue() {
        let bytes = Array("a sum of two halves is the sum of the whole".utf8)
        for split in bytes.indices {
            let first = sum(Array(bytes[..<split]))
            #expect(Array(bytes[split...]).withUnsafeBytes { CRC32C.checksum($0, seed: first) } == sum(bytes))
        }
    }

    @Test func maskingIsItsOwn() {
        #expect(CRC32C.masked(0) == 0xa282_ead8)
        #expect(Set((0..<1000).map { CRC32C.masked(UInt32($0)) }).count == 1000)
    }
}
