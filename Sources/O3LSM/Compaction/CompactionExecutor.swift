/// Runs compactions: descriptor in, tables out. Stateless and thread-safe; any process that reaches the
/// store can run one.
struct CompactionExecutor: Sendable {
    let storage: any Storage
    let layout: StoreLayout
    /// Opens the inputs. Their blocks do not enter its block cache.
    let tables: TableCache
    /// Bounds the bytes read and written; nil: unbounded.
    var limiter: RateLimiter?

    init(storage: any Storage, layout: StoreLayout, tables: TableCache, limiter: RateLimiter? = nil) {
        self.storage = storage
        self.layout = layout
        self.tables = tables
        self.limiter = limiter
    }

    /// Merges the inputs into new tables, which are durable when it returns. Each block's checksum is
    /// verified as it is read. On an error the new tables are removed.
    ///
    /// - Parameters:
    ///   - attempt: what the tables' names carry until they are accepted; the names are not durable until then. nil:
    ///     they get their own names at once.
    ///   - shouldStop: asked every few dozen KiB; once true, the call ends with `.closed`.
    /// - Throws: `.corruption` of an input, `.io`, or `.closed`.
    func run(
        _ descriptor: CompactionDescriptor, attempt: UInt64? = nil, shouldStop: () -> Bool = { false }
    ) throws(EngineError) -> CompactionResult {
        let output = CompactionOutput(descriptor, storage: storage, layout: layout, attempt: attempt)
        do throws(EngineError) {
            return try merge(descriptor, into: output, shouldStop)
        } catch {
            output.removeFiles()
            throw error
        }
    }

    /// As `run(_:attempt:shouldStop:)`, from and to the encoded forms.
    func run(encoded: [UInt8], attempt: UInt64? = nil, shouldStop: () -> Bool = { false }) throws(EngineError) -> [UInt8] {
        let descriptor = try encoded.withEngineBytes { (bytes) throws(EngineError) in
            try CompactionDescriptor.decode(bytes, source: "compaction job")
        }
        return try run(descriptor, attempt: attempt, shouldStop: shouldStop).encode()
    }

    /// Bytes read at once from each input.
    private static let readAheadBytes = 256 << 10
    /// Bytes of entries between two looks at `shouldStop` and the limiter.
    private static let pollBytes = 64 << 10

    private func merge(
        _ descriptor: CompactionDescriptor, into output: CompactionOutput, _ shouldStop: () -> Bool
    ) throws(EngineError) -> CompactionResult {
        var result = CompactionResult()
        let tombstones = try readTombstones(descriptor, &result)
        output.setTombstones(tombstones)
        var filter = CompactionFilter(descriptor, try hiding(descriptor, tombstones))
        let source = MergingIterator.over(try iterators(descriptor))
        if let begin = descriptor.begin {
            try begin.withEngineBytes { (key) throws(EngineError) in try source.seek(key, .first) }
        } else {
            try source.seekToFirst()
        }
        var lastKey = ByteBuffer(capacity: 256)
        var hasKey = false
        var unpolled = 0
        while source.isValid {
            let key = source.userKey
            let trailer = source.trailer
            let value = source.value
            if !hasKey || compareKeys(key, lastKey.bytes) != 0 {
                if let end = descriptor.end, end.withUnsafeBytes({ compareKeys(key, $0) >= 0 }) { break }
                result.droppedDeletes += UInt64(filter.beginKey(key))
                lastKey.truncate(to: 0)
                lastKey.append(key)
                hasKey = true
                try output.beginKey(key)
            }
            result.entriesIn += 1
            switch filter.judge(key, trailer) {
            case .shadowed: result.shadowedEntries += 1
            case .covered: result.coveredEntries += 1
            case .held: break
            case .kept:
                // Deletes that were held turn out to hide this entry from newer readers.
                for held in filter.heldDeletes {
                    try output.add(key, held, UnsafeRawBufferPointer(start: nil, count: 0))
                    result.entriesOut += 1
                }
                filter.heldDeletes.removeAll(keepingCapacity: true)
                try output.add(key, trailer, value)
                result.entriesOut += 1
            }
            FaultPoint.midCompaction.hit()
            unpolled += key.count + value.count + 8
            if unpolled >= Self.pollBytes {
                limiter?.acquire(UInt64(unpolled) * 2, shouldStop: shouldStop)
                unpolled = 0
                if shouldStop() { throw .closed }
            }
            try source.next()
        }
        result.droppedDeletes += UInt64(filter.heldDeletes.count)
        try output.finish()
        result.outputs = output.files
        result.rangeTombstonesOut = output.files.reduce(0) { $0 + $1.rangeTombstoneCount }
        result.bytesWritten = output.files.reduce(0) { $0 + $1.size }
        try checkAccount(descriptor, result)
        return result
    }

    /// One cursor for each L0 table, one for each deeper level.
    private func iterators(_ descriptor: CompactionDescriptor) throws(EngineError) -> [InternalIterator] {
        let tables = self.tables
        var result: [InternalIterator] = []
        for input in descriptor.inputs {
            if input.level == 0 {
                for file in input.files {
                    result.append(
                        try tables.table(file).makeIterator(fillCache: false, readAhead: Self.readAheadBytes))
                }
            } else {
                result.append(
                    LevelIterator(
                        files: input.files, tables: tables, fillCache: false, readAhead: Self.readAheadBytes))
            }
        }
        return result
    }

    /// The range tombstones of all inputs within the job's keys, the newest of each stratum; and how many
    /// bytes of the inputs there are to read.
    private func readTombstones(
        _ descriptor: CompactionDescriptor, _ result: inout CompactionResult
    ) throws(EngineError) -> FragmentedTombstones {
        var all: [RangeTombstone] = []
        for file in descriptor.inputs.flatMap(\.files) {
            let isPart = descriptor.begin != nil || descriptor.end != nil
            guard file.rangeTombstoneCount > 0 || isPart else {
                // Wrapping: a descriptor's numbers are claims until the table has been opened.
                result.bytesRead &+= file.size
                continue
            }
            let table = try tables.table(file)
            result.bytesRead &+= isPart ? Self.bytes(of: table, descriptor.begin, descriptor.end) : file.size
            let found = table.rangeTombstones.clipped(to: descriptor.begin, descriptor.end).tombstones()
            result.rangeTombstonesIn += UInt64(found.count)
            all += found
        }
        return FragmentedTombstones(all, newestPerStratumOf: descriptor.snapshots)
    }

    /// The range tombstones that entries are held against: those of the inputs, and those of the sources.
    private func hiding(
        _ descriptor: CompactionDescriptor, _ tombstones: FragmentedTombstones
    ) throws(EngineError) -> FragmentedTombstones {
        if descriptor.tombstoneSources.isEmpty { return tombstones }
        var all = tombstones.tombstones()
        for file in descriptor.tombstoneSources where file.rangeTombstoneCount > 0 {
            all += try tables.table(file).rangeTombstones.clipped(to: descriptor.begin, descriptor.end).tombstones()
        }
        return FragmentedTombstones(all, newestPerStratumOf: descriptor.snapshots)
    }

    private static func bytes(of table: Table, _ begin: [UInt8]?, _ end: [UInt8]?) -> UInt64 {
        let from = begin.map { key in key.withUnsafeBytes { table.approximateOffset($0) } } ?? 0
        let to = end.map { key in key.withUnsafeBytes { table.approximateOffset($0) } } ?? table.file.size
        return to > from ? to - from : 0
    }

    /// Every entry read must have been written or dropped for a reason, and all of a whole job's entries
    /// must have been read.
    private func checkAccount(_ descriptor: CompactionDescriptor, _ result: CompactionResult) throws(EngineError) {
        let written = result.outputs.reduce(0) { $0 + $1.entryCount }
        guard result.entriesIn == result.entriesOut + result.entriesDropped, written == result.entriesOut else {
            throw .corruption(
                file: layout.table(descriptor.firstOutputNumber), offset: 0,
                expected: "\(result.entriesIn) entries, less \(result.entriesDropped) dropped", found: "\(written)")
        }
        guard descriptor.begin == nil, descriptor.end == nil else { return }
        let inputs = descriptor.inputs.flatMap(\.files)
        let expected = inputs.reduce(0) { $0 &+ $1.entryCount }
        guard expected == result.entriesIn else {
            throw .corruption(
                file: layout.table(inputs.first?.number ?? 0), offset: 0,
                expected: "\(expected) entries in the \(inputs.count) inputs from this one on",
                found: "\(result.entriesIn)")
        }
    }
}
