import Glibc
import Synchronization

/// An O3-LSM store: an ordered map from byte strings to byte strings whose memtables live in
/// disaggregated memory.
///
/// One process owns a store at a time. All methods may be called from any thread. A write that has
/// returned survives the death of every process; after `sync` it survives power loss; and after power loss
/// the store is a prefix of its history. Keys have 1 … 16 KiB, values 0 … 768 KiB (`EntryLimits`).
///
/// Sources: O3-LSM (arXiv 2603.05439) for the memtables and the offloading, LevelDB and RocksDB for the tree.
public final class Database: @unchecked Sendable {
    // @unchecked: parts are thread-safe themselves; `isOpen` is atomic.
    public let path: String
    public let options: Options

    let core: EngineCore
    private let isOpen = Atomic<Bool>(true)
    private let reads = Atomic<UInt64>(0)
    private let snapshotMaking = Mutex(())

    private init(path: String, options: Options, core: EngineCore) {
        self.path = path
        self.options = options
        self.core = core
    }

    deinit {
        // A database that is dropped without `close` leaves DM to the next owner, as a crash would.
        if isOpen.load(ordering: .relaxed) { core.stopThreads() }
    }

    /// Opens a store, creating it when `options` allow; recovers what its last owner left behind, from DM
    /// when it is there, else from the manifest and the log.
    ///
    /// - Throws: `.storeInUse`, `.storeNotFound`, `.invalidArgument`, `.corruption`, `.memoryUnavailable`, `.io`.
    public static func open(
        _ path: String, options: Options = Options(), storage: any Storage = POSIXStorage()
    ) throws(EngineError) -> Database {
        try options.validate()
        let core = try EngineCore.open(path, options: options, storage: storage)
        return Database(path: path, options: options, core: core)
    }

    /// Makes everything durable in tables, stops, and removes the DM region. Further calls throw `.closed`.
    ///
    /// - Throws: what kept the last writes from reaching storage; then DM is left for the next owner.
    public func close() throws(EngineError) {
        guard isOpen.exchange(false, ordering: .acquiringAndReleasing) else { return }
        try core.close()
    }

    // MARK: Writing

    public func put(_ key: [UInt8], _ value: [UInt8]) throws(EngineError) {
        let batch = WriteBatch(capacity: key.count + value.count)
        batch.put(key, value)
        try write(batch)
    }

    public func delete(_ key: [UInt8]) throws(EngineError) {
        let batch = WriteBatch(capacity: key.count)
        batch.delete(key)
        try write(batch)
    }

    /// Deletes every key in `begin ..< end`, in constant time.
    public func deleteRange(_ begin: [UInt8], _ end: [UInt8]) throws(EngineError) {
        let batch = WriteBatch(capacity: begin.count + end.count)
        batch.deleteRange(begin, end)
        try write(batch)
    }

    /// Applies a batch atomically.
    ///
    /// - Parameter sync: also make it survive power loss before returning.
    public func write(_ batch: WriteBatch, sync: Bool = false) throws(EngineError) {
        try checkOpen()
        if options.readOnly { throw .readOnly(reason: "it was opened read-only") }
        let last = try core.writes.write(batch)
        if sync {
            try core.log.sync()
        } else if core.appendsBeforeReturn {
            try core.log.append(through: last)
        }
    }

    /// As `write`, but never waits for memory or storage that is full, and is not slowed by back-pressure: for small writes
    /// that may be left out, and for threads that hold what others wait for.
    ///
    /// - Returns: whether it was done; false: it would have had to wait, and nothing was done.
    public func writeWithoutWaiting(_ batch: WriteBatch) throws(EngineError) -> Bool {
        try checkOpen()
        if options.readOnly { throw .readOnly(reason: "it was opened read-only") }
        guard let last = try core.writes.writeWithoutWaiting(batch) else { return false }
        if core.appendsBeforeReturn { try core.log.append(through: last) }
        return true
    }

    /// Returns when every write that has returned survives power loss. Concurrent calls share one sync. One that reads
    /// only has nothing to sync, and writes nothing.
    public func sync() throws(EngineError) {
        try checkOpen()
        if options.readOnly { return }
        try core.log.sync()
    }

    /// Moves everything that is in memtables into tables, and waits for it.
    public func flush() throws(EngineError) {
        try checkOpen()
        try core.flush()
    }

    /// Rewrites a key range (nil: unbounded) down to the bottom of the tree, and waits for it: deleted and
    /// overwritten data gives its space back.
    public func compact(_ begin: [UInt8]? = nil, _ end: [UInt8]? = nil) throws(EngineError) {
        try checkOpen()
        try core.flush()
        try core.control.compact(begin, end)
    }

    /// Waits for flushes of sealed memtables and for compactions that are due; begins neither. Under
    /// writes that go on this may take for ever. RocksDB's `WaitForCompact`.
    public func waitUntilSettled() throws(EngineError) {
        try checkOpen()
        try core.control.waitUntilSettled()
    }

    // MARK: Reading

    public func get(_ key: [UInt8], snapshot: Snapshot? = nil) throws(EngineError) -> [UInt8]? {
        try key.withEngineBytes { bytes throws(EngineError) in try lookup(bytes, snapshot: snapshot)?.copy() }
    }

    /// The value of a key without a copy: it stays readable while the result is held.
    public func lookup(_ key: UnsafeRawBufferPointer, snapshot: Snapshot? = nil) throws(EngineError) -> PinnedValue? {
        try checkOpen()
        reads.wrappingAdd(1, ordering: .relaxed)
        let state = core.holder.current
        return try core.lookup(key, state, snapshot?.sequence ?? core.region.visibleSequence)
    }

    /// The values of several keys, all of one state.
    public func multiGet(_ keys: [[UInt8]], snapshot: Snapshot? = nil) throws(EngineError) -> [[UInt8]?] {
        try multiLookup(keys, snapshot: snapshot).map { $0?.copy() }
    }

    /// The values of several keys, all of one state, without copies: they stay readable while the result is held.
    public func multiLookup(_ keys: [[UInt8]], snapshot: Snapshot? = nil) throws(EngineError) -> [PinnedValue?] {
        try checkOpen()
        reads.wrappingAdd(UInt64(keys.count), ordering: .relaxed)
        let state = core.holder.current
        let sequence = snapshot?.sequence ?? core.region.visibleSequence
        return try core.multiLookup(keys, state, sequence)
    }

    /// The present state, readable until the result is released.
    public func makeSnapshot() -> Snapshot {
        let snapshots = core.snapshots
        let region = core.region
        return Snapshot(
            sequence: snapshots.take { region.visibleSequence }, release: { snapshots.release($0) })
    }

    /// A cursor over the keys of one state.
    ///
    /// Until it is released, the memtables of that state keep their memory, also when they have been flushed: writers
    /// that find the region full wait for it, so that a thread which holds one must not write much.
    public func makeIterator(_ options: ReadOptions = ReadOptions()) throws(EngineError) -> DatabaseIterator {
        try checkOpen()
        return try core.makeIterator(options)
    }

    // MARK: Snapshots that stay

    /// Keeps the present state under a name until it is deleted (`SnapshotDirectory`): a store in
    /// `snapshots/NAME`, which shares its tables with this one. On storage when it returns. Writers go on meanwhile.
    ///
    /// - Throws: `.invalidArgument` for a name that is no good or taken, `.readOnly` for a store that is not to be
    ///   written to, `.io`; then there is no such snapshot.
    @discardableResult
    public func createSnapshot(_ name: String) throws(EngineError) -> StoreSnapshot {
        try checkOpen()
        if options.readOnly { throw .readOnly(reason: "it was opened read-only") }
        let directory = SnapshotDirectory(store: path, storage: core.storage)
        // One at a time, for as long as it takes: they would wait for the same flush.
        let outcome = snapshotMaking.withLock { _ -> Result<StoreSnapshot, EngineError> in
            do throws(EngineError) {
                return .success(
                    try directory.make(name) { path throws(EngineError) in
                        try core.checkpoint(at: path, isSnapshot: true)
                    })
            } catch { return .failure(error) }
        }
        return try outcome.get()
    }

    /// The sequence of the last write.
    public var lastSequence: SequenceNumber { core.region.visibleSequence }

    // MARK: Knowing

    /// Bytes of storage and DM that a key range takes, roughly.
    public func approximateSize(_ begin: [UInt8], _ end: [UInt8]) -> UInt64 { core.approximateSize(begin, end) }

    /// Whether new reads are direct whatever `Options.readDelegation` says; always true where that is off.
    public var pausesReadDelegation: Bool {
        get { core.delegation?.isPaused.load(ordering: .relaxed) ?? true }
        set { core.delegation?.isPaused.store(newValue, ordering: .relaxed) }
    }

    public func statistics() -> Statistics {
        var statistics = core.statistics()
        statistics.reads = reads.load(ordering: .relaxed)
        return statistics
    }

    /// Bytes that can still be stored on the file system of the store, and its size.
    public func space() throws(EngineError) -> (free: UInt64, total: UInt64) {
        let (free, total) = try core.storage.space(path)
        return (free - min(free, StorageSpace.reserveBytes(ofStorage: total)), total)
    }

    /// What the open store has lost count of in disaggregated memory: slabs and slots that nobody will give back.
    /// Takes a second, during which it may be used.
    ///
    /// - Returns: one sentence for each; empty in good order.
    public func leaks() throws(EngineError) -> [String] {
        try checkOpen()
        return core.leaks()
    }

    /// Reads every table and checks every checksum and the shape of the tree.
    ///
    /// - Parameter progress: told of tables done and tables in all.
    /// - Returns: what is wrong; empty for a sound store.
    public func verify(progress: (_ done: UInt64, _ total: UInt64) -> Void = { _, _ in }) throws(EngineError)
        -> [EngineError]
    {
        try checkOpen()
        return core.verify(progress: progress)
    }

    /// Begins to read all tables from storage and to check all their checksums, in the background, unless that is being
    /// done. `statistics().scrub` tells how it goes.
    ///
    /// - Parameters:
    ///   - bytesPerSecond: at least 1; nil: no bound.
    ///   - repeats: again every week, as long as the store is open. At most one call may ask for it.
    ///   - tell: called for each damaged table, and for a repeated scrub that cannot begin, from another thread.
    /// - Returns: the id of the scrub that runs now, 0 for one that repeats.
    @discardableResult
    public func startScrub(
        bytesPerSecond: UInt64?, repeats: Bool = false, tell: @escaping @Sendable (EngineError) -> Void = { _ in }
    ) throws(EngineError) -> UInt64 {
        try checkOpen()
        guard repeats else { return try core.scrubber.start(bytesPerSecond: bytesPerSecond, tell: tell) }
        try core.scrubber.startRepeating(bytesPerSecond: bytesPerSecond, tell: tell)
        return 0
    }

    /// The scrub that runs, or the last one since the store was opened; nil: none.
    public var scrubReport: ScrubReport? { core.scrubber.report }

    private func checkOpen() throws(EngineError) {
        guard isOpen.load(ordering: .relaxed) else { throw .closed }
    }
}
