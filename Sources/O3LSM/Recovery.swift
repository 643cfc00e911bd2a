import Glibc

/// Opening a store: takes it, finds out how its last owner left it, and wires the parts together.
extension EngineCore {
    static func open(_ path: String, options: Options, storage: any Storage) throws(EngineError) -> EngineCore {
        let start = monotonicNanoseconds()
        let layout = StoreLayout(root: path)
        let isNew = try prepareDirectory(layout, options, storage)
        if !options.readOnly, storage.exists(layout.snapshot) {
            throw .readOnly(reason: "\(path) is a snapshot, to be read only")
        }
        let lock = try storage.lock(layout.lock)
        let tables = TableCache(
            storage: storage, layout: layout, capacity: min(options.maximumOpenTables, DescriptorLimit.tables),
            blockCache: BlockCache(capacity: options.cacheSize))
        let obsolete = ObsoleteFiles(layout: layout, storage: storage, tables: tables)
        // IDENTITY is written last: a store that has one is complete.
        let versions =
            isNew
            ? try VersionSet.create(layout: layout, storage: storage) { obsolete.add($0) }
            : try VersionSet.recover(layout: layout, storage: storage) { obsolete.add($0) }
        let identity =
            isNew
            ? try StoreIdentity.create(at: layout.identity, storage: storage)
            : try StoreIdentity.load(from: layout.identity, storage: storage)
        if isNew { try syncParent(layout, storage) }
        if !options.readOnly {
            // What a crash has left behind may be all the room that a full disk has: nobody is told "full" before it is gone.
            let isAtOnce = isSpaceScarce(layout, options, storage)
            try versions.removeOrphans(later: isAtOnce ? nil : { obsolete.add(orphan: $0) })
            try SnapshotDirectory(store: path, storage: storage).removeLeftovers()
        }

        var recovery = Statistics.Recovery()
        let fabric = FabricDistance(
            latencyNanoseconds: options.dmLatencyNanoseconds, bytesPerSecond: options.dmBandwidth)
        let found = try attachRegion(identity, versions, fabric, &recovery)
        let region: Region
        let allocator: SlabAllocator
        var memtables: [Memtable] = []
        if let live = found {
            region = live.region
            allocator = live.allocator
            memtables = live.memtables
            recovery.source = "region"
        } else {
            region = try createRegion(identity, options)
            region.fabric = fabric
            // Nobody may take what a reader replays into memory for the state the owner left.
            if options.readOnly { region.unlink() }
            allocator = SlabAllocator(slabCount: region.slabCount)
            region.visibleSequence = versions.flushedSequence
            recovery.source = isNew ? "created" : "log"
        }
        // A staged region lacks the memtables that were in the owner's memory.
        let needsReplay = found.map { $0.region.placement == .staged } ?? !isNew
        let options = try fitting(options, region, storage.space(layout.root).total)

        let offsetCache = try OffsetCache(budgetBytes: options.offsetCache)
        if options.dmPrefault { region.touch(slabs: 0..<region.slabCount) }
        let birth = try birthplace(region, allocator, options)
        let nextSequence = region.visibleSequence + 1
        if let last = memtables.last, last.state == .active, birth.region.isPrivate {
            // Writers go on in private memory.
            last.seal(lastSequence: nextSequence - 1)
        }
        if memtables.last?.state != .active {
            memtables.append(
                try freshMemtable(region, birth, options, memtables.last, nextSequence))
        }
        if !needsReplay, !options.readOnly { region.placement = options.placement }
        let holder = ReadStateHolder(ReadState(memtables: memtables.reversed(), version: versions.current))
        let files = try LogFiles.open(
            layout: layout, storage: storage, fileSize: UInt64(options.logFileSize), isReadOnly: options.readOnly)
        // All that the old logs hold is in the region, or in tables.
        if !needsReplay { files.setRecoveredLastSequences(region.visibleSequence) }
        let log = WriteAheadLog(
            region: region, options: options, files: files, versions: versions, holder: holder,
            durableSequence: durableSequence(versions, region, files, needsReplay: needsReplay))
        // `memtables` is not empty: a fresh one was appended when the last was not active.
        let writes = WritePath(
            region: region, birthplace: birth.region, allocator: birth.allocator, options: options, holder: holder,
            active: memtables[memtables.count - 1], nextSequence: nextSequence, throttle: WriteThrottle())
        let jobs = JobTable(region)
        jobs.reset()
        if !options.readOnly { region.build = BuildIdentity.current }
        // A reader runs no threads.
        let capacity = options.readOnly ? 0 : options.flushThreads + options.compactionThreads
        guard
            let node = NodeTable(region).attach(
                role: .computeNode, roles: options.readOnly ? [] : Set(JobKind.allCases), capacity: capacity)
        else {
            throw .io(operation: "find a free row in the node table of", path: region.name, code: EAGAIN)
        }
        let snapshots = SnapshotList()
        let context = FlushScheduler.Context(
            options: options, jobs: jobs, layout: layout, storage: storage, versions: versions, holder: holder,
            tables: tables, snapshots: snapshots, region: region,
            nodes: NodeWatch(region, ownNode: node, leaseMilliseconds: options.workerLeaseMilliseconds))
        let offload =
            birth.region.isPrivate
            ? OffloadScheduler(options: options, region: region, allocator: allocator) { jobs.ringFinished() } : nil
        let executor = LocalExecutor(
            jobs: jobs, nodes: NodeTable(region), node: node, leaseMilliseconds: options.workerLeaseMilliseconds,
            flush: FlushExecutor(storage: storage, layout: layout) { source in
                holder.current.memtables.first { $0.id == source.memtableID }
            },
            compact: CompactionScheduler.executor(context))
        let control = ControlPlane(
            context: context, writes: writes, log: log, compactions: CompactionScheduler(context),
            offload: offload, obsolete: obsolete, executor: executor, node: node)
        do throws(EngineError) {
            if !options.readOnly {
                try executor.start(flushThreads: options.flushThreads, compactionThreads: options.compactionThreads)
                try control.start()
            }
            if needsReplay {
                recovery.replayedEntries = try replay(files, layout, storage, writes, log, from: nextSequence - 1)
                if !options.readOnly {
                    region.placement = options.placement
                    // A flush is what makes them durable without another log of them.
                    if recovery.replayedEntries > 0, writes.sealIfRoom() != nil { jobs.ringFinished() }
                }
            }
            control.beginJudging()
        } catch {
            // Nobody else may have the store before the last of the threads has let go of its files.
            executor.stop()
            control.stop()
            jobs.reset()
            NodeTable(region).detach(node)
            withExtendedLifetime(lock) {}
            throw error
        }
        region.markReady()
        recovery.seconds = Double(monotonicNanoseconds() - start) / 1e9
        return EngineCore(
            layout: layout, storage: storage, options: options, region: region, allocator: allocator,
            versions: versions, tables: tables, holder: holder, snapshots: snapshots, writes: writes, log: log,
            control: control, executor: executor, recovery: recovery, lock: lock, node: node,
            offsetCache: offsetCache,
            delegation: ReadDelegation(
                region, mode: options.readOnly ? .off : options.readDelegation, isOffsetCacheUsed: offsetCache != nil))
    }

    /// - Returns: whether the store is to be created.
    private static func prepareDirectory(_ layout: StoreLayout, _ options: Options, _ storage: any Storage)
        throws(EngineError) -> Bool
    {
        let exists = storage.exists(layout.identity)
        if exists {
            guard !options.errorIfExists else {
                throw .invalidArgument("there is already an O3FS store at \(layout.root)")
            }
            return false
        }
        guard options.createIfMissing, !options.readOnly else { throw .storeNotFound(path: layout.root) }
        if storage.exists(layout.root) {
            // A half-made store of a crash is finished; anything else in the directory is somebody's.
            let known: Set<String> = ["LOCK", "wal", "sst", "CURRENT"]
            let strangers = try storage.list(layout.root).filter {
                !known.contains($0) && !$0.hasPrefix("MANIFEST-") && !$0.hasSuffix(".tmp") && $0 != "lost+found"
            }
            guard strangers.isEmpty else {
                throw .invalidArgument(
                    "\(layout.root) is not an O3FS store and not empty (it holds \(strangers.sorted()[0]))")
            }
            for directory in [layout.logDirectory, layout.tableDirectory] where storage.exists(directory) {
                guard try storage.list(directory).isEmpty else {
                    throw .corruption(
                        file: layout.identity, offset: 0, expected: "the identity of the store whose data is here",
                        found: "no file")
                }
            }
        } else {
            try storage.createDirectory(layout.root)
        }
        for directory in [layout.logDirectory, layout.tableDirectory] where !storage.exists(directory) {
            try storage.createDirectory(directory)
        }
        return true
    }

    /// The store's own name must survive power loss, too, before anything in it is said to.
    ///
    /// A parent that this process may not open has been filled by somebody else, who is to sync it.
    private static func syncParent(_ layout: StoreLayout, _ storage: any Storage) throws(EngineError) {
        // "name" and "name/" are in the working directory, "/name" is in the root.
        var path = Substring(layout.root)
        while path.count > 1, path.last == "/" { path.removeLast() }
        let slash = path.lastIndex(of: "/")
        let parent = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        do throws(EngineError) { try storage.syncDirectory(parent) } catch {
            guard error.posixCode == EACCES || error.posixCode == EPERM else { throw error }
        }
    }

    private struct LiveRegion {
        var region: Region
        var allocator: SlabAllocator
        var memtables: [Memtable]
    }

    /// The region the last owner left, if it can be trusted.
    private static func attachRegion(
        _ identity: StoreIdentity, _ versions: VersionSet, _ fabric: FabricDistance?,
        _ recovery: inout Statistics.Recovery
    ) throws(EngineError) -> LiveRegion? {
        let (region, refusal) = try Region.attach(storeID: identity.storeID, bootID: Region.currentBootID())
        if case .rebuilt(let reason) = refusal { recovery.note = reason }
        guard let region else { return nil }
        region.fabric = fabric
        for visible in region.possibleVisibleSequences {
            // What an attempt that failed has claimed is claimed anew.
            let allocator = SlabAllocator(slabCount: region.slabCount)
            do throws(EngineError) {
                let found = try RegionRecovery.run(
                    region, allocator, flushed: versions.flushedSequence, visible: visible)
                recovery.droppedEntries = found.droppedEntries
                recovery.note = nil
                region.visibleSequence = found.visible
                fabric?.transfer(found.memtables.reduce(0) { $0 + $1.reservedBytes })
                return LiveRegion(region: region, allocator: allocator, memtables: found.memtables)
            } catch {
                recovery.note = error.description
            }
        }
        return nil
    }

    /// Up to which sequence number storage holds everything without the help of this owner's log: what is in tables and,
    /// when the last owner's memory is there to tell, what it had synced to its logs. These stay until all is in tables.
    ///
    /// Without this a sync after a death would write all of DM to the log, which takes slow storage a minute.
    private static func durableSequence(
        _ versions: VersionSet, _ region: Region, _ files: LogFiles, needsReplay: Bool
    ) -> SequenceNumber {
        let flushed = versions.flushedSequence
        // Beyond the visible sequence, or without a log, the note is damaged.
        guard !needsReplay, let noted = region.durableSequence, noted > flushed, noted <= region.visibleSequence,
            !files.recoveredNumbers.isEmpty
        else { return flushed }
        return noted
    }

    private static func createRegion(_ identity: StoreIdentity, _ options: Options) throws(EngineError) -> Region {
        let size = options.dmSize ?? Region.defaultSize()
        let rounded = size / RegionLayout.slabBytes * RegionLayout.slabBytes
        guard rounded >= RegionLayout.minimumBytes else {
            if options.dmSize != nil {
                throw .invalidArgument(
                    "disaggregated memory must have at least \(RegionLayout.minimumBytes) bytes, not \(size)")
            }
            throw .memoryUnavailable(
                wantedBytes: UInt64(RegionLayout.minimumBytes), availableBytes: sharedMemoryBytesAvailable())
        }
        return try Region.create(storeID: identity.storeID, bootID: Region.currentBootID(), size: rounded)
    }

    /// Whether writers would be refused if DM were full.
    private static func isSpaceScarce(_ layout: StoreLayout, _ options: Options, _ storage: any Storage) -> Bool {
        guard let space = try? storage.space(layout.root) else { return false }
        let memory = UInt64(options.dmSize ?? Region.defaultSize())
        return StorageSpace(free: space.free, total: space.total, unflushed: memory).isScarce
    }

    /// The options, with memtables and shards that the region can hold several of.
    private static func fitting(_ options: Options, _ region: Region, _ storageBytes: UInt64) throws(EngineError)
        -> Options
    {
        var fitted = options
        if fitted.placement == .staged {
            while fitted.memtableSize > 1 << 20, fitted.memtableSize * 2 > fitted.localBuffer { fitted.memtableSize /= 2 }
        }
        // A compaction writes its outputs before its inputs go: on a small disk only small tables leave it room.
        fitted.tableFileSize = min(options.tableFileSize, max(1 << 20, Int(storageBytes / 128)))
        fitted.dmSize = region.size
        let slabs = region.slabCount
        while fitted.memtableSize > 1 << 20, fitted.memtableSize / RegionLayout.slabBytes * 4 > slabs {
            fitted.memtableSize /= 2
        }
        while fitted.shards > 1, fitted.shards * 4 > slabs { fitted.shards /= 2 }
        return fitted
    }

    private struct Birthplace {
        var region: Region
        var allocator: SlabAllocator
    }

    /// Where memtables are made: DM itself, or private memory that holds as many as fit the local buffer. Each
    /// shard may leave a part of a slab unused, which does not count.
    private static func birthplace(_ region: Region, _ allocator: SlabAllocator, _ options: Options)
        throws(EngineError) -> Birthplace
    {
        guard options.placement == .staged, !options.readOnly else {
            return Birthplace(region: region, allocator: allocator)
        }
        let overhead = 2 * options.shards + MemtableFilter.slabCount(memtableSize: options.memtableSize)
        let memtables = max(2, options.localBuffer / options.memtableSize)
        let size =
            RegionLayout.firstSlabOffset + memtables * (options.memtableSize + overhead * RegionLayout.slabBytes)
        let buffer = try Region.createPrivate(size: size)
        return Birthplace(region: buffer, allocator: SlabAllocator(slabCount: buffer.slabCount))
    }

    private static func freshMemtable(
        _ region: Region, _ birth: Birthplace, _ options: Options, _ previous: Memtable?,
        _ firstSequence: SequenceNumber
    ) throws(EngineError) -> Memtable {
        let boundaries = previous.map { ShardBoundaries.learn(from: $0.map, shards: options.shards) } ?? []
        guard
            let memtable = Memtable.create(
                id: region.takeMemtableID(), region: birth.region, allocator: birth.allocator, boundaries: boundaries, memtableSize: options.memtableSize)
        else {
            throw .memoryUnavailable(
                wantedBytes: UInt64(options.memtableSize),
                availableBytes: UInt64(birth.allocator.available * RegionLayout.slabBytes))
        }
        memtable.activate(firstSequence: firstSequence)
        return memtable
    }

    /// Writes the log's entries beyond `flushed` again, record by record, with the numbers they had. They do not count
    /// as durable, for what was read may be in the system's memory only (`LogFiles.open`), until they are in tables,
    /// or in a log of this owner.
    private static func replay(
        _ files: LogFiles, _ layout: StoreLayout, _ storage: any Storage, _ writes: WritePath, _ log: WriteAheadLog,
        from flushed: SequenceNumber
    ) throws(EngineError) -> UInt64 {
        var expected = flushed + 1
        var replayed: UInt64 = 0
        let batch = WriteBatch(capacity: 1 << 20)
        for number in files.recoveredNumbers {
            let path = layout.log(number)
            var last: SequenceNumber = 0
            try LogReader.forEach(storage: storage, path: path, logNumber: number, kind: .writeAhead) {
                payload, offset throws(EngineError) in
                batch.clear()
                FaultPoint.midReplay.hit()
                last = try LogRecordReader.forEach(payload, file: path, offset: offset) {
                    sequence, kind, isLast, key, value throws(EngineError) in
                    guard sequence >= expected else { return }
                    guard sequence == expected else {
                        throw .corruption(
                            file: path, offset: offset, expected: "sequence \(expected)", found: "\(sequence)")
                    }
                    switch kind {
                    case .put: batch.put(key, referencing: value)
                    case .delete: batch.delete(key)
                    case .rangeDelete: batch.deleteRange(key, value)
                    }
                    expected += 1
                    // Batch by batch: several of them together may be larger than one may be.
                    if isLast {
                        replayed += UInt64(batch.count)
                        _ = try writes.replay(batch)
                        batch.clear()
                    }
                }
                guard batch.isEmpty else {
                    throw .corruption(
                        file: path, offset: offset, expected: "whole batches in a record", found: "half of one")
                }
            }
            log.setRecoveredLastSequence(number, last)
        }
        return replayed
    }
}
