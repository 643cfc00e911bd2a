/// `o3fs import`: makes a store of an exported stream, or brings one that was made so up to a later snapshot.
///
/// The new state is built beside the store, in `STORE.o3fs-import`, and takes its place when it is whole and on storage: a
/// stream that is damaged, a crash or a full disk leaves the store what it was.
public struct Import {
    private let reader: BackupReader
    private let store: String
    private let storage: any Storage

    /// - Parameters:
    ///   - store: a path where there is nothing, or an empty directory, for a whole stream; for the changes since a
    ///     snapshot, the store that this was imported to.
    ///   - name: of the stream, for errors.
    ///   - source: fills a buffer from its beginning and says how far; 0 at the end.
    /// - Throws: `.corruption`, `.unsupportedFormat` for what is no stream; what `source` throws.
    public init(
        to store: String, name: String, storage: any Storage = POSIXStorage(),
        from source: @escaping (UnsafeMutableRawBufferPointer) throws(EngineError) -> Int
    ) throws(EngineError) {
        var path = store
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        self.store = path
        self.storage = storage
        reader = try BackupReader(name: name, source)
    }

    public var header: BackupHeader { reader.header }

    /// Reads the stream to its end and writes nothing.
    ///
    /// - Throws: `.corruption` for a stream that is not whole.
    public func verify() throws(EngineError) -> BackupCounts {
        try reader.forEach { _, _ in }
        return reader.counts
    }

    /// - Parameter progress: told now and then of what was read.
    /// - Throws: `.invalidArgument` when the stream does not fit what is at the store's path, `.storeInUse`,
    ///   `.corruption`, `.io`; then the store is what it was.
    public func run(progress: (BackupCounts) -> Void = { _ in }) throws(EngineError) -> BackupCounts {
        if reader.header.base == nil {
            try checkNothingIsThere()
            try finishEarlierImport()
            try storage.createNewDirectory(building)
            let held = try apply(progress)
            defer { withExtendedLifetime(held) {} }
            try storage.rename(building, to: store)
            try storage.syncDirectory(parent)
        } else {
            // It will be removed in the end.
            try storage.checkOwn(store)
            let old = try cloneBase()
            defer { withExtendedLifetime(old) {} }
            let new = try apply(progress)
            defer { withExtendedLifetime(new) {} }
            // The new store takes the old one's name, and the old one the new one's, in one step.
            try storage.exchange(building, with: store)
            try storage.syncDirectory(parent)
            try keepSnapshots()
            try storage.removeTree(building)
        }
        return reader.counts
    }

    /// Where the new state is built.
    private var building: String { store + StoreLayout.importSuffix }

    private var parent: String {
        guard let slash = store.lastIndex(of: "/") else { return "." }
        return slash == store.startIndex ? "/" : String(store[..<slash])
    }

    /// Removes what an import has left that did not come to its end; one that came as far as the exchange has left
    /// the old store there, whose snapshots are to be kept.
    ///
    /// - Throws: `.storeInUse` while that import is at work.
    private func finishEarlierImport() throws(EngineError) {
        guard storage.exists(building) else { return }
        let layout = StoreLayout(root: building)
        try layout.checkIsLeftover(storage)
        let held = try storage.lock(layout.lock)
        defer { withExtendedLifetime(held) {} }
        try keepSnapshots()
        // The memory of an import that was killed. After the exchange it is the old store's, which was closed.
        if let left = try? StoreIdentity.load(from: layout.identity, storage: storage),
            (try? StoreIdentity.load(from: StoreLayout(root: store).identity, storage: storage))?.storeID != left.storeID
        {
            Region.unlink(storeID: left.storeID)
        }
        try storage.removeTree(building)
    }

    /// After an exchange: gives the store the snapshots of the old one.
    private func keepSnapshots() throws(EngineError) {
        let old = StoreLayout(root: building)
        let taken = try SnapshotDirectory(store: store, storage: storage).adopt(from: old)
        guard let name = taken.first else { return }
        throw .invalidArgument(
            "an import that was interrupted has left a snapshot \(name) in \(old.snapshotDirectory), and the store has another "
                + "one of that name: delete or move one of them")
    }

    private func checkNothingIsThere() throws(EngineError) {
        guard storage.exists(store) else { return }
        guard try storage.list(store).isEmpty else {
            throw .invalidArgument("\(store) is there already, and the stream is a whole store: name another directory")
        }
    }

    /// Makes the building a copy of the store, which must be what the stream builds upon.
    ///
    /// - Returns: the store's lock.
    private func cloneBase() throws(EngineError) -> (any FileLock)? {
        let layout = StoreLayout(root: store)
        let database = try Database.open(store, options: Self.options, storage: storage)
        let held = database.core.heldLock
        do throws(EngineError) {
            // Only who has the store may touch what lies beside it.
            try finishEarlierImport()
            guard let origin = try OriginFile.load(layout, storage), origin.snapshot == reader.header.base else {
                throw .invalidArgument(
                    "the stream holds what has changed since the snapshot \(reader.header.base ?? ""), which \(store) "
                        + "does not equal")
            }
            guard origin.sequence == database.lastSequence else {
                throw .invalidArgument(
                    "\(store) was written to since it was imported: changes can only be imported into what is as it was")
            }
            _ = try database.core.checkpoint(at: building, isSnapshot: false)
            try database.close()
            return held
        } catch {
            try? database.close()
            throw error
        }
    }

    private static var options: Options {
        var options = Options()
        options.dmSize = 64 << 20
        options.memtableSize = 16 << 20
        // Nothing of a store that is not finished counts.
        options.commitIntervalMilliseconds = 3_600_000
        return options
    }

    /// Writes the stream into the building, and makes it a whole store on storage.
    ///
    /// - Returns: the building's lock.
    private func apply(_ progress: (BackupCounts) -> Void) throws(EngineError) -> (any FileLock)? {
        do throws(EngineError) {
            let database = try Database.open(building, options: Self.options, storage: storage)
            let held = database.core.heldLock
            do throws(EngineError) {
                let batch = WriteBatch(capacity: 2 << 20)
                var bytes = 0
                try reader.forEach { key, value throws(EngineError) in
                    if let value { batch.put(key, value) } else { batch.delete(key) }
                    bytes += key.count + (value?.count ?? 0)
                    guard bytes >= Self.batchBytes else { return }
                    try database.write(batch)
                    batch.clear()
                    bytes = 0
                    progress(reader.counts)
                }
                try database.write(batch)
            } catch {
                try? database.close()
                throw error
            }
            let sequence = database.lastSequence
            try database.close()
            let layout = StoreLayout(root: building)
            try storage.replace(
                layout.origin, in: layout.root,
                with: OriginFile(snapshot: reader.header.snapshot, sequence: sequence).encoded)
            return held
        } catch {
            try? storage.removeTree(building)
            throw error
        }
    }

    private static let batchBytes = 1 << 20
}
