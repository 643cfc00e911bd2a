import CSystem

/// CRC-32C (Castagnoli polynomial), as in iSCSI, ext4 and LevelDB; by instruction where the
/// processor has one, by an eight-table slice otherwise. Both give the same sums.
enum CRC32C {
    /// The checksum of `bytes`, continuing from `seed` (a checksum of what came before).
    @inline(__always)
    static func checksum(_ bytes: UnsafeRawBufferPointer, seed: UInt32 = 0) -> UInt32 {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return seed }
        if hasInstruction {
            return ~o3_crc32c_bytes(~seed, base.assumingMemoryBound(to: UInt8.self), bytes.count)
        }
        return software(bytes, seed: seed)
    }

    /// The stored form. A checksum of bytes that themselves hold checksums is weak; masking (an
    /// idea of LevelDB's) avoids that.
    static func masked(_ checksum: UInt32) -> UInt32 { ((checksum >> 15) | (checksum << 17)) &+ 0xa282_ead8 }

    /// The same sum without the instruction.
    static func software(_ bytes: UnsafeRawBufferPointer, seed: UInt32 = 0) -> UInt32 {
        var state = ~seed
        var index = 0
        tables.withUnsafeBufferPointer { table in
            while bytes.count - index >= 8 {
                let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)) ^ UInt64(state)
                var next: UInt32 = 0
                for lane in 0..<8 {
                    next ^= table[(7 - lane) * 256 + Int((word >> UInt64(lane * 8)) & 0xff)]
                }
                state = next
                index += 8
            }
            while index < bytes.count {
                state = (state >> 8) ^ table[Int((state ^ UInt32(bytes[index])) & 0xff)]
                index += 1
            }
        }
        return ~state
    }

    private static let hasInstruction = o3_has_crc32c_instruction() != 0

    private static let tables: [UInt32] = {
        var tables = [UInt32](repeating: 0, count: 8 * 256)
        for byte in 0..<256 {
            var value = UInt32(byte)
            for _ in 0..<8 { value = (value & 1) != 0 ? (value >> 1) ^ 0x82f6_3b78 : value >> 1 }
            tables[byte] = value
        }
        for slice in 1..<8 {
            for byte in 0..<256 {
                let previous = tables[(slice - 1) * 256 + byte]
                tables[slice * 256 + byte] = (previous >> 8) ^ tables[Int(previous & 0xff)]
            }
        }
        return tables
    }()
}
