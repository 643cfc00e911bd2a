/// Reads a log file back. The bytes are not trusted; memory is bounded by the largest record.
enum LogReader {
    /// Calls `body` with each record's payload and offset, in order. The payload is valid during the call.
    ///
    /// - Returns: the offset after the last record that could be read: the clean end of the log. It is 0 when
    ///   not even a header of this log is there, which is how power loss leaves a new write-ahead log.
    /// - Throws: `.corruption` for a manifest without its header, and for anything that cannot be read although
    ///   a later record says that it had been synced; `.unsupportedFormat`; what `body` throws.
    @discardableResult
    static func forEach(
        storage: any Storage,
        path: String,
        logNumber: UInt64,
        kind: LogFormat.Kind,
        _ body: (_ payload: UnsafeRawBufferPointer, _ offset: UInt64) throws(EngineError) -> Void
    ) throws(EngineError) -> UInt64 {
        let window = FileWindow(try storage.openForReading(path))
        guard try hasHeader(window, path, logNumber, kind) else { return 0 }
        var offset = UInt64(LogFormat.fileHeaderBytes)
        while let payload = try record(window, offset, logNumber) {
            try body(payload, offset)
            offset += UInt64(LogFormat.recordHeaderBytes + payload.count)
        }
        if let later = try witness(window, logNumber, syncedBeyond: offset) {
            throw .corruption(
                file: path,
                offset: offset,
                expected: "a record, since the one at \(later) says that it was synced",
                found: "bytes whose checksum does not hold"
            )
        }
        return offset
    }

    /// As `forEach`, but goes on behind what cannot be read with the next record that can.
    ///
    /// - Parameter lost: told of each stretch that cannot be read although a later record can.
    static func forEachReadable(
        storage: any Storage,
        path: String,
        logNumber: UInt64,
        _ body: (_ payload: UnsafeRawBufferPointer, _ offset: UInt64) throws(EngineError) -> Void,
        lost: (_ offset: UInt64, _ bytes: UInt64) -> Void
    ) throws(EngineError) {
        let window = FileWindow(try storage.openForReading(path))
        var offset = UInt64(LogFormat.fileHeaderBytes)
        while true {
            while let payload = try record(window, offset, logNumber) {
                try body(payload, offset)
                offset += UInt64(LogFormat.recordHeaderBytes + payload.count)
            }
            var next = try header(window, logNumber, from: offset + 1)
            while let place = next, try record(window, place, logNumber) == nil {
                next = try header(window, logNumber, from: place + 1)
            }
            guard let next else { return }
            lost(offset, next - offset)
            offset = next
        }
    }

    /// False when the file begins with something else than the header of this log and may do so.
    private static func hasHeader(
        _ window: FileWindow,
        _ path: String,
        _ logNumber: UInt64,
        _ kind: LogFormat.Kind
    ) throws(EngineError) -> Bool {
        let found = try window.bytes(at: 0, LogFormat.fileHeaderBytes)
        if let found, found.elementsEqual(LogFormat.fileHeader(kind, logNumber)) { return true }
        if let version = found.flatMap(LogFormat.headerVersion), version != LogFormat.version {
            throw .unsupportedFormat(file: path, found: version, supported: LogFormat.version)
        }
        // A write-ahead log whose header was never synced: an empty or torn file, or the former life of a
        // recycled one. A manifest is named by CURRENT only once it is on storage.
        if kind == .writeAhead, try witness(window, logNumber, syncedBeyond: 0) == nil { return false }
        throw .corruption(
            file: path,
            offset: 0,
            expected: "the header of log \(logNumber)",
            found: found == nil ? "\(window.fileSize) bytes" : "other bytes"
        )
    }

    /// The payload of the record at `offset`; nil when there is none.
    private static func record(
        _ window: FileWindow,
        _ offset: UInt64,
        _ logNumber: UInt64
    ) throws(EngineError) -> UnsafeRawBufferPointer? {
        guard let bytes = try window.bytes(at: offset, LogFormat.recordHeaderBytes),
            let header = LogRecordHeader.decode(bytes, logNumber: logNumber, offset: offset),
            let payload = try window.bytes(
                at: offset + UInt64(LogFormat.recordHeaderBytes),
                Int(header.payloadCount)
            ),
            CRC32C.masked(CRC32C.checksum(payload)) == header.payloadChecksum
        else { return nil }
        return payload
    }

    /// The offset of a record beyond `offset` which proves that the bytes there had been synced: its header alone does,
    /// so no payload is checked.
    private static func witness(
        _ window: FileWindow,
        _ logNumber: UInt64,
        syncedBeyond offset: UInt64
    ) throws(EngineError) -> UInt64? {
        try header(window, logNumber, from: offset + 1) { header, place in
            header.safeEnd > offset && header.safeEnd <= place
        }
    }

    /// Where the first header of a record is that begins at `start` or later. One pass over the rest of the file.
    private static func header(
        _ window: FileWindow,
        _ logNumber: UInt64,
        from start: UInt64,
        where isWanted: (_ header: LogRecordHeader, _ place: UInt64) -> Bool = { _, _ in true }
    ) throws(EngineError) -> UInt64? {
        let headerBytes = LogFormat.recordHeaderBytes
        var candidate = start
        while let chunk = try window.bytes(atLeast: headerBytes, from: candidate) {
            var index = 0
            while index + headerBytes <= chunk.count {
                // Eight bytes decide nearly always.
                if LogRecordHeader.mayBegin(chunk, at: index, logNumber: logNumber),
                    let header = LogRecordHeader.decode(
                        UnsafeRawBufferPointer(rebasing: chunk[index..<index + headerBytes]),
                        logNumber: logNumber,
                        offset: candidate + UInt64(index)
                    ),
                    isWanted(header, candidate + UInt64(index))
                {
                    return candidate + UInt64(index)
                }
                index += 1
            }
            candidate += UInt64(index)
        }
        return nil
    }
}

/// The part of a file that is in memory; moves forward as it is asked for bytes. Not thread-safe.
private final class FileWindow {
    private let file: any ReadableFile
    private var buffer = ByteBuffer()
    private var start: UInt64 = 0

    private static let readBytes = 1 << 20

    init(_ file: any ReadableFile) { self.file = file }

    var fileSize: UInt64 { file.size }

    /// The `count` bytes from `offset`, valid until the next call; nil when the file ends before.
    @inline(__always)
    func bytes(at offset: UInt64, _ count: Int) throws(EngineError) -> UnsafeRawBufferPointer? {
        if offset < start || offset - start + UInt64(count) > UInt64(buffer.count) {
            guard offset <= fileSize, UInt64(count) <= fileSize - offset, try load(offset, count) else { return nil }
        }
        let first = Int(offset - start)
        return UnsafeRawBufferPointer(rebasing: buffer.bytes[first..<first + count])
    }

    /// Everything in memory from `offset` on, but at least `count` bytes; nil when the file ends before.
    func bytes(atLeast count: Int, from offset: UInt64) throws(EngineError) -> UnsafeRawBufferPointer? {
        guard try bytes(at: offset, count) != nil else { return nil }
        return UnsafeRawBufferPointer(rebasing: buffer.bytes[Int(offset - start)...])
    }

    /// Whether at least `count` bytes were there.
    private func load(_ offset: UInt64, _ count: Int) throws(EngineError) -> Bool {
        let wanted = max(count, Int(min(UInt64(FileWindow.readBytes), fileSize - offset)))
        buffer.truncate(to: 0)
        buffer.reserve(wanted)
        start = offset
        let found = try file.read(at: offset, into: UnsafeMutableRawBufferPointer(start: buffer.base, count: wanted))
        buffer.setCount(found)
        return found >= count
    }
}
