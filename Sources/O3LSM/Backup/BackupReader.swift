import CLZ4

/// Reads a backup stream (`BackupFormat`), whose bytes are not trusted: what it hands out has passed its frame's
/// checksum, and frames come in their order, none missing. One thread.
final class BackupReader {
    private let source: (UnsafeMutableRawBufferPointer) throws(EngineError) -> Int
    private let name: String
    let header: BackupHeader
    private var frames: UInt64 = 0
    private var lastKey: [UInt8]?
    private(set) var counts = BackupCounts()

    /// - Parameters:
    ///   - name: of the stream, for errors.
    ///   - source: fills the buffer from its beginning and says how far; 0 at the end.
    init(name: String, _ source: @escaping (UnsafeMutableRawBufferPointer) throws(EngineError) -> Int)
        throws(EngineError)
    {
        self.name = name
        self.source = source
        var bytes = [UInt8](repeating: 0, count: BackupFormat.headerBytes)
        let count = try Self.fill(&bytes, source)
        bytes.removeLast(bytes.count - count)
        header = try bytes.withEngineBytes { bytes throws(EngineError) in try BackupHeader(bytes, file: name) }
        counts.streamBytes = UInt64(count)
    }

    /// Hands out every entry, a nil value for a key that is gone. Returns after the stream's proper end.
    ///
    /// - Throws: `.corruption` for a stream that is damaged or cut short, and what `body` throws.
    func forEach(
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?) throws(EngineError) -> Void
    ) throws(EngineError) {
        while true {
            let (kind, contents) = try readFrame()
            switch kind {
            case .entries: try contents.withEngineBytes { bytes throws(EngineError) in try entries(bytes, body) }
            case .end:
                let isWhole = contents.withUnsafeBytes { bytes in
                    var reader = ByteReader(bytes)
                    return bytes.count == 16 && reader.read(UInt64.self) == counts.values
                        && reader.read(UInt64.self) == counts.removals
                }
                guard isWhole else {
                    throw corrupt("the count of \(counts.values) values and \(counts.removals) removals", "another")
                }
                var rest = [UInt8](repeating: 0, count: 1)
                guard try Self.fill(&rest, source) == 0 else { throw corrupt("the end of the stream", "more bytes") }
                return
            }
        }
    }

    private func entries(
        _ bytes: UnsafeRawBufferPointer,
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?) throws(EngineError) -> Void
    ) throws(EngineError) {
        var reader = ByteReader(bytes)
        func next(_ limit: Int) -> UnsafeRawBufferPointer? {
            guard let count = reader.readVarint(), count <= UInt64(limit) else { return nil }
            return reader.readView(Int(count))
        }
        while reader.remaining > 0 {
            guard let kind = reader.read(UInt8.self), kind <= 1, let key = next(EntryLimits.maximumKeyBytes),
                !key.isEmpty
            else { throw corrupt("an entry", "other bytes") }
            if let lastKey, lastKey.withUnsafeBytes({ compareKeys($0, key) >= 0 }) {
                throw corrupt("keys in ascending order", "one that is not")
            }
            lastKey = Array(key)
            counts.bytes += UInt64(key.count)
            if kind == 0 {
                counts.removals += 1
                try body(key, nil)
            } else {
                guard let value = next(EntryLimits.maximumValueBytes) else { throw corrupt("a value", "other bytes") }
                counts.values += 1
                counts.bytes += UInt64(value.count)
                try body(key, value)
            }
        }
    }

    private func readFrame() throws(EngineError) -> (BackupFormat.FrameKind, [UInt8]) {
        var header = [UInt8](repeating: 0, count: BackupFormat.frameHeaderBytes)
        guard try Self.fill(&header, source) == header.count else { throw cutShort() }
        let (kind, size, storedSize, checksum) = header.withUnsafeBytes {
            ($0[0], Int($0.loadUnaligned(fromByteOffset: 4, as: UInt32.self).littleEndian),
                Int($0.loadUnaligned(fromByteOffset: 8, as: UInt32.self).littleEndian),
                $0.loadUnaligned(fromByteOffset: 12, as: UInt32.self).littleEndian)
        }
        guard let kind = BackupFormat.FrameKind(rawValue: kind), header[1...3].allSatisfy({ $0 == 0 }),
            (1...BackupFormat.maximumFrameBytes).contains(size), (1...size).contains(storedSize)
        else { throw corrupt("a frame", "other bytes") }
        var stored = [UInt8](repeating: 0, count: storedSize)
        guard try Self.fill(&stored, source) == storedSize else { throw cutShort() }
        let computed = header.withUnsafeBytes { header in
            stored.withUnsafeBytes { stored in
                BackupFormat.checksum(
                    index: frames, prefix: UnsafeRawBufferPointer(rebasing: header[..<12]), stored: stored)
            }
        }
        guard computed == checksum else {
            throw corrupt("checksum \(hexadecimal(UInt64(checksum))) of frame \(frames)", hexadecimal(UInt64(computed)))
        }
        frames += 1
        counts.streamBytes += UInt64(header.count + storedSize)
        guard storedSize < size else { return (kind, stored) }
        var contents = [UInt8](repeating: 0, count: size)
        let count = contents.withUnsafeMutableBytes { target in
            stored.withUnsafeBytes { stored in
                LZ4_decompress_safe(
                    stored.baseAddress?.assumingMemoryBound(to: CChar.self),
                    target.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(storedSize), Int32(size))
            }
        }
        guard count == Int32(size) else { throw corrupt("\(size) bytes of LZ4", "\(count)") }
        return (kind, contents)
    }

    private func cutShort() -> EngineError { corrupt("the rest of the stream", "its end") }

    private func corrupt(_ expected: String, _ found: String) -> EngineError {
        .corruption(file: name, offset: counts.streamBytes, expected: expected, found: found)
    }

    /// Reads until the array is full or the source at its end.
    private static func fill(
        _ bytes: inout [UInt8], _ source: (UnsafeMutableRawBufferPointer) throws(EngineError) -> Int
    ) throws(EngineError) -> Int {
        var filled = 0
        let wanted = bytes.count
        while filled < wanted {
            let outcome = bytes.withUnsafeMutableBytes { buffer -> Result<Int, EngineError> in
                do throws(EngineError) {
                    return .success(try source(UnsafeMutableRawBufferPointer(rebasing: buffer[filled...])))
                } catch { return .failure(error) }
            }
            let count = try outcome.get()
            if count == 0 { break }
            filled += count
        }
        return filled
    }
}
