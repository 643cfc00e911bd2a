/// A second store with the tables of an open one, as RocksDB's Checkpoint: files are linked, not copied, so it
/// takes no space at first and little time, whatever the store's size.
extension EngineCore {
    /// Makes a store of its own at `path` that holds what this one holds now; on storage when it returns, but for
    /// its name in the directory it is in.
    ///
    /// What is in memtables is flushed first. Entries that are written meanwhile can be in the tables, too; readers of
    /// the new store do not see them, for its sequence ends before them.
    ///
    /// - Parameters:
    ///   - path: of a directory that does not exist, on the same file system.
    ///   - isSnapshot: the new store says of itself that it is one, and is not to be written to.
    /// - Throws: `.io`; then `path` may be there in part.
    func checkpoint(at path: String, isSnapshot: Bool) throws(EngineError) -> StoreSnapshot {
        // While it is held, compactions keep what is seen at its sequence.
        let region = self.region
        let snapshots = self.snapshots
        let pin = Snapshot(
            sequence: snapshots.take { region.visibleSequence }, release: { snapshots.release($0) })
        try flush()
        // The version keeps its tables' files from being deleted while they are linked.
        let version = holder.current.version
        let target = StoreLayout(root: path)
        for directory in [target.root, target.logDirectory, target.tableDirectory] {
            try storage.createNewDirectory(directory)
        }
        for file in version.levels.joined() {
            try storage.link(layout.table(file.number), to: target.table(file.number))
        }
        try storage.syncDirectory(target.tableDirectory)
        try VersionSet.write(version, flushed: pin.sequence, target, storage)
        let source = try StoreIdentity.load(from: layout.identity, storage: storage)
        if isSnapshot {
            try storage.replace(
                target.snapshot, in: target.root,
                with: SnapshotFile(source: source.name, sequence: pin.sequence).encoded)
        }
        // Last: a store that has one is complete.
        let identity = try StoreIdentity.create(at: target.identity, storage: storage)
        withExtendedLifetime((version, pin)) {}
        let tables = Array(version.levels.joined())
        return StoreSnapshot(
            name: String(path[path.index(after: path.lastIndex(of: "/") ?? path.startIndex)...]), path: path,
            id: identity.name, source: source.name, sequence: pin.sequence, created: identity.created,
            tables: tables.count, bytes: tables.reduce(0) { $0 + $1.size })
    }
}
