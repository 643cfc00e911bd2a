import Glibc
import Synchronization

/// The parts of an open store, wired together. `Database` is its public face.
final class EngineCore: @unchecked Sendable {
    // @unchecked: the parts are thread-safe; the rest is immutable.
    let layout: StoreLayout
    let storage: any Storage
    let options: Options
    let region: Region
    let allocator: SlabAllocator
    let versions: VersionSet
    let tables: TableCache
    let holder: ReadStateHolder
    let snapshots: SnapshotList
    let writes: WritePath
    let log: WriteAheadLog
    let control: ControlPlane
    let executor: LocalExecutor
    let recovery: Statistics.Recovery
    /// Whether a write returns only when the log has it: memtables are in memory that dies with the process, or that no
    /// later process finds.
    @inline(__always)
    var appendsBeforeReturn: Bool { options.placement == .staged || control.hasLostMemory }
    /// The store's lock; nil once this process has let go of the store.
    private let lock: Mutex<(any FileLock)?>
    /// The owner's row of the node table.
    let node: Int
    /// nil: off.
    let offsetCache: OffsetCache?
    /// nil: off.
    let delegation: ReadDelegation?
    let scrubber: Scrubber

    init(
        layout: StoreLayout, storage: any Storage, options: Options, region: Region, allocator: SlabAllocator,
        versions: VersionSet, tables: TableCache, holder: ReadStateHolder, snapshots: SnapshotList,
        writes: WritePath, log: WriteAheadLog, control: ControlPlane, executor: LocalExecutor,
        recovery: Statistics.Recovery, lock: any FileLock, node: Int, offsetCache: OffsetCache?,
        delegation: ReadDelegation?
    ) {
        self.layout = layout
        self.storage = storage
        self.options = options
        self.region = region
        self.allocator = allocator
        self.versions = versions
        self.tables = tables
        self.holder = holder
        self.snapshots = snapshots
        self.writes = writes
        self.log = log
        self.control = control
        self.executor = executor
        self.recovery = recovery
        self.lock = Mutex(lock)
        self.node = node
        self.offsetCache = offsetCache
        self.delegation = delegation
        scrubber = Scrubber(holder: holder, storage: storage, layout: layout)
    }

    /// The store's lock, which lasts as long as anybody has it; nil once the store is closed.
    var heldLock: (any FileLock)? { lock.withLock { $0 } }

    func flush() throws(EngineError) {
        if options.readOnly { return }
        let last = try writes.seal()
        try control.waitForFlush(through: last)
    }

    func close() throws(EngineError) {
        defer { stopThreads() }
        scrubber.stop()
        if options.readOnly { return }
        // A write that has its place by now is covered by the flush; any other is refused.
        writes.close()
        try flush()
        executor.stop()
        control.stop()
        // A worker may be at a compaction that nobody waits for any more: it loses its claim, and removes what it
        // has written; what others have finished goes here. Best effort: the next owner removes the rest.
        JobTable(region).reset()
        do throws(EngineError) { try versions.settle() } catch {
            // The manifest that was found may not survive power loss, and there is no room for another: memory and logs
            // stay for the next owner.
            return
        }
        try? versions.removeOrphans()
        log.removeFiles()
        // Everything is in tables: nothing in DM is needed any more. The lock is still held: nobody else can
        // have attached to the region.
        region.unlink()
    }

    /// Ends all work in the background and lets go of the store; DM stays as it is.
    func stopThreads() {
        let held = lock.withLock { lock in
            defer { lock = nil }
            return lock
        }
        guard held != nil else { return }
        scrubber.stop()
        executor.stop()
        control.stop()
        NodeTable(region).detach(node)
        withExtendedLifetime(held) {}
    }

    /// nil: reads are direct.
    @inline(__always)
    var activeDelegation: ReadDelegation? {
        guard let delegation, !delegation.isPaused.load(ordering: .relaxed) else { return nil }
        return delegation
    }

    // MARK: Point reads

    /// The newest value of a key at `sequence`; nil when it is deleted or was never there.
    @inline(__always)
    func lookup(_ key: UnsafeRawBufferPointer, _ state: ReadState, _ sequence: SequenceNumber) throws(EngineError)
        -> PinnedValue?
    {
        let hash = hashKey(key)
        if let readClass = state.readClass, let delegation = activeDelegation {
            let reads = delegation.choices.readsToChooseFor(readClass)
            if reads > 0 { return try lookup(key, hash, state, sequence, delegation, standingFor: reads) }
        }
        return try lookupDirectly(key, hash, state, sequence)
    }

    /// As `lookup`, without a thought of delegation.
    @inline(__always)
    func lookupDirectly(
        _ key: UnsafeRawBufferPointer, _ hash: UInt64, _ state: ReadState, _ sequence: SequenceNumber
    ) throws(EngineError) -> PinnedValue? {
        // Sources are visited from new to old, so that a tombstone over the key hides all that come after.
        for memtable in state.memtables {
            if case .settled(let value) = try look(in: memtable, key, hash, sequence) { return value }
        }
        return try lookupInTables(key, hash, state.version, sequence)
    }

    /// What a source has said of a key.
    enum Finding {
        /// This is its value; nil: it is deleted.
        case settled(PinnedValue?)
        case askOlder
    }

    /// Asks one memtable, after all newer ones.
    ///
    /// - Parameter byPlace: whether to use the offset cache, if there is one.
    @inline(__always)
    func look(
        in memtable: Memtable, _ key: UnsafeRawBufferPointer, _ hash: UInt64, _ sequence: SequenceNumber, byPlace: Bool = true
    ) throws(EngineError) -> Finding {
        let tombstone = memtable.tombstones.isEmpty ? 0 : memtable.tombstones.newestCovering(key, upTo: sequence)
        let found: LookupResult
        if byPlace, let offsetCache {
            found = try memtable.lookup(key, hash: hash, sequence, offsetCache)
        } else {
            found = try memtable.lookup(key, hash: hash, sequence)
        }
        switch found {
        case .put(let value, let found): return .settled(found > tombstone ? value : nil)
        case .deleted: return .settled(nil)
        case .notFound: return tombstone > 0 ? .settled(nil) : .askOlder
        }
    }

    func lookupInTables(
        _ key: UnsafeRawBufferPointer, _ hash: UInt64, _ version: Version, _ sequence: SequenceNumber
    ) throws(EngineError) -> PinnedValue? {
        for file in version.levels[0] where file.mayHold(key) {
            if let answer = try lookup(key, hash, in: file, level: 0, sequence) { return answer.value }
        }
        for level in 1..<version.levels.count {
            guard let file = version.file(level: level, containing: key) else { continue }
            if let answer = try lookup(key, hash, in: file, level: level, sequence) { return answer.value }
        }
        return nil
    }

    /// nil: the table says nothing of the key. A nil value: it is deleted.
    @inline(__always)
    private func lookup(
        _ key: UnsafeRawBufferPointer, _ hash: UInt64, in file: FileMetadata, level: Int, _ sequence: SequenceNumber
    ) throws(EngineError) -> (value: PinnedValue?, Void)? {
        let table = try tables.table(file, isTopLevel: level <= 1)
        let tombstone =
            file.rangeTombstoneCount == 0 ? 0 : table.rangeTombstones.newestCovering(key, upTo: sequence)
        switch try table.lookup(key, hash: hash, sequence) {
        case .put(let value, let found): return (found > tombstone ? value : nil, ())
        case .deleted: return (nil, ())
        case .notFound: return tombstone > 0 ? (nil, ()) : nil
        }
    }

    // MARK: Scans

    func makeIterator(_ read: ReadOptions) throws(EngineError) -> DatabaseIterator {
        let state = holder.current
        let sequence = read.snapshot?.sequence ?? region.visibleSequence
        var sources: [InternalIterator] = []
        var tombstones: [RangeTombstone] = []
        let scan = activeDelegation?.scan(state.readClass)
        for memtable in state.memtables where !memtable.isUntouched {
            if let scan, memtable.isDelegable {
                sources.append(DelegatedIterator(memtable, scan))
            } else {
                sources.append(memtable.makeIterator())
            }
            tombstones += memtable.tombstones.tombstones(
                from: read.lowerBound, to: read.upperBound, newestUpTo: sequence)
        }
        let tables = self.tables
        let fillCache = read.fillCache
        for level in 0..<Version.levelCount {
            for run in state.version.runs(in: level, overlapping: read.lowerBound, read.upperBound) {
                for file in run where file.rangeTombstoneCount > 0 {
                    tombstones += try tables.table(file).rangeTombstones
                        .clipped(to: read.lowerBound, read.upperBound).tombstones()
                }
                func open(_ file: FileMetadata) throws(EngineError) -> InternalIterator {
                    try tables.table(file, isTopLevel: level <= 1).makeIterator(fillCache: fillCache)
                }
                if level == 0, run.count == 1 {
                    sources.append(try open(run[0]))
                } else {
                    sources.append(LevelIterator(files: run, open: open))
                }
            }
        }
        var pins: [AnyObject] = [state]
        if let snapshot = read.snapshot { pins.append(snapshot) }
        return DatabaseIterator(
            source: MergingIterator.over(sources), sequence: sequence,
            tombstones: tombstones.isEmpty ? .empty : FragmentedTombstones(tombstones),
            lowerBound: read.lowerBound, upperBound: read.upperBound, pins: pins)
    }

    // MARK: Knowing

    func approximateSize(_ begin: [UInt8], _ end: [UInt8]) -> UInt64 {
        guard compareKeys(begin, end) < 0 else { return 0 }
        let state = holder.current
        var total: UInt64 = 0
        for files in state.version.levels {
            for file in files where file.isWithin(begin, end) {
                // A table that cannot be opened counts whole: the answer is an estimate.
                guard let table = try? tables.table(file) else {
                    total += file.size
                    continue
                }
                let from = begin.withUnsafeBytes { table.approximateOffset($0) }
                let to = end.withUnsafeBytes { table.approximateOffset($0) }
                total += to > from ? to - from : 0
            }
        }
        for memtable in state.memtables {
            let map = memtable.map
            for (position, shard) in map.shards.enumerated() where !shard.isEmpty {
                if compareKeys(shard.lowerBound, end) >= 0 { continue }
                if let upper = map.upperBound(position), compareKeys(upper, begin) <= 0 { continue }
                total += UInt64(shard.used)
            }
        }
        return total
    }

    func statistics() -> Statistics {
        let state = holder.current
        var statistics = Statistics()
        statistics.visibleSequence = region.visibleSequence
        statistics.flushedSequence = versions.flushedSequence
        statistics.bytesWritten = writes.bytesWritten.load(ordering: .relaxed)
        statistics.writes = writes.batchesWritten.load(ordering: .relaxed)
        statistics.snapshots = snapshots.sequences.count
        control.fill(&statistics)
        statistics.stalls = writes.throttle.statistics()
        statistics.handOver = writes.handOvers.statistics()
        statistics.levels = state.version.levels.enumerated().map { level, files in
            Statistics.Level(level: level, files: files.count, bytes: files.reduce(0) { $0 + $1.size })
        }
        fillOccupancy(&statistics, state)
        fillNodes(&statistics)
        statistics.dm.isNameLost = control.hasLostMemory
        statistics.placement = options.placement.rawValue
        statistics.wal = log.statistics()
        let cache = tables.blockCache.statistics
        statistics.cache = Statistics.Cache(
            hits: cache.hits, misses: cache.misses, usedBytes: cache.usedBytes, capacityBytes: cache.capacity)
        if let offsetCache { statistics.offsetCache = offsetCache.statistics }
        if let delegation { statistics.delegation = delegation.statistics }
        statistics.recovery = recovery
        statistics.scrub = scrubber.report
        return statistics
    }
}

extension FileMetadata {
    /// Whether a key may be in the table, by its bounds. A key equal to an exclusive end may be let
    /// through: the table then says that it does not have it.
    @inline(__always)
    func mayHold(_ key: UnsafeRawBufferPointer) -> Bool {
        smallest.userKey.withUnsafeBytes { compareKeys($0, key) <= 0 }
            && largest.userKey.withUnsafeBytes { compareKeys(key, $0) <= 0 }
    }

    /// Whether the table may hold keys of `begin ..< end` (nil: unbounded).
    func isWithin(_ begin: [UInt8]?, _ end: [UInt8]?) -> Bool {
        if let end, compareKeys(smallest.userKey, end) >= 0 { return false }
        if let begin, compareKeys(largest.userKey, begin) < 0 { return false }
        return true
    }
}
