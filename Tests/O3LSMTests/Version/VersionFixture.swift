@testable import O3LSM

extension FileMetadata {
    /// A table for tests of versions; no file stands behind it.
    static func table(
        _ number: UInt64,
        _ smallest: String,
        _ largest: String,
        sequences: ClosedRange<UInt64> = 1...1,
        exclusiveEnd: Bool = false,
        densestDeletions: UInt64 = 0
    ) -> FileMetadata {
        FileMetadata(
            number: number,
            size: number * 1000,
            smallest: InternalKey(
                userKey: Array(smallest.utf8),
                trailer: Trailer(sequence: sequences.upperBound, kind: .put)
            ),
            largest: InternalKey(
                userKey: Array(largest.utf8),
                trailer: exclusiveEnd ? .first : Trailer(sequence: sequences.lowerBound, kind: .put)
            ),
            smallestSequence: sequences.lowerBound,
            largestSequence: sequences.upperBound,
            entryCount: 10,
            deletionCount: 2,
            rangeTombstoneCount: exclusiveEnd ? 1 : 0,
            densestDeletions: densestDeletions
        )
    }

    /// Everything the manifest holds of the table.
    var description: String {
        "\(number) \(size) \(smallest) \(largest) \(smallestSequence) \(largestSequence) \(entryCount) \(deletionCount)"
            + " \(rangeTombstoneCount) \(densestDeletions)"
    }
}

extension Version {
    var descriptions: [[String]] { levels.map { $0.map(\.description) } }
    var numbers: [[UInt64]] { levels.map { $0.map(\.number) } }
}

extension VersionEdit {
    static func adding(_ files: [(level: Int, file: FileMetadata)], flushed: SequenceNumber? = nil) -> VersionEdit {
        var edit = VersionEdit()
        edit.addedFiles = files
        edit.flushedSequence = flushed
        return edit
    }

    static func moving(_ deleted: [(level: Int, number: UInt64)], to added: [(level: Int, file: FileMetadata)])
        -> VersionEdit
    {
        var edit = VersionEdit()
        (edit.deletedFiles, edit.addedFiles) = (deleted, added)
        return edit
    }

    var description: String {
        "\(addedFiles.map { "\($0.level): \($0.file.description)" }) \(deletedFiles) \(String(describing: flushedSequence))"
            + " \(String(describing: nextFileNumber)) \(String(describing: lastSequence))"
    }

    static func decoding(_ bytes: [UInt8]) throws(EngineError) -> VersionEdit {
        try bytes.withEngineBytes { (buffer) throws(EngineError) in try decode(buffer, file: "M", offset: 100) }
    }
}
