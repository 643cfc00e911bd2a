/// Writes one table from front to back. Not thread-safe; used once.
///
/// After a throw the file is worthless and the builder must not be used again. The caller closes the
/// file, and removes it when the build failed or `finish` answered nil.
///
/// One thread uses it, and what it calls (the file, the encoder) never calls back. Hence its properties
/// need no exclusivity checks at run time, of which each entry would cost a dozen.
final class TableBuilder {
    private let file: any WritableFile
    private let number: UInt64
    private let options: TableOptions
    @exclusivity(unchecked) private var encoder: BlockEncoder
    @exclusivity(unchecked) private var block: BlockBuilder
    @exclusivity(unchecked) private var index: IndexBuilder
    @exclusivity(unchecked) private var properties = TableProperties()
    @exclusivity(unchecked) private var deletions = DeletionWindow()
    @exclusivity(unchecked) private var offset: UInt64 = 0

    /// The last entry's key; its block's handle once the block is written and not yet in the index.
    @exclusivity(unchecked) private var lastKey = ByteBuffer(capacity: 256)
    @exclusivity(unchecked) private var lastTrailer = Trailer.last
    @exclusivity(unchecked) private var pendingBlock = BlockHandle.none
    @exclusivity(unchecked) private var firstKey: InternalKey?

    @exclusivity(unchecked) private var hashes: [UInt64] = []
    @exclusivity(unchecked) private var filter = ByteBuffer()
    @exclusivity(unchecked) private var tombstones: [RangeTombstone] = []

    /// - Parameters:
    ///   - file: an empty file.
    ///   - number: the file's number in the store.
    init(file: any WritableFile, number: UInt64, options: TableOptions) {
        self.file = file
        self.number = number
        self.options = options
        encoder = BlockEncoder(options.compression)
        block = BlockBuilder(
            restartInterval: options.restartInterval,
            capacity: options.blockSize + options.blockSize / 4
        )
        index = IndexBuilder(blockSize: options.indexBlockSize)
        properties.compression = options.compression
        properties.smallestSequence = .max
    }

    /// Point entries so far.
    var entryCount: UInt64 { properties.entryCount }

    /// About the bytes that the file would have if it were finished now.
    var estimatedSize: UInt64 {
        let filter = options.bloomBitsPerKey > 0 ? hashes.count * options.bloomBitsPerKey / 8 : 0
        return offset + UInt64(block.size + index.size + filter + tombstones.count * 64 + TableFormat.footerBytes)
    }

    /// Appends a put or a delete that sorts after all before it. Throws `.invalidArgument` when it
    /// does not, and what the file throws.
    func add(
        _ userKey: UnsafeRawBufferPointer,
        _ trailer: Trailer,
        _ value: UnsafeRawBufferPointer
    ) throws(EngineError) {
        guard let kind = trailer.kind, kind != .rangeDelete else {
            throw .invalidArgument("a table entry is a put or a delete, not kind \(trailer.rawValue & 0xff)")
        }
        if offset == 0 { try writeHeader() }
        let shared: Int
        var isNewKey = true
        if firstKey == nil {
            firstKey = InternalKey(userKey, trailer)
            shared = 0
        } else {
            (shared, isNewKey) = try compareToLast(userKey, trailer)
            if !pendingBlock.isNone { try indexPendingBlock(before: userKey, shared: shared, isNewKey) }
        }
        if isNewKey, options.bloomBitsPerKey > 0 { hashes.append(hashKey(userKey)) }
        block.add(userKey, trailer, value, shared: shared)
        lastKey.truncate(to: shared)
        lastKey.append(UnsafeRawBufferPointer(rebasing: userKey.dropFirst(shared)))
        lastTrailer = trailer
        count(userKey.count, trailer.sequence, kind, value.count)
        if block.size >= options.blockSize { try finishBlock() }
    }

    /// Adds a range tombstone, in any order, at any time before `finish`. An empty range is ignored.
    func addRangeTombstone(_ tombstone: RangeTombstone) throws(EngineError) {
        guard compareKeys(tombstone.begin, tombstone.end) < 0 else { return }
        tombstones.append(tombstone)
        widen(tombstone.sequence)
    }

    /// Writes what is left, and syncs the file. Answers nil, with the file untouched, when nothing was added.
    func finish() throws(EngineError) -> FileMetadata? {
        guard firstKey != nil || !tombstones.isEmpty else { return nil }
        if offset == 0 { try writeHeader() }
        if !block.isEmpty { try finishBlock() }
        if !pendingBlock.isNone {
            try index.add(InternalKey(lastKey.bytes, lastTrailer), pendingBlock)
            pendingBlock = .none
        }
        properties.dataEnd = offset
        var footer = TableFooter()
        footer.filter = try writeFilter()
        footer.tombstones = try writeTombstones()
        (footer.index, footer.indexLevels) = try index.finish { (contents) throws(EngineError) in
            try writeBlock(contents, compress: true)
        }
        setBounds()
        properties.densestDeletions = deletions.most
        footer.properties = try writeBlock(properties.encode(), compress: false)
        try appendRaw(footer.encode())
        try file.sync()
        return properties.metadata(number: number, size: offset)
    }

    // MARK: - Order and index

    /// How much of the last user key the new one shares, and whether it is another one.
    private func compareToLast(
        _ userKey: UnsafeRawBufferPointer,
        _ trailer: Trailer
    ) throws(EngineError) -> (shared: Int, isNewKey: Bool) {
        let limit = min(lastKey.count, userKey.count)
        var shared = 0
        if let start = userKey.baseAddress { shared = commonPrefixLength(lastKey.base, start, limit) }
        let isNewKey = shared < userKey.count || shared < lastKey.count
        let isAfter: Bool
        if shared < limit {
            isAfter = lastKey.bytes[shared] < userKey[shared]
        } else if isNewKey {
            isAfter = lastKey.count < userKey.count
        } else {
            isAfter = lastTrailer.rawValue > trailer.rawValue
        }
        guard isAfter else { throw .invalidArgument("entries of a table must be added in ascending order") }
        return (shared, isNewKey)
    }

    /// The shortest key that separates two user keys is what the second one needs to differ from the
    /// first; two entries of one user key can only be separated by the first of them.
    private func indexPendingBlock(
        before userKey: UnsafeRawBufferPointer,
        shared: Int,
        _ isNewKey: Bool
    ) throws(EngineError) {
        let separator =
            isNewKey
            ? InternalKey(UnsafeRawBufferPointer(rebasing: userKey.prefix(shared + 1)), .first)
            : InternalKey(lastKey.bytes, lastTrailer)
        try index.add(separator, pendingBlock)
        pendingBlock = .none
    }

    // MARK: - Properties

    private func count(_ keyBytes: Int, _ sequence: SequenceNumber, _ kind: EntryKind, _ valueBytes: Int) {
        properties.entryCount += 1
        if kind == .delete { properties.deletionCount += 1 }
        deletions.add(isDelete: kind == .delete)
        properties.rawKeyBytes += UInt64(keyBytes)
        properties.rawValueBytes += UInt64(valueBytes)
        widen(sequence)
    }

    private func widen(_ sequence: SequenceNumber) {
        properties.smallestSequence = min(properties.smallestSequence, sequence)
        properties.largestSequence = max(properties.largestSequence, sequence)
    }

    private func setBounds() {
        var smallest = firstKey
        var largest = firstKey.map { _ in InternalKey(lastKey.bytes, lastTrailer) }
        for tombstone in tombstones {
            let begin = InternalKey(
                userKey: tombstone.begin,
                trailer: Trailer(sequence: tombstone.sequence, kind: .rangeDelete)
            )
            let end = InternalKey(userKey: tombstone.end, trailer: .first)
            smallest = smallest.map { min($0, begin) } ?? begin
            largest = largest.map { max($0, end) } ?? end
        }
        if let smallest, let largest { (properties.smallest, properties.largest) = (smallest, largest) }
    }

    // MARK: - Writing

    private func writeHeader() throws(EngineError) { try appendRaw(TableFormat.encodeHeader()) }

    private func finishBlock() throws(EngineError) {
        let start = offset
        pendingBlock = try block.finish { (contents) throws(EngineError) in
            try encoder.write(contents, compress: true, to: file, at: start)
        }
        offset = pendingBlock.end
        properties.dataBlockCount += 1
    }

    private func writeFilter() throws(EngineError) -> BlockHandle {
        guard options.bloomBitsPerKey > 0, !hashes.isEmpty else { return .none }
        properties.filterKeyCount = UInt64(hashes.count)
        BloomFilter.build(hashes, bitsPerKey: options.bloomBitsPerKey, into: &filter)
        let handle = try encoder.write(filter.bytes, compress: false, to: file, at: offset)
        offset = handle.end
        return handle
    }

    private func writeTombstones() throws(EngineError) -> BlockHandle {
        guard !tombstones.isEmpty else { return .none }
        properties.rangeTombstoneCount = UInt64(tombstones.count)
        tombstones.sort { left, right in
            let order = compareKeys(left.begin, right.begin)
            if order != 0 { return order < 0 }
            if left.sequence != right.sequence { return left.sequence > right.sequence }
            return compareKeys(left.end, right.end) < 0
        }
        var builder = BlockBuilder(restartInterval: 1, capacity: 4096)
        for tombstone in tombstones {
            tombstone.begin.withUnsafeBytes { begin in
                tombstone.end.withUnsafeBytes { end in
                    builder.add(begin, Trailer(sequence: tombstone.sequence, kind: .rangeDelete), end, shared: 0)
                }
            }
        }
        let contents = try builder.finish { (bytes) throws(EngineError) in [UInt8](bytes) }
        return try writeBlock(contents, compress: true)
    }

    private func writeBlock(_ contents: [UInt8], compress: Bool) throws(EngineError) -> BlockHandle {
        let start = offset
        let handle = try contents.withEngineBytes { (bytes) throws(EngineError) in
            try encoder.write(bytes, compress: compress, to: file, at: start)
        }
        offset = handle.end
        return handle
    }

    private func appendRaw(_ bytes: [UInt8]) throws(EngineError) {
        try bytes.withEngineBytes { (raw) throws(EngineError) in try file.append(raw) }
        offset += UInt64(bytes.count)
    }
}
