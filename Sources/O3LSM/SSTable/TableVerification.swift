extension Table {
    /// Reads the whole file, past every cache: checksums, order, the index against the data, the
    /// filter against the keys, and the properties against all of it. Throws the first thing wrong.
    ///
    /// - Parameter pace: told the bytes of each data block before it is read; what it throws ends the verification.
    func verify(pace: (_ bytes: Int) throws(EngineError) -> Void = { _ in }) throws(EngineError) {
        let opener = try TableOpener(file)
        guard opener.footer == footer else { throw disagreement(file.size, "the footer read at open", "another") }
        let stored = try opener.properties()
        guard stored == properties else {
            throw disagreement(footer.properties.offset, "the properties read at open", "others")
        }
        let filter = footer.filter.isNone ? nil : try readFilter()
        var count = TableCount(properties)
        for tombstone in try opener.tombstones() { count.add(tombstone) }
        try verifyData(&count, filter, pace)
        if let (expected, found) = count.disagreement(with: properties) {
            throw disagreement(footer.properties.offset, expected, found)
        }
    }

    /// Walks all data blocks in the order of the index; they must lie one after the other.
    private func verifyData(
        _ count: inout TableCount, _ filter: Block?, _ pace: (_ bytes: Int) throws(EngineError) -> Void
    ) throws(EngineError) {
        guard footer.indexLevels > 0 else { return }
        let index = try VerifyingIndex(self)
        var data = BlockCursor()
        var readAhead = ReadAhead(initial: ReadAhead.largestWindow)
        var offset = UInt64(TableFormat.headerBytes)
        for (separator, handle) in index.entries {
            guard handle.offset == offset else {
                throw disagreement(offset, "a data block here", "the next one at \(handle.offset)")
            }
            offset = handle.end
            try pace(Int(handle.size))
            let bytes = try readAhead.stored(handle, in: file, dataEnd: properties.dataEnd)
            let block =
                if let bytes {
                    try BlockDecoder.decode(bytes, handle, kind: .entries, file: file.path)
                } else {
                    try BlockDecoder.read(handle, kind: .entries, from: file)
                }
            data.reset(block)
            try data.seekToFirst()
            while data.isValid {
                guard count.add(data.userKey, data.trailer, data.value.count) else {
                    throw disagreement(handle.offset, "entries in ascending order", "one that is not")
                }
                let hash = hashKey(data.userKey)
                if let filter, !filter.withBytes({ BloomFilter.mayContain(hash, $0) }) {
                    throw disagreement(footer.filter.offset, "a filter that has every key", "a key that it denies")
                }
                try data.next()
            }
            guard count.lastKey <= separator else {
                throw disagreement(handle.offset, "entries up to their separator", "one after it")
            }
            count.raiseFloor(to: separator)
        }
        count.dataEnd = offset
        count.dataBlockCount = UInt64(index.entries.count)
    }

    private func disagreement(_ offset: UInt64, _ expected: String, _ found: String) -> EngineError {
        .corruption(file: file.path, offset: offset, expected: expected, found: found)
    }
}

/// All separators and handles of a table, read from storage.
private struct VerifyingIndex {
    var entries: [(separator: InternalKey, handle: BlockHandle)] = []

    init(_ table: Table) throws(EngineError) {
        let top = try BlockDecoder.read(table.footer.index, kind: .entries, from: table.file)
        guard table.footer.indexLevels == 2 else {
            try add(top, table)
            return
        }
        var cursor = BlockCursor()
        cursor.reset(top)
        try cursor.seekToFirst()
        while cursor.isValid {
            let handle = try table.handle(cursor.value, within: table.footer.index.offset)
            try add(try BlockDecoder.read(handle, kind: .entries, from: table.file), table)
            let separator = InternalKey(cursor.userKey, cursor.trailer)
            guard entries.last?.separator == separator else {
                throw .corruption(
                    file: table.file.path,
                    offset: handle.offset,
                    expected: "an index block up to its separator",
                    found: "another last entry"
                )
            }
            try cursor.next()
        }
    }

    private mutating func add(_ block: Block, _ table: Table) throws(EngineError) {
        var cursor = BlockCursor()
        cursor.reset(block)
        try cursor.seekToFirst()
        while cursor.isValid {
            let separator = InternalKey(cursor.userKey, cursor.trailer)
            if let last = entries.last?.separator, last >= separator {
                throw .corruption(
                    file: table.file.path,
                    offset: block.fileOffset,
                    expected: "separators in ascending order",
                    found: "one that is not"
                )
            }
            entries.append((separator, try table.handle(cursor.value, within: table.properties.dataEnd)))
            try cursor.next()
        }
    }
}

/// Counts what a table holds, to be held against what it says of itself.
private struct TableCount {
    private var found = TableProperties()
    private var deletions = DeletionWindow()
    private(set) var lastKey = InternalKey(userKey: [], trailer: .first)
    /// The separator of the block before: entries come after it.
    private var floor: InternalKey?
    private var smallest: InternalKey?
    private var largest: InternalKey?

    init(_ stated: TableProperties) {
        found.smallestSequence = .max
        found.compression = stated.compression
        found.filterKeyCount = stated.filterKeyCount
        found.dataEnd = UInt64(TableFormat.headerBytes)
    }

    var dataEnd: UInt64 {
        get { found.dataEnd }
        set { found.dataEnd = newValue }
    }
    var dataBlockCount: UInt64 {
        get { found.dataBlockCount }
        set { found.dataBlockCount = newValue }
    }

    mutating func add(_ tombstone: RangeTombstone) {
        found.rangeTombstoneCount += 1
        widen(tombstone.sequence)
        let begin = InternalKey(
            userKey: tombstone.begin,
            trailer: Trailer(sequence: tombstone.sequence, kind: .rangeDelete)
        )
        let end = InternalKey(userKey: tombstone.end, trailer: .first)
        smallest = smallest.map { min($0, begin) } ?? begin
        largest = largest.map { max($0, end) } ?? end
    }

    /// False when the entry does not come after the one before it, or is none that a table may hold.
    mutating func add(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer, _ valueBytes: Int) -> Bool {
        let key = InternalKey(userKey, trailer)
        guard let kind = trailer.kind, kind != .rangeDelete else { return false }
        if found.entryCount > 0, key <= lastKey { return false }
        if let floor, key <= floor { return false }
        if found.entryCount == 0 { smallest = smallest.map { min($0, key) } ?? key }
        lastKey = key
        found.entryCount += 1
        if kind == .delete { found.deletionCount += 1 }
        deletions.add(isDelete: kind == .delete)
        found.rawKeyBytes += UInt64(userKey.count)
        found.rawValueBytes += UInt64(valueBytes)
        widen(trailer.sequence)
        return true
    }

    mutating func raiseFloor(to separator: InternalKey) { floor = separator }

    /// What the table says, and what is so; nil when they agree.
    func disagreement(with stated: TableProperties) -> (expected: String, found: String)? {
        var found = found
        if let smallest { found.smallest = smallest }
        var largest = largest
        if found.entryCount > 0 { largest = largest.map { max($0, lastKey) } ?? lastKey }
        if let largest { found.largest = largest }
        if stated.densestDeletions != nil { found.densestDeletions = deletions.most }
        guard found != stated else { return nil }
        if found.entryCount != stated.entryCount {
            return ("\(stated.entryCount) entries", "\(found.entryCount)")
        }
        return ("properties that describe the table", "others than its contents have")
    }

    private mutating func widen(_ sequence: SequenceNumber) {
        found.smallestSequence = min(found.smallestSequence, sequence)
        found.largestSequence = max(found.largestSequence, sequence)
    }
}
