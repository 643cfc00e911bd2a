/// Appends records to a log file, from its start; the file may be new or a recycled one that is longer.
///
/// Not thread-safe: it moves between threads under its owner's lock. What is appended is on storage only when
/// `sync` has returned. An append that throws may be tried again as long as the file took nothing of it;
/// otherwise the writer is of no more use and repeats the error.
final class LogWriter: @unchecked Sendable {
    // @unchecked: its owner guards it.
    private let file: any WritableFile
    private let logNumber: UInt64
    /// Bytes that are certainly on storage.
    private var safeEnd: UInt64 = 0
    /// A record is put together here and appended in one piece, so that a full disk cannot leave half of one
    /// in front of the next.
    private var record = ByteBuffer(capacity: 4 << 10)
    private var failure: EngineError?

    /// Memory that a large record may leave behind for the next one.
    private static let keptBytes = 4 << 20

    /// Writes the file's header; it is synced with the first record unless the caller does so before.
    init(file: any WritableFile, logNumber: UInt64, kind: LogFormat.Kind) throws(EngineError) {
        self.file = file
        self.logNumber = logNumber
        try LogFormat.fileHeader(kind, logNumber).withEngineBytes { header throws(EngineError) in
            try file.append(header)
        }
    }

    /// Bytes of the log so far; the file behind a recycled one may be longer.
    var size: UInt64 { file.size }

    /// Appends one record.
    ///
    /// - Throws: `.invalidArgument` for more than `LogFormat.maximumPayloadBytes`, `.io`.
    func append(_ payload: UnsafeRawBufferPointer) throws(EngineError) {
        try begin(payload.count)
        record.append(payload)
        try finish()
    }

    /// Appends one record whose payload is the parts one behind the other.
    func append(_ parts: [UnsafeRawBufferPointer]) throws(EngineError) {
        try begin(parts.reduce(0) { $0 + $1.count })
        for part in parts { record.append(part) }
        try finish()
    }

    /// Returns when the operating system has everything appended so far.
    func flush() throws(EngineError) {
        if let failure { throw failure }
        try file.flush()
    }

    /// Returns when everything appended so far survives power loss.
    func sync() throws(EngineError) {
        if let failure { throw failure }
        try file.sync()
        safeEnd = file.size
    }

    func close() throws(EngineError) { try file.close() }

    private func begin(_ payloadCount: Int) throws(EngineError) {
        if let failure { throw failure }
        guard payloadCount <= LogFormat.maximumPayloadBytes else {
            throw .invalidArgument("a log record must have at most \(LogFormat.maximumPayloadBytes) bytes")
        }
        if record.count > LogWriter.keptBytes { record = ByteBuffer(capacity: 4 << 10) }
        record.truncate(to: 0)
        record.reserve(LogFormat.recordHeaderBytes + payloadCount)
        record.setCount(LogFormat.recordHeaderBytes)
    }

    private func finish() throws(EngineError) {
        let offset = file.size
        let payload = UnsafeRawBufferPointer(rebasing: record.bytes[LogFormat.recordHeaderBytes...])
        let header = LogRecordHeader(
            payloadChecksum: CRC32C.masked(CRC32C.checksum(payload)),
            payloadCount: UInt32(truncatingIfNeeded: payload.count),
            logNumber: logNumber,
            safeEnd: safeEnd
        )
        header.encode(into: record.base, offset: offset)
        do throws(EngineError) {
            try file.append(record.bytes)
        } catch {
            if file.size != offset { failure = error }
            throw error
        }
    }
}
