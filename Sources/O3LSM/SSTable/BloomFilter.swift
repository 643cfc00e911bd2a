import Glibc

/// A blocked bloom filter: all the bits of a key lie in one line of 64 bytes, so that a probe costs
/// one cache miss (Putze, Sanders, Singler: "Cache-, Hash- and Space-Efficient Bloom Filters").
///
/// Stored: the lines, then one byte with the number of bits a key sets, then seven zero bytes. The
/// line comes from the high bits of the key's hash, the bits from a remix of all of it.
enum BloomFilter {
    static let lineBytes = 64
    static let suffixBytes = 8

    /// Bits a key sets: a little below the optimum of a plain filter, because lines fill unevenly.
    static func probeCount(bitsPerKey: Int) -> Int { max(1, min(14, (bitsPerKey * 6 + 5) / 10)) }

    /// Bytes of a filter for so many keys.
    static func size(keyCount: Int, bitsPerKey: Int) -> Int {
        let lineBits = lineBytes * 8
        let lines = max(1, (keyCount * bitsPerKey + lineBits - 1) / lineBits)
        return lines * lineBytes + suffixBytes
    }

    /// Fills `buffer` with the filter of the hashes.
    static func build(_ hashes: [UInt64], bitsPerKey: Int, into buffer: inout ByteBuffer) {
        let total = size(keyCount: hashes.count, bitsPerKey: bitsPerKey)
        let lineCount = (total - suffixBytes) / lineBytes
        let probes = probeCount(bitsPerKey: bitsPerKey)
        buffer.truncate(to: 0)
        buffer.reserve(total)
        let base = buffer.base
        memset(base, 0, total)
        for hash in hashes {
            let line = base + lineIndex(hash, lineCount) * lineBytes
            var probe = ProbeSequence(hash)
            for _ in 0..<probes {
                let bit = probe.next()
                let byte = line.load(fromByteOffset: bit >> 3, as: UInt8.self)
                line.storeBytes(of: byte | 1 << UInt8(bit & 7), toByteOffset: bit >> 3, as: UInt8.self)
            }
        }
        base.storeBytes(of: UInt8(probes), toByteOffset: total - suffixBytes, as: UInt8.self)
        buffer.setCount(total)
    }

    /// Whether the bytes are those of a filter.
    static func isWellFormed(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count >= lineBytes + suffixBytes, (bytes.count - suffixBytes) % lineBytes == 0 else { return false }
        return (1...14).contains(bytes[bytes.count - suffixBytes])
    }

    /// False only if the key is certainly not among those the filter was built of. `bytes` are well-formed.
    @inline(__always)
    static func mayContain(_ hash: UInt64, _ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let base = bytes.baseAddress, bytes.count >= lineBytes + suffixBytes else { return true }
        let lineCount = (bytes.count - suffixBytes) / lineBytes
        let probes = base.load(fromByteOffset: bytes.count - suffixBytes, as: UInt8.self)
        let line = base + lineIndex(hash, lineCount) * lineBytes
        var probe = ProbeSequence(hash)
        for _ in 0..<probes {
            let bit = probe.next()
            if line.load(fromByteOffset: bit >> 3, as: UInt8.self) & (1 << UInt8(bit & 7)) == 0 { return false }
        }
        return true
    }

    @inline(__always)
    private static func lineIndex(_ hash: UInt64, _ lineCount: Int) -> Int {
        Int(truncatingIfNeeded: hash.multipliedFullWidth(by: UInt64(lineCount)).high)
    }

    /// Bit numbers within a line, nine bits each, from a word that does not depend on the line.
    private struct ProbeSequence {
        private var word: UInt64
        private var left = 7

        @inline(__always)
        init(_ hash: UInt64) { word = (hash ^ hash >> 32) &* 0x9e37_79b9_7f4a_7c15 }

        @inline(__always)
        mutating func next() -> Int {
            if left == 0 {
                word = (word ^ word >> 29) &* 0xbb67_ae85_84ca_a73b
                left = 7
            }
            left -= 1
            let bit = Int(truncatingIfNeeded: word >> 55)
            word = word << 9 | word >> 55
            return bit
        }
    }
}
