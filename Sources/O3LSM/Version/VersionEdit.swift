/// A change from one version of the tree to the next: what the manifest records.
///
/// Encoded as fields, each a tag byte and its contents (`docs/formats.md`). Deletions are applied before
/// additions, so that a table can move from one level to another within an edit.
struct VersionEdit {
    var addedFiles: [(level: Int, file: FileMetadata)] = []
    var deletedFiles: [(level: Int, number: UInt64)] = []
    /// Everything up to this sequence is in tables.
    var flushedSequence: SequenceNumber?
    /// No file of the store has this number or a greater one.
    var nextFileNumber: UInt64?
    /// No entry in a table had a greater sequence.
    var lastSequence: SequenceNumber?

    init() {}

    private enum Tag: UInt8 {
        case addedFile = 1
        case deletedFile = 2
        case flushedSequence = 3
        case nextFileNumber = 4
        case lastSequence = 5
        case addedFileWithDensity = 6
    }

    func encode() -> [UInt8] {
        var writer = ByteWriter(capacity: 64 + addedFiles.count * 128)
        for (level, number) in deletedFiles {
            writer.append(Tag.deletedFile.rawValue)
            writer.appendVarint(UInt64(level))
            writer.appendVarint(number)
        }
        for (level, file) in addedFiles {
            let hasDensity = file.densestDeletions > 0
            writer.append((hasDensity ? Tag.addedFileWithDensity : .addedFile).rawValue)
            writer.appendVarint(UInt64(level))
            file.encode(into: &writer, hasDensity: hasDensity)
        }
        if let flushedSequence {
            writer.append(Tag.flushedSequence.rawValue)
            writer.appendVarint(flushedSequence)
        }
        if let nextFileNumber {
            writer.append(Tag.nextFileNumber.rawValue)
            writer.appendVarint(nextFileNumber)
        }
        if let lastSequence {
            writer.append(Tag.lastSequence.rawValue)
            writer.appendVarint(lastSequence)
        }
        return writer.bytes
    }

    /// - Throws: `.corruption` with `file` and `offset` when the bytes are not an edit.
    static func decode(_ bytes: UnsafeRawBufferPointer, file: String, offset: UInt64) throws(EngineError) -> VersionEdit
    {
        var edit = VersionEdit()
        var reader = ByteReader(bytes)
        func corrupt(_ expected: String, _ found: String) -> EngineError {
            .corruption(file: file, offset: offset + UInt64(reader.offset), expected: expected, found: found)
        }
        while reader.remaining > 0 {
            guard let raw = reader.read(UInt8.self), let tag = Tag(rawValue: raw) else {
                throw corrupt("a field of a version edit", "an unknown tag")
            }
            switch tag {
            case .addedFile, .addedFileWithDensity:
                guard let level = reader.readVarint(), level < UInt64(Version.levelCount),
                    let metadata = FileMetadata.decode(&reader, hasDensity: tag == .addedFileWithDensity)
                else { throw corrupt("a table's description", "other bytes") }
                edit.addedFiles.append((Int(level), metadata))
            case .deletedFile:
                guard let level = reader.readVarint(), level < UInt64(Version.levelCount),
                    let number = reader.readVarint()
                else { throw corrupt("a removed table", "other bytes") }
                edit.deletedFiles.append((Int(level), number))
            case .flushedSequence:
                guard let sequence = reader.readVarint(), sequence <= maximumSequenceNumber else {
                    throw corrupt("the flushed sequence", "other bytes")
                }
                edit.flushedSequence = sequence
            case .lastSequence:
                guard let sequence = reader.readVarint(), sequence <= maximumSequenceNumber else {
                    throw corrupt("the last sequence", "other bytes")
                }
                edit.lastSequence = sequence
            case .nextFileNumber:
                guard let number = reader.readVarint() else { throw corrupt("a file number", "other bytes") }
                edit.nextFileNumber = number
            }
        }
        return edit
    }
}
