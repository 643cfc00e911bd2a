import Synchronization

/// A reader of one table file. Thread-safe.
///
/// `open` has checked everything but the data blocks and the filter, which are checked each time they
/// are read from storage. Nothing in the file is trusted: what cannot be parsed is `.corruption` with
/// the place where it lies.
final class Table: Sendable {
    let file: any ReadableFile
    let number: UInt64
    let properties: TableProperties
    /// All range tombstones of the table, parsed once.
    let rangeTombstones: FragmentedTombstones
    let footer: TableFooter

    private let cache: BlockCache?
    /// Whether the table is in a level that almost every look-up visits, as far as was known when it was opened.
    private let isTopLevel: Bool
    /// The top index block, when the table holds it itself: pinned in the cache, or without one to keep it in.
    private let ownIndex: Block?
    /// The filter, once it is held in the same way.
    private let ownFilter = OnceReference<Block>()
    private let filterIsDamaged = Atomic<Bool>(false)
    /// Whether the last data block that was read had not been compressed: the next one is expected to be like it.
    private let isRaw = Atomic<Bool>(false)
    /// Counts the table as long as it is open; nil: nobody does.
    private let counter: OpenTableCounter?

    /// Reads and checks header, footer, properties, range tombstones and the top index block.
    ///
    /// - Parameters:
    ///   - number: the file's number, which is its name in `cache`.
    ///   - cache: nil for readers that go through the table once.
    ///   - isTopLevel: whether it belongs to those whose filter and index are pinned before others'.
    ///   - counter: what counts the table as long as it is open.
    /// - Throws: `.corruption`, `.unsupportedFormat`, or what the file throws.
    static func open(
        _ file: any ReadableFile,
        number: UInt64,
        cache: BlockCache?,
        isTopLevel: Bool = false,
        counter: OpenTableCounter? = nil
    ) throws(EngineError) -> Table {
        let opener = try TableOpener(file)
        let footer = opener.footer
        let properties = try opener.properties()
        let tombstones = try opener.tombstones()
        guard UInt64(tombstones.count) == properties.rangeTombstoneCount else {
            throw .corruption(
                file: file.path,
                offset: footer.tombstones.offset,
                expected: "\(properties.rangeTombstoneCount) range tombstones",
                found: "\(tombstones.count)"
            )
        }
        var index: Block?
        if !footer.index.isNone { index = try opener.block(footer.index, .entries) }
        if let cache, let block = index {
            index = cache.pin(block, file: number, offset: footer.index.offset, isTopLevel: isTopLevel)
            if index == nil { _ = cache.insert(block, file: number, offset: footer.index.offset) }
        }
        return Table(
            file,
            number,
            cache,
            footer,
            properties,
            FragmentedTombstones(tombstones),
            index,
            isTopLevel,
            counter
        )
    }

    private init(
        _ file: any ReadableFile,
        _ number: UInt64,
        _ cache: BlockCache?,
        _ footer: TableFooter,
        _ properties: TableProperties,
        _ tombstones: FragmentedTombstones,
        _ index: Block?,
        _ isTopLevel: Bool,
        _ counter: OpenTableCounter?
    ) {
        self.file = file
        self.number = number
        self.cache = cache
        self.footer = footer
        self.properties = properties
        rangeTombstones = tombstones
        ownIndex = index
        self.isTopLevel = isTopLevel
        self.counter = counter
        counter?.count.wrappingAdd(1, ordering: .relaxed)
    }

    deinit {
        counter?.count.wrappingSubtract(1, ordering: .relaxed)
        guard let cache else { return }
        if ownIndex != nil { cache.unpin(file: number, offset: footer.index.offset) }
        if ownFilter.unmanaged != nil { cache.unpin(file: number, offset: footer.filter.offset) }
    }

    /// What the manifest needs to know of the table, from the file alone.
    func metadata() -> FileMetadata { properties.metadata(number: number, size: file.size) }

    // MARK: - Point reads

    /// The newest point entry of `key` with a sequence of at most `sequence`. Does not consult the
    /// range tombstones. With its blocks in the cache it allocates nothing.
    ///
    /// - Parameter hash: the key's (`hashKey`).
    func lookup(_ key: UnsafeRawBufferPointer, hash: UInt64, _ sequence: SequenceNumber)
        throws(EngineError) -> LookupResult
    {
        guard footer.indexLevels > 0, mayContain(hash) else { return .notFound }
        // One below `Trailer.first`, which separators carry: a target that equals a separator would
        // lead to the block that ends before it. No entry has a trailer between the two.
        let target = Trailer(rawValue: min(Trailer.seek(sequence).rawValue, Trailer.first.rawValue - 1))
        var index = try indexBlock(fillCache: true)
        var place = try index.search(key, target)
        guard place.isFound else { return .notFound }
        if footer.indexLevels == 2 {
            index = try block(try leafHandle(index, place), .entries, fillCache: true)
            place = try index.search(key, target)
            guard place.isFound else { return .notFound }
        }
        let data = try block(try dataHandle(index, place), .entries, fillCache: true)
        let entry = try data.search(key, target)
        guard entry.isFound, entry.isSameKey else { return .notFound }
        switch entry.trailer.kind {
        case .put:
            let bytes = UnsafeRawBufferPointer(start: data.base + entry.valueOffset, count: entry.valueCount)
            return .put(PinnedValue(bytes: bytes, owner: data), entry.trailer.sequence)
        case .delete:
            return .deleted(entry.trailer.sequence)
        case .rangeDelete, nil:
            throw data.damaged(at: entry.valueOffset, "a put or a delete")
        }
    }

    /// False only if the table certainly has no point entry of a key with this hash. A filter that cannot be read
    /// says nothing, and is reported by `verify`.
    @inline(__always)
    func mayContain(_ hash: UInt64) -> Bool {
        if let own = ownFilter.unmanaged {
            return own._withUnsafeGuaranteedRef { BloomFilter.mayContain(hash, $0.contents) }
        }
        guard let filter = filterBlock() else { return true }
        return filter.withBytes { BloomFilter.mayContain(hash, $0) }
    }

    /// About how many bytes of the file lie before the key.
    func approximateOffset(_ key: UnsafeRawBufferPointer) -> UInt64 {
        var index = IndexCursor()
        do throws(EngineError) {
            try index.seek(key, .first, in: self, fillCache: true)
            return index.isValid ? try index.handle(in: self).offset : properties.dataEnd
        } catch {
            return properties.dataEnd / 2
        }
    }

    /// - Parameters:
    ///   - fillCache: whether blocks that are read enter the cache; false for large one-off scans.
    ///   - readAhead: bytes read at once from the start; 0: grows once reads turn out sequential.
    func makeIterator(fillCache: Bool = true, readAhead: Int = 0) -> InternalIterator {
        TableIterator(self, fillCache: fillCache, readAhead: readAhead)
    }

    // MARK: - Blocks

    /// The top index block. The table has one.
    func indexBlock(fillCache: Bool) throws(EngineError) -> Block {
        if let ownIndex { return ownIndex }
        return try block(footer.index, .entries, fillCache: fillCache)
    }

    /// The block of a checked handle, from the cache or from storage.
    func block(_ handle: BlockHandle, _ kind: Block.Kind, fillCache: Bool) throws(EngineError) -> Block {
        if let cached = try cached(handle, kind, touch: fillCache) { return cached }
        let block = try readBlock(handle, kind)
        return fillCache ? store(block, handle) : block
    }

    /// Reads a block from storage, past the cache.
    func readBlock(_ handle: BlockHandle, _ kind: Block.Kind) throws(EngineError) -> Block {
        let expected = isRaw.load(ordering: .relaxed)
        let (block, compression) = try BlockDecoder.read(handle, kind: kind, expectsRaw: expected, from: file)
        if (compression == .none) != expected { isRaw.store(compression == .none, ordering: .relaxed) }
        return block
    }

    func cached(_ handle: BlockHandle, _ kind: Block.Kind, touch: Bool) throws(EngineError) -> Block? {
        guard let block = cache?.lookup(file: number, offset: handle.offset, touch: touch) else { return nil }
        guard block.kind == kind else {
            throw .corruption(
                file: file.path,
                offset: handle.offset,
                expected: "a block of \(kind)",
                found: "an index that names one of \(block.kind)"
            )
        }
        return block
    }

    func store(_ block: Block, _ handle: BlockHandle) -> Block {
        cache?.insert(block, file: number, offset: handle.offset) ?? block
    }

    /// The handle in the value of an entry of the index's lowest level.
    @inline(__always)
    func dataHandle(_ index: Block, _ place: BlockSearchResult) throws(EngineError) -> BlockHandle {
        try handle(
            UnsafeRawBufferPointer(start: index.base + place.valueOffset, count: place.valueCount),
            within: properties.dataEnd
        )
    }

    @inline(__always)
    private func leafHandle(_ index: Block, _ place: BlockSearchResult) throws(EngineError) -> BlockHandle {
        try handle(
            UnsafeRawBufferPointer(start: index.base + place.valueOffset, count: place.valueCount),
            within: footer.index.offset
        )
    }

    /// Parses a handle and checks that its block ends before `limit`.
    @inline(__always)
    func handle(_ bytes: UnsafeRawBufferPointer, within limit: UInt64) throws(EngineError) -> BlockHandle {
        guard let handle = BlockHandle.decode(bytes), handle.isWithin(limit) else { throw badHandle(bytes, limit) }
        return handle
    }

    @inline(never)
    private func badHandle(_ bytes: UnsafeRawBufferPointer, _ limit: UInt64) -> EngineError {
        let found = BlockHandle.decode(bytes).map { "offset \($0.offset), size \($0.size)" } ?? "no handle"
        return .corruption(
            file: file.path,
            offset: footer.index.offset,
            expected: "an index that names blocks before \(limit)",
            found: found
        )
    }

    /// A filter that is not held by the table. nil: none, damaged, or too large to be kept, when reading it each time
    /// would cost more than it saves.
    @inline(never)
    private func filterBlock() -> Block? {
        let handle = footer.filter
        guard !handle.isNone, !filterIsDamaged.load(ordering: .relaxed) else { return nil }
        do throws(EngineError) {
            guard let cache else {
                let filter = try readFilter()
                _ = ownFilter.set(filter)
                return filter
            }
            guard handle.storedBytes + Block.overheadBytes <= cache.maximumCharge else { return nil }
            if let filter = try cached(handle, .raw, touch: true) { return filter }
            let filter = try readFilter()
            guard let pinned = cache.pin(filter, file: number, offset: handle.offset, isTopLevel: isTopLevel) else {
                return store(filter, handle)
            }
            if !ownFilter.set(pinned) { cache.unpin(file: number, offset: handle.offset) }
            return pinned
        } catch {
            if case .corruption = error { filterIsDamaged.store(true, ordering: .relaxed) }
            return nil
        }
    }

    /// Reads the filter from storage and checks it.
    func readFilter() throws(EngineError) -> Block {
        let block = try BlockDecoder.read(footer.filter, kind: .raw, from: file)
        guard block.withBytes({ BloomFilter.isWellFormed($0) }) else {
            throw block.damaged(at: 0, "a bloom filter")
        }
        return block
    }
}

/// How many tables are open. Thread-safe.
final class OpenTableCounter: Sendable {
    let count = Atomic<Int>(0)
}
