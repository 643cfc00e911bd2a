/// How the manifest and jobs write a table down.
///
/// ```
/// varints: number, size, smallest sequence, largest sequence, entries, deletions, range tombstones
/// smallest key, largest key: varint length, user key, u64 trailer
/// varint: most deletions in a window, with `hasDensity` only
/// ```
extension FileMetadata {
    func encode(into writer: inout ByteWriter, hasDensity: Bool = true) {
        for number in [
            number, size, smallestSequence, largestSequence, entryCount, deletionCount, rangeTombstoneCount,
        ] { writer.appendVarint(number) }
        for key in [smallest, largest] {
            writer.append(prefixed: key.userKey)
            writer.append(key.trailer.rawValue)
        }
        if hasDensity { writer.appendVarint(densestDeletions) }
    }

    /// nil when the bytes, which are not trusted, do not describe a table.
    static func decode(_ reader: inout ByteReader, hasDensity: Bool = true) -> FileMetadata? {
        guard let number = reader.readVarint(), let size = reader.readVarint(),
            let smallestSequence = reader.readVarint(), let largestSequence = reader.readVarint(),
            let entryCount = reader.readVarint(), let deletionCount = reader.readVarint(),
            let rangeTombstoneCount = reader.readVarint(), let smallest = readKey(&reader),
            let largest = readKey(&reader), let densest = hasDensity ? reader.readVarint() : 0
        else { return nil }
        let file = FileMetadata(
            number: number,
            size: size,
            smallest: smallest,
            largest: largest,
            smallestSequence: smallestSequence,
            largestSequence: largestSequence,
            entryCount: entryCount,
            deletionCount: deletionCount,
            rangeTombstoneCount: rangeTombstoneCount,
            densestDeletions: densest
        )
        return file.isSane ? file : nil
    }

    /// Whether the description can be that of a table with anything in it.
    var isSane: Bool {
        number > 0 && smallestSequence <= largestSequence && largestSequence <= maximumSequenceNumber
            && deletionCount <= entryCount && smallest <= largest
            && densestDeletions <= min(deletionCount, UInt64(DeletionWindow.length))
            // An exclusive end at its own beginning: no key at all.
            && !(smallest.userKey == largest.userKey && largest.trailer == .first)
    }

    private static func readKey(_ reader: inout ByteReader) -> InternalKey? {
        guard let key = reader.readPrefixed(), let trailer = reader.read(UInt64.self) else { return nil }
        return InternalKey(userKey: key, trailer: Trailer(rawValue: trailer))
    }
}
