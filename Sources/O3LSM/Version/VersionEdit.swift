/// A change from one version of the tree to the next: what the manifest records.
struct VersionEdit {
    var addedFiles: [(level: Int, file: FileMetadata)] = []
    var deletedFiles: [(level: Int, number: UInt64)] = []
    /// Everything up to this sequence is in tables.
    var flushedSequence: SequenceNumber?
    /// No file of the store has this number or a greater one.
    var nextFileNumber: UInt64?

    init() {}

    private enum Tag: UInt8 {
        case addedFile = 1
        case deletedFile = 2
        case flushedSequence = 3
        case nextFileNumber = 4
    }

    /// Each field is a tag byte and its contents; files may occur any number of times.
    func encode() -> [UInt8] {
        var writer = ByteWriter(capacity: 64 + addedFiles.count * 128)
        for (level, number) in deletedFiles {
            writer.append(Tag.deletedFile.rawValue)
            writer.appendVarint(UInt64(level))
            writer.appendVarint(number)
        }
        for (level, file) in addedFiles {
            writer.append(Tag.addedFile.rawValue)
            writer.appendVarint(UInt64(level))
            file.encode(into: &writer)
        }
        if let flushedSequence {
            writer.append(Tag.flushedSequence.rawValue)
            writer.appendVarint(flushedSequence)
        }
        if let nextFileNumber {
            writer.append(Tag.nextFileNumber.rawValue)
            writer.appendVarint(nextFileNumber)
        }
        return writer.bytes
    }

    /// - Throws: `.corruption` with `file` and `offset` when the bytes are not an edit.
    static func decode(_ bytes: UnsafeRawBufferPointer, file: String, offset: UInt64) throws(EngineError) -> VersionEdit {
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
            case .addedFile:
                guard let level = reader.readVarint(), level < UInt64(Version.levelCount),
                    let metadata = FileMetadata.decode(&reader)
                else { throw corrupt("a table's description", "other bytes") }
                edit.addedFiles.append((Int(level), metadata))
            case .deletedFile:
                guard let level = reader.readVarint(), level < UInt64(Version.levelCount),
                    let number = reader.readVarint()
                else { throw corrupt("a removed table", "other bytes") }
                edit.deletedFiles.append((Int(level), number))
            case .flushedSequence:
                guard let sequence = reader.readVarint(), sequence <= maximumSequenceNumber else {
                    throw corrupt("a sequence number", "other bytes")
                }
                edit.flushedSequence = sequence
            case .nextFileNumber:
                guard let number = reader.readVarint() else { throw corrupt("a file number", "other bytes") }
                edit.nextFileNumber = number
            }
        }
        return edit
    }
}

extension FileMetadata {
    func encode(into writer: inout ByteWriter) {
        for number in [
            number, size, smallestSequence, largestSequence, entryCount, deletionCount, rangeTombstoneCount,
        ] { writer.appendVarint(number) }
        for key in [smallest, largest] {
            writer.append(prefixed: key.userKey)
            writer.append(key.trailer.rawValue)
        }
    }

    /// nil when the bytes do not describe a table.
    static func decode(_ reader: inout ByteReader) -> FileMetadata? {
        guard let number = reader.readVarint(), let size = reader.readVarint(),
            let smallestSequence = reader.readVarint(), let largestSequence = reader.readVarint(),
            let entryCount = reader.readVarint(), let deletionCount = reader.readVarint(),
            let rangeTombstoneCount = reader.readVarint(), let smallestKey = reader.readPrefixed(),
            let smallestTrailer = reader.read(UInt64.self), let largestKey = reader.readPrefixed(),
            let largestTrailer = reader.read(UInt64.self), smallestSequence <= largestSequence,
            largestSequence <= maximumSequenceNumber
        else { return nil }
        let smallest = InternalKey(userKey: smallestKey, trailer: Trailer(rawValue: smallestTrailer))
        let largest = InternalKey(userKey: largestKey, trailer: Trailer(rawValue: largestTrailer))
        guard smallest <= largest else { return nil }
        return FileMetadata(
            number: number, size: size, smallest: smallest, largest: largest, smallestSequence: smallestSequence,
            largestSequence: largestSequence, entryCount: entryCount, deletionCount: deletionCount,
            rangeTombstoneCount: rangeTombstoneCount)
    }
}
