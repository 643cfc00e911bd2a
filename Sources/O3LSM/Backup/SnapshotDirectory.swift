import Glibc

/// The snapshots of a store: `STORE/snapshots/NAME`. Needs no open store, except for making one
/// (`Database.createSnapshot`). Thread-safe; processes may use it beside each other.
///
/// One that is being made, or deleted, has a name that begins with a dot, which no snapshot's does.
public struct SnapshotDirectory: Sendable {
    /// The store's directory.
    public let store: String
    let storage: any Storage

    public init(store: String, storage: any Storage = POSIXStorage()) {
        self.store = store
        self.storage = storage
    }

    private var path: String { StoreLayout(root: store).snapshotDirectory }

    public func path(of name: String) -> String { path + "/" + name }

    /// - Throws: `.invalidArgument` for what cannot be a snapshot's name.
    public static func check(_ name: String) throws(EngineError) {
        let isPlain = name.utf8.allSatisfy {
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0) || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0)
                || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || "-_.".utf8.contains($0)
        }
        guard isPlain, (1...100).contains(name.utf8.count), !name.hasPrefix(".") else {
            throw .invalidArgument(
                "a snapshot's name has 1 to 100 letters, digits, '-', '_' and '.', and does not begin with '.'; "
                    + "\"\(name)\" is none")
        }
    }

    /// All of them, the oldest first.
    ///
    /// - Parameter damaged: given the name of one that cannot be read, and why; it is left out.
    /// - Throws: `.io` when the directory cannot be read; what `damaged` throws.
    public func list(
        damaged: (_ name: String, EngineError) throws(EngineError) -> Void = { _, error throws(EngineError) in throw error }
    ) throws(EngineError) -> [StoreSnapshot] {
        var found: [StoreSnapshot] = []
        for name in try names() {
            do throws(EngineError) { found.append(try describe(name)) } catch { try damaged(name, error) }
        }
        return found.sorted { ($0.sequence, $0.created, $0.name) < ($1.sequence, $1.created, $1.name) }
    }

    /// Their names. Throws `.io`.
    func names() throws(EngineError) -> [String] {
        guard storage.exists(path) else { return [] }
        return try storage.list(path).filter { !$0.hasPrefix(".") }.sorted()
    }

    /// - Throws: `.invalidArgument` when there is none of that name.
    public func find(_ name: String) throws(EngineError) -> StoreSnapshot {
        try Self.check(name)
        guard storage.exists(path(of: name)) else {
            throw .invalidArgument("the store \(store) has no snapshot \(name)")
        }
        return try describe(name)
    }

    private func describe(_ name: String) throws(EngineError) -> StoreSnapshot {
        let layout = StoreLayout(root: path(of: name))
        let identity = try StoreIdentity.load(from: layout.identity, storage: storage)
        let file = try SnapshotFile.load(layout, storage)
        let tables = try storage.list(layout.tableDirectory)
        var bytes: UInt64 = 0
        for table in tables { bytes += try storage.fileSize(layout.tableDirectory + "/" + table) }
        return StoreSnapshot(
            name: name, path: layout.root, id: identity.name, source: file.source, sequence: file.sequence,
            created: identity.created, tables: tables.count, bytes: bytes)
    }

    /// Bytes of tables that go when the snapshot is deleted: nothing else has them.
    public func ownBytes(_ snapshot: StoreSnapshot) -> UInt64 {
        let directory = StoreLayout(root: snapshot.path).tableDirectory
        return ((try? storage.list(directory)) ?? []).reduce(0) { sum, name in
            var status = stat()
            guard stat(directory + "/" + name, &status) == 0, status.st_nlink == 1 else { return sum }
            return sum + UInt64(status.st_size)
        }
    }

    /// Deletes a snapshot: at once to all who look for it, then its files, so that their space is free when this
    /// returns.
    ///
    /// - Throws: `.invalidArgument` when there is none, `.storeInUse` while it is mounted or read, `.io`.
    public func delete(_ name: String) throws(EngineError) {
        let snapshot = path(of: name)
        try Self.check(name)
        guard storage.exists(snapshot) else { throw .invalidArgument("the store \(store) has no snapshot \(name)") }
        let lock = try storage.lock(StoreLayout(root: snapshot).lock)
        let hidden = path + "/." + name + ".\(getpid()).deleted"
        try storage.rename(snapshot, to: hidden)
        try storage.syncDirectory(path)
        try storage.removeTree(hidden)
        withExtendedLifetime(lock) {}
    }

    /// Makes one by `build`, which is given the path of a directory to make: whole, or not at all.
    ///
    /// - Throws: `.invalidArgument` for a name that is no good, or taken.
    func make(
        _ name: String, _ build: (_ path: String) throws(EngineError) -> StoreSnapshot
    ) throws(EngineError) -> StoreSnapshot {
        try Self.check(name)
        guard !storage.exists(path(of: name)) else {
            throw .invalidArgument("the store \(store) already has a snapshot \(name)")
        }
        if !storage.exists(path) {
            try storage.createDirectory(path)
            try storage.syncDirectory(store)
        }
        let hidden = path + "/." + name + Self.unfinishedSuffix
        if storage.exists(hidden) { try storage.removeTree(hidden) }
        var place = hidden
        do throws(EngineError) {
            var made = try build(hidden)
            try storage.rename(hidden, to: path(of: name))
            place = path(of: name)
            try storage.syncDirectory(path)
            made.name = name
            made.path = path(of: name)
            return made
        } catch {
            // What is left of it under the hidden name goes when the store is opened again, if not now.
            if storage.exists(place) { try? storage.removeTree(place) }
            throw error
        }
    }

    private static let unfinishedSuffix = ".unfinished"

    /// Moves here the snapshots of a store that this one has taken the place of. Who is interrupted begins again.
    ///
    /// - Returns: the names that this store has, too; those stay where they are.
    func adopt(from old: StoreLayout) throws(EngineError) -> [String] {
        guard storage.exists(old.snapshotDirectory), storage.exists(StoreLayout(root: store).identity) else { return [] }
        guard storage.exists(path) else {
            try storage.rename(old.snapshotDirectory, to: path)
            try storage.syncDirectory(store)
            try storage.syncDirectory(old.root)
            return []
        }
        var taken: [String] = []
        for name in try storage.list(old.snapshotDirectory) where !name.hasPrefix(".") {
            if storage.exists(path(of: name)) { taken.append(name) } else {
                try storage.rename(old.snapshotDirectory + "/" + name, to: path(of: name))
            }
        }
        try storage.syncDirectory(path)
        try storage.syncDirectory(old.snapshotDirectory)
        return taken
    }

    /// Removes what a crash has left of snapshots that were being made or deleted. For the owner of the store.
    func removeLeftovers() throws(EngineError) {
        guard storage.exists(path) else { return }
        for name in try storage.list(path) where name.hasPrefix(".") {
            // Another process may be deleting it at this moment.
            try? storage.removeTree(path + "/" + name)
        }
    }
}
