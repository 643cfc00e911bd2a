/// What a table says of itself. Written by the builder, checked by the reader and by `Table.verify`.
struct TableProperties: Equatable, Sendable {
    /// Point entries (puts and deletes), and the deletes among them.
    var entryCount: UInt64 = 0
    var deletionCount: UInt64 = 0
    var rangeTombstoneCount: UInt64 = 0
    /// Bounds of entries and range tombstones, as in `FileMetadata`.
    var smallest = InternalKey(userKey: [], trailer: .last)
    var largest = InternalKey(userKey: [], trailer: .last)
    var smallestSequence: SequenceNumber = 0
    var largestSequence: SequenceNumber = 0
    /// Bytes of user keys and of values before prefix and block compression.
    var rawKeyBytes: UInt64 = 0
    var rawValueBytes: UInt64 = 0
    var dataBlockCount: UInt64 = 0
    /// Where the data blocks end in the file; they begin right after the header and leave no gaps.
    var dataEnd: UInt64 = 0
    /// Distinct user keys in the filter.
    var filterKeyCount: UInt64 = 0
    /// The most deletes among `DeletionWindow.length` consecutive entries; nil: the table's writer did not count them.
    var densestDeletions: UInt64?
    /// What the builder was told; a block says of itself how it is stored.
    var compression = Compression.none

    /// What the manifest needs to know of the table.
    func metadata(number: UInt64, size: UInt64) -> FileMetadata {
        FileMetadata(
            number: number,
            size: size,
            smallest: smallest,
            largest: largest,
            smallestSequence: smallestSequence,
            largestSequence: largestSequence,
            entryCount: entryCount,
            deletionCount: deletionCount,
            rangeTombstoneCount: rangeTombstoneCount,
            densestDeletions: densestDeletions ?? 0
        )
    }
}

// MARK: - Encoding: fields of tag, length, bytes. A reader skips tags it does not know.

extension TableProperties {
    /// Never renumbered, never reused.
    private enum Tag: UInt64, CaseIterable {
        case entryCount = 1
        case deletionCount = 2
        case rangeTombstoneCount = 3
        case smallest = 4
        case largest = 5
        case smallestSequence = 6
        case largestSequence = 7
        case rawKeyBytes = 8
        case rawValueBytes = 9
        case dataBlockCount = 10
        case dataEnd = 11
        case filterKeyCount = 12
        case compression = 13
        case densestDeletions = 14

        /// Tables of older writers lack it.
        var isOptional: Bool { self == .densestDeletions }
    }

    private static let numbers: [(Tag, WritableKeyPath<TableProperties, UInt64> & Sendable)] = [
        (.entryCount, \.entryCount), (.deletionCount, \.deletionCount),
        (.rangeTombstoneCount, \.rangeTombstoneCount), (.smallestSequence, \.smallestSequence),
        (.largestSequence, \.largestSequence), (.rawKeyBytes, \.rawKeyBytes), (.rawValueBytes, \.rawValueBytes),
        (.dataBlockCount, \.dataBlockCount), (.dataEnd, \.dataEnd), (.filterKeyCount, \.filterKeyCount),
    ]

    func encode() -> [UInt8] {
        var writer = ByteWriter(capacity: 256)
        func field(_ tag: Tag, _ bytes: [UInt8]) {
            writer.appendVarint(tag.rawValue)
            writer.append(prefixed: bytes)
        }
        func field(_ tag: Tag, _ number: UInt64) {
            var bytes = ByteWriter(capacity: 10)
            bytes.appendVarint(number)
            field(tag, bytes.bytes)
        }
        for (tag, path) in Self.numbers { field(tag, self[keyPath: path]) }
        if let densestDeletions { field(.densestDeletions, densestDeletions) }
        for (tag, key) in [(Tag.smallest, smallest), (Tag.largest, largest)] {
            var bytes = ByteWriter(capacity: key.userKey.count + 8)
            bytes.append(raw: key.userKey)
            bytes.append(key.trailer.rawValue)
            field(tag, bytes.bytes)
        }
        field(.compression, Array(compression.rawValue.utf8))
        return writer.bytes
    }

    /// Throws `.corruption` for what is malformed or cannot be, and for a field that every table has and this one lacks.
    static func decode(
        _ bytes: UnsafeRawBufferPointer,
        file: String,
        offset: UInt64
    ) throws(EngineError) -> TableProperties {
        func corrupt(_ expected: String, _ found: String) -> EngineError {
            .corruption(file: file, offset: offset, expected: expected, found: found)
        }
        var reader = ByteReader(bytes)
        var result = TableProperties()
        var missing = Set(Tag.allCases.filter { !$0.isOptional })
        while reader.remaining > 0 {
            guard let rawTag = reader.readVarint(), let value = reader.readPrefixed() else {
                throw corrupt("a property", "\(reader.remaining) bytes that make none")
            }
            guard let tag = Tag(rawValue: rawTag) else { continue }
            guard result.set(tag, value) else { throw corrupt("a value of property \(tag)", "\(value.count) bytes") }
            missing.remove(tag)
        }
        guard missing.isEmpty else {
            throw corrupt("all properties", "none of \(missing.map { "\($0)" }.sorted().joined(separator: ", "))")
        }
        let mostDeletions = min(result.deletionCount, UInt64(DeletionWindow.length))
        if let densest = result.densestDeletions, densest > mostDeletions {
            throw corrupt("at most \(mostDeletions) deletes in a window", "\(densest)")
        }
        return result
    }

    private mutating func set(_ tag: Tag, _ value: [UInt8]) -> Bool {
        switch tag {
        case .smallest, .largest:
            guard let key = Self.internalKey(value) else { return false }
            if tag == .smallest { smallest = key } else { largest = key }
        case .compression:
            guard let compression = Compression(rawValue: String(decoding: value, as: UTF8.self)) else { return false }
            self.compression = compression
        default:
            let number = value.withUnsafeBytes { bytes -> UInt64? in
                var reader = ByteReader(bytes)
                guard let number = reader.readVarint(), reader.remaining == 0 else { return nil }
                return number
            }
            guard let number else { return false }
            if tag == .densestDeletions {
                densestDeletions = number
                return true
            }
            guard let path = Self.numbers.first(where: { $0.0 == tag })?.1 else { return false }
            self[keyPath: path] = number
        }
        return true
    }

    private static func internalKey(_ bytes: [UInt8]) -> InternalKey? {
        guard bytes.count >= 8 else { return nil }
        let raw = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: bytes.count - 8, as: UInt64.self) }
        return InternalKey(userKey: Array(bytes.dropLast(8)), trailer: Trailer(rawValue: UInt64(littleEndian: raw)))
    }
}
