extension FileMetadata {
    func encodeForJob(into writer: inout ByteWriter) {
        for number in [
            number, size, smallestSequence, largestSequence, entryCount, deletionCount, rangeTombstoneCount,
        ] { writer.appendVarint(number) }
        for key in [smallest, largest] {
            writer.append(prefixed: key.userKey)
            writer.append(key.trailer.rawValue)
        }
    }

    /// nil when the bytes do not describe a table.
    static func decodeForJob(_ reader: inout ByteReader) -> FileMetadata? {
        func readKey(_ reader: inout ByteReader) -> InternalKey? {
            guard let key = reader.readPrefixed(), let trailer = reader.read(UInt64.self) else { return nil }
            return InternalKey(userKey: key, trailer: Trailer(rawValue: trailer))
        }
        guard let number = reader.readVarint(), number < 1 << 62, let size = reader.readVarint(), size < 1 << 62,
            let smallestSequence = reader.readVarint(), let largestSequence = reader.readVarint(),
            smallestSequence <= largestSequence, largestSequence <= maximumSequenceNumber,
            let entries = reader.readVarint(), let deletions = reader.readVarint(),
            let rangeTombstones = reader.readVarint(),
            entries < 1 << 56, deletions <= entries, rangeTombstones < 1 << 56,
            let smallest = readKey(&reader), let largest = readKey(&reader), smallest <= largest,
            smallest.userKey != largest.userKey || largest.trailer != .first
        else { return nil }
        return FileMetadata(
            number: number, size: size, smallest: smallest, largest: largest, smallestSequence: smallestSequence,
            largestSequence: largestSequence, entryCount: entries, deletionCount: deletions,
            rangeTombstoneCount: rangeTombstones)
    }
}
