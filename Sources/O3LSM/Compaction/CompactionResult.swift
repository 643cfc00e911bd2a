/// What an executor answers: the tables it wrote, and an account of every entry it read.
struct CompactionResult: Sendable {
    /// By key, disjoint; synced.
    var outputs: [FileMetadata] = []
    /// Point entries read and written.
    var entriesIn: UInt64 = 0
    var entriesOut: UInt64 = 0
    /// Point entries dropped: hidden by a newer entry of their key, by a range tombstone, and deletes with
    /// nothing left to delete.
    var shadowedEntries: UInt64 = 0
    var coveredEntries: UInt64 = 0
    var droppedDeletes: UInt64 = 0
    /// Range tombstones read and written, fragment by fragment.
    var rangeTombstonesIn: UInt64 = 0
    var rangeTombstonesOut: UInt64 = 0
    var bytesRead: UInt64 = 0
    var bytesWritten: UInt64 = 0

    var entriesDropped: UInt64 { shadowedEntries &+ coveredEntries &+ droppedDeletes }

    private static let formatVersion: UInt8 = 2
    private static let counters: [WritableKeyPath<CompactionResult, UInt64> & Sendable] = [
        \.entriesIn, \.entriesOut, \.shadowedEntries, \.coveredEntries, \.droppedDeletes, \.rangeTombstonesIn,
        \.rangeTombstonesOut, \.bytesRead, \.bytesWritten,
    ]

    func encode() -> [UInt8] {
        var writer = ByteWriter(capacity: 256)
        writer.append(Self.formatVersion)
        for counter in Self.counters { writer.appendVarint(self[keyPath: counter]) }
        writer.appendVarint(UInt64(outputs.count))
        for file in outputs { file.encode(into: &writer) }
        writer.appendChecksum()
        return writer.bytes
    }

    /// - Throws: `.corruption` that names `source` when the bytes are not a result. That they are does not
    ///   make them true: see `Compaction.validate`.
    static func decode(_ bytes: UnsafeRawBufferPointer, source: String) throws(EngineError) -> CompactionResult {
        guard let body = checkedBody(bytes) else {
            throw .corruption(
                file: source, offset: 0, expected: "a compaction result with its checksum",
                found: "\(bytes.count) other bytes")
        }
        var reader = ByteReader(body)
        guard let result = read(&reader), reader.remaining == 0 else {
            throw .corruption(
                file: source, offset: UInt64(reader.offset), expected: "a field of a compaction result",
                found: "other bytes")
        }
        return result
    }

    private static func read(_ reader: inout ByteReader) -> CompactionResult? {
        guard reader.read(UInt8.self) == formatVersion else { return nil }
        var result = CompactionResult()
        for counter in counters {
            guard let value = reader.readVarint(), value < 1 << 62 else { return nil }
            result[keyPath: counter] = value
        }
        guard let outputs = readList(&reader, { FileMetadata.decode(&$0) }) else { return nil }
        result.outputs = outputs
        return result
    }

    /// The result of a job from those of its parts, in the order of their key ranges.
    static func joining(_ parts: [CompactionResult]) -> CompactionResult {
        var result = CompactionResult()
        for part in parts {
            result.outputs += part.outputs
            for counter in counters { result[keyPath: counter] &+= part[keyPath: counter] }
        }
        return result
    }
}
