/// The record format that the write-ahead log and the manifest share.
///
/// ```
/// file header     0 magic "O3LOG\0\0\0"   8 u32 format version   12 u32 kind   16 u64 log number
/// (32 bytes)     24 u32 masked CRC32C of bytes 0 ..< 24          28 u32 zero
///
/// record header   0 u32 masked CRC32C of bytes 4 ..< 28 and then of the record's offset as a u64
/// (28 bytes)      4 u32 masked CRC32C of the payload   8 u32 payload length
///                12 u64 log number   20 u64 safe end
/// payload        28 …
/// ```
///
/// The log number in every record keeps what is left of a recycled file's former life from being read; the
/// offset in the header's checksum keeps a record that a user stored as data from being taken for one.
///
/// `safe end` is the offset up to which the file had been synced when the record was written. It tells
/// corruption from power loss: power loss can leave any part of what was not synced in any state, so a
/// record that cannot be read may be followed by good ones; but one that lies before the safe end of a later
/// record had been synced, and something has damaged it since.
enum LogFormat {
    static let magic: UInt64 = 0x0000_0047_4f4c_334f  // "O3LOG\0\0\0"
    static let version: UInt32 = 1
    static let fileHeaderBytes = 32
    static let recordHeaderBytes = 28
    /// The largest batch is bounded by a memtable; this is what a reader allocates at most.
    static let maximumPayloadBytes = 256 << 20

    /// What a log file is for.
    enum Kind: UInt32, Sendable {
        case writeAhead = 1
        case manifest = 2
    }

    static func fileHeader(_ kind: Kind, _ logNumber: UInt64) -> [UInt8] {
        var writer = ByteWriter(capacity: fileHeaderBytes)
        writer.append(magic)
        writer.append(version)
        writer.append(kind.rawValue)
        writer.append(logNumber)
        writer.append(writer.bytes.withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) })
        writer.append(UInt32(0))
        return writer.bytes
    }

    /// The format version that an intact header of *any* version names; nil when the bytes are no header.
    static func headerVersion(_ bytes: UnsafeRawBufferPointer) -> UInt32? {
        guard bytes.count >= fileHeaderBytes, bytes.integer(at: 0, UInt64.self) == magic,
            CRC32C.masked(CRC32C.checksum(UnsafeRawBufferPointer(rebasing: bytes[0..<24])))
                == bytes.integer(at: 24, UInt32.self)
        else { return nil }
        return bytes.integer(at: 8, UInt32.self)
    }
}

/// The header of one record, as `LogFormat` pictures it.
struct LogRecordHeader {
    var payloadChecksum: UInt32
    var payloadCount: UInt32
    var logNumber: UInt64
    var safeEnd: UInt64

    /// Writes the header of a record at `offset` of its file into the first 28 bytes of `target`.
    func encode(into target: UnsafeMutableRawPointer, offset: UInt64) {
        target.storeBytes(of: payloadChecksum.littleEndian, toByteOffset: 4, as: UInt32.self)
        target.storeBytes(of: payloadCount.littleEndian, toByteOffset: 8, as: UInt32.self)
        target.storeBytes(of: logNumber.littleEndian, toByteOffset: 12, as: UInt64.self)
        target.storeBytes(of: safeEnd.littleEndian, toByteOffset: 20, as: UInt64.self)
        let covered = UnsafeRawBufferPointer(start: target + 4, count: LogFormat.recordHeaderBytes - 4)
        let checksum = LogRecordHeader.checksum(covered, offset: offset)
        target.storeBytes(of: checksum.littleEndian, as: UInt32.self)
    }

    /// The header at `offset` of a file; nil when the bytes, which are not trusted, are not a header of this
    /// log that was written there.
    static func decode(_ bytes: UnsafeRawBufferPointer, logNumber: UInt64, offset: UInt64) -> LogRecordHeader? {
        guard bytes.count >= LogFormat.recordHeaderBytes, bytes.integer(at: 12, UInt64.self) == logNumber,
            bytes.integer(at: 8, UInt32.self) <= UInt32(LogFormat.maximumPayloadBytes),
            checksum(UnsafeRawBufferPointer(rebasing: bytes[4..<LogFormat.recordHeaderBytes]), offset: offset)
                == bytes.integer(at: 0, UInt32.self)
        else { return nil }
        return LogRecordHeader(
            payloadChecksum: bytes.integer(at: 4, UInt32.self),
            payloadCount: bytes.integer(at: 8, UInt32.self),
            logNumber: logNumber,
            safeEnd: bytes.integer(at: 20, UInt64.self)
        )
    }

    /// Whether a header of the log may begin at `index`; at least 28 bytes follow.
    @inline(__always)
    static func mayBegin(_ bytes: UnsafeRawBufferPointer, at index: Int, logNumber: UInt64) -> Bool {
        bytes.integer(at: index + 12, UInt64.self) == logNumber
    }

    private static func checksum(_ covered: UnsafeRawBufferPointer, offset: UInt64) -> UInt32 {
        let sum = CRC32C.checksum(covered)
        return CRC32C.masked(withUnsafeBytes(of: offset.littleEndian) { CRC32C.checksum($0, seed: sum) })
    }
}

extension UnsafeRawBufferPointer {
    /// The little-endian integer at an offset that the caller has checked.
    @inline(__always)
    fileprivate func integer<T: FixedWidthInteger>(at offset: Int, _ type: T.Type) -> T {
        T(littleEndian: loadUnaligned(fromByteOffset: offset, as: T.self))
    }
}
