/// The record format that the write-ahead log and the manifest share.
///
/// ```
/// file    magic "O3LOG\0\0\0"  u32 format version  u32 kind  u64 log number  u32 masked CRC32C of these 24 bytes  u32 0
/// record  u32 masked CRC32C of everything below  u32 payload length  u64 log number  u64 safe end  payload
/// ```
/// The log number in every record keeps what is left of a recycled file's former life from being read.
/// `safe end` is the offset up to which the file had been synced when the record was written: a record that
/// cannot be read before that offset is corruption, one beyond it is the torn tail of a power loss.
enum LogFormat {
    static let magic: UInt64 = 0x0000_0047_4f4c_334f  // "O3LOG\0\0\0"
    static let version: UInt32 = 1
    static let fileHeaderBytes = 32
    static let recordHeaderBytes = 24
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
        let checksum = writer.bytes.withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) }
        writer.append(checksum)
        writer.append(UInt32(0))
        return writer.bytes
    }
}

/// Appends records to a log file, from its start. Not thread-safe.
final class LogWriter: @unchecked Sendable {
    // @unchecked: its owner guards it; it moves between threads under the owner's lock.
    private let file: any WritableFile
    private let logNumber: UInt64
    /// Bytes that are certainly on storage.
    private var safeEnd: UInt64 = 0

    /// Writes the file's header; it is synced with the first record.
    init(file: any WritableFile, logNumber: UInt64, kind: LogFormat.Kind) throws(EngineError) {
        self.file = file
        self.logNumber = logNumber
        try LogFormat.fileHeader(kind, logNumber).withEngineBytes { header throws(EngineError) in try file.append(header) }
    }

    var size: UInt64 { file.size }

    func append(_ payload: UnsafeRawBufferPointer) throws(EngineError) {
        guard payload.count <= LogFormat.maximumPayloadBytes else {
            throw .invalidArgument("a log record must have at most \(LogFormat.maximumPayloadBytes) bytes")
        }
        var writer = ByteWriter(capacity: LogFormat.recordHeaderBytes)
        writer.append(UInt32(truncatingIfNeeded: payload.count))
        writer.append(logNumber)
        writer.append(safeEnd)
        let checksum = CRC32C.checksum(payload, seed: writer.bytes.withUnsafeBytes { CRC32C.checksum($0) })
        var header = ByteWriter(capacity: LogFormat.recordHeaderBytes)
        header.append(CRC32C.masked(checksum))
        header.append(raw: writer.bytes)
        try header.bytes.withEngineBytes { bytes throws(EngineError) in try file.append(bytes) }
        try file.append(payload)
    }

    func sync() throws(EngineError) {
        try file.sync()
        safeEnd = file.size
    }

    func close() throws(EngineError) { try file.close() }
}

/// Reads a log file back. The bytes are not trusted.
enum LogReader {
    /// Calls `body` with each record's payload and offset, in order.
    ///
    /// - Returns: the offset after the last record that could be read.
    /// - Throws: `.corruption` for a foreign or damaged header, and for a record that cannot be read although
    ///   a later one says that it had been synced.
    @discardableResult
    static func forEach(
        storage: any Storage, path: String, logNumber: UInt64, kind: LogFormat.Kind,
        _ body: (_ payload: UnsafeRawBufferPointer, _ offset: UInt64) throws(EngineError) -> Void
    ) throws(EngineError) -> UInt64 {
        let file = try storage.openForReading(path)
        let bytes = try readWhole(file)
        let outcome = bytes.withUnsafeBytes { buffer -> Result<UInt64, EngineError> in
            do throws(EngineError) {
                return .success(try scan(buffer, path, logNumber, kind, body))
            } catch { return .failure(error) }
        }
        return try outcome.get()
    }

    private static func readWhole(_ file: any ReadableFile) throws(EngineError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(file.size))
        let outcome = bytes.withUnsafeMutableBytes { buffer -> Result<Int, EngineError> in
            do throws(EngineError) { return .success(try file.read(at: 0, into: buffer)) } catch { return .failure(error) }
        }
        let count = try outcome.get()
        if count < bytes.count { bytes.removeLast(bytes.count - count) }
        return bytes
    }

    private static func scan(
        _ buffer: UnsafeRawBufferPointer, _ path: String, _ logNumber: UInt64, _ kind: LogFormat.Kind,
        _ body: (_ payload: UnsafeRawBufferPointer, _ offset: UInt64) throws(EngineError) -> Void
    ) throws(EngineError) -> UInt64 {
        guard try hasHeader(buffer, path, logNumber, kind) else { return 0 }
        var offset = LogFormat.fileHeaderBytes
        while let record = record(buffer, offset, logNumber) {
            try body(record.payload, UInt64(offset))
            offset += LogFormat.recordHeaderBytes + record.payload.count
        }
        if let later = laterRecord(buffer, offset, logNumber) {
            throw .corruption(
                file: path, offset: UInt64(offset), expected: "a record, since the one at \(later) says it was synced",
                found: "bytes whose checksum does not hold")
        }
        return UInt64(offset)
    }

    /// False for a file whose header never reached storage: the log is empty.
    private static func hasHeader(
        _ buffer: UnsafeRawBufferPointer, _ path: String, _ logNumber: UInt64, _ kind: LogFormat.Kind
    ) throws(EngineError) -> Bool {
        guard buffer.count >= LogFormat.fileHeaderBytes else { return false }
        let expected = LogFormat.fileHeader(kind, logNumber)
        let found = [UInt8](buffer[0..<LogFormat.fileHeaderBytes])
        if found == expected { return true }
        if laterRecord(buffer, LogFormat.fileHeaderBytes, logNumber, mustBeSynced: false) == nil,
            kind == .writeAhead
        {
            // A recycled file of another number, zeros, or a torn first page: nothing of this log is in it.
            return false
        }
        let version = UInt32(littleEndian: buffer.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
        if UInt64(littleEndian: buffer.loadUnaligned(as: UInt64.self)) == LogFormat.magic, version != LogFormat.version {
            throw .unsupportedFormat(file: path, found: version, supported: LogFormat.version)
        }
        throw .corruption(
            file: path, offset: 0, expected: "the header of log \(logNumber)", found: "other bytes")
    }

    private static func record(_ buffer: UnsafeRawBufferPointer, _ offset: Int, _ logNumber: UInt64)
        -> (payload: UnsafeRawBufferPointer, safeEnd: UInt64)?
    {
        guard offset >= 0, buffer.count - offset >= LogFormat.recordHeaderBytes else { return nil }
        func load<T: FixedWidthInteger>(_ at: Int, _ type: T.Type) -> T {
            T(littleEndian: buffer.loadUnaligned(fromByteOffset: offset + at, as: T.self))
        }
        let length = Int(load(4, UInt32.self))
        guard load(8, UInt64.self) == logNumber, length <= LogFormat.maximumPayloadBytes,
            length <= buffer.count - offset - LogFormat.recordHeaderBytes
        else { return nil }
        let covered = UnsafeRawBufferPointer(
            rebasing: buffer[offset + 4..<offset + LogFormat.recordHeaderBytes + length])
        guard CRC32C.masked(CRC32C.checksum(covered)) == load(0, UInt32.self) else { return nil }
        let payload = UnsafeRawBufferPointer(rebasing: covered[(LogFormat.recordHeaderBytes - 4)...])
        return (payload, load(16, UInt64.self))
    }

    /// The offset of a readable record of this log beyond a place where there is none, if it proves that the
    /// place had been synced.
    private static func laterRecord(
        _ buffer: UnsafeRawBufferPointer, _ start: Int, _ logNumber: UInt64, mustBeSynced: Bool = true
    ) -> Int? {
        // Only places that hold this log's number are worth a checksum, so that this stays cheap.
        var offset = start
        while buffer.count - offset >= LogFormat.recordHeaderBytes {
            if UInt64(littleEndian: buffer.loadUnaligned(fromByteOffset: offset + 8, as: UInt64.self)) == logNumber,
                let found = record(buffer, offset, logNumber), !mustBeSynced || found.safeEnd > UInt64(start)
            {
                return offset
            }
            offset += 1
        }
        return nil
    }
}
