import Glibc

/// `o3fs repair` of a store's files: brings back what can be read of damaged tables, logs and manifests. Named after
/// RocksDB's RepairDB.
///
/// Where the tree of tables is known, a damaged table gives way to one with what is left of it, in its place in the tree,
/// by one edit of the manifest; the damaged files are kept in `STORE/damaged`. Where it is not known, or a log that is
/// needed cannot be read whole, a new store is made beside (`StoreRebuild`), which takes the old one's place; that is kept
/// as `STORE.damaged`. A repair that is interrupted is begun again by the next one. Snapshots are read, too, and left as
/// they are.
public struct StoreRepair {
    private let layout: StoreLayout
    private let storage: any Storage

    /// - Parameter store: the directory of a store that nobody has open.
    public init(_ store: String, storage: any Storage = POSIXStorage()) {
        layout = StoreLayout(root: store)
        self.storage = storage
    }

    /// Whether there may be something to repair at a path: the files of a store, with or without its identity, or what
    /// an interrupted repair has left beside.
    public static func isCandidate(_ store: String, storage: any Storage = POSIXStorage()) -> Bool {
        let layout = StoreLayout(root: store)
        return storage.exists(layout.identity) || storage.exists(layout.tableDirectory)
            || storage.exists(StoreRebuild.building(layout))
    }

    /// - Parameters:
    ///   - dryRun: read everything, say what would be done, change nothing.
    ///   - progress: told of tables done and tables in all.
    /// - Throws: `.storeInUse`, `.storeNotFound`, `.io`, `.unsupportedFormat`; `.readOnly` for a snapshot. Then nothing was
    ///   changed, or the next repair goes on.
    public func run(
        dryRun: Bool, progress: (_ done: UInt64, _ total: UInt64) -> Void = { _, _ in }
    ) throws(EngineError) -> StoreRepairReport {
        if !dryRun { try StoreRebuild.finishEarlier(layout, storage) }
        guard storage.exists(layout.tableDirectory) else { throw .storeNotFound(path: layout.root) }
        var report = StoreRepairReport()
        let identity = try loadIdentity(&report)
        var versions = try loadVersions(&report)
        var needsRebuild = versions == nil
        if report.isSound {
            // As its owner would: with what is in memory, or else in the logs.
            if let error = try openingError(dryRun) {
                report.changes.append("the logs cannot be read whole (\(error)): all is merged into a new store")
                needsRebuild = true
            }
        } else if let versions, try !logsAreSound(after: versions.flushedSequence) {
            report.changes.append("the logs cannot be read whole: all is merged into a new store")
            needsRebuild = true
        }
        let lock = try storage.lock(layout.lock)
        defer { withExtendedLifetime(lock) {} }
        // What the opening has flushed, and may have taken out of the logs, is in a newer version than the one above.
        if versions != nil { versions = try recoverVersions()?.versions }
        var sound: Set<FileIdentity> = []
        if needsRebuild {
            let rebuild = StoreRebuild(layout, storage, versions: versions, identity: identity)
            try rebuild.run(dryRun: dryRun, &report, progress)
        } else {
            guard let versions else {
                throw .corruption(file: layout.current, offset: 0, expected: "the manifest of before", found: "none")
            }
            sound = try replaceDamagedTables(versions, identity == nil, dryRun, &report, progress)
        }
        readSnapshots(besides: sound, &report)
        return report
    }

    // MARK: - What is there

    private func loadIdentity(_ report: inout StoreRepairReport) throws(EngineError) -> StoreIdentity? {
        if let identity = try whole({ () throws(EngineError) in
            try StoreIdentity.load(from: layout.identity, storage: storage)
        }) {
            return identity
        }
        report.changes.append(
            "IDENTITY is written anew: what is in the store's memory and not in its files is no longer found")
        return nil
    }

    private func loadVersions(_ report: inout StoreRepairReport) throws(EngineError) -> VersionSet? {
        let found = try recoverVersions()
        if let manifest = found?.manifest {
            report.changes.append("CURRENT is written anew: the newest manifest that can be read is MANIFEST \(manifest)")
        } else if found == nil {
            report.changes.append(
                "no manifest can be read: all tables in sst/ are merged into a new store; files that were deleted shortly "
                    + "before may be back")
        }
        return found?.versions
    }

    /// The tree of tables: what CURRENT names, or else the newest manifest that can be read, with its number.
    private func recoverVersions() throws(EngineError) -> (versions: VersionSet, manifest: UInt64?)? {
        let (layout, storage) = (layout, storage)
        if let versions = try whole({ () throws(EngineError) in
            try VersionSet.recover(layout: layout, storage: storage) { _ in }
        }) {
            return (versions, nil)
        }
        guard let number = try newestManifest() else { return nil }
        return (try VersionSet.recover(layout: layout, storage: storage, manifest: number) { _ in }, number)
    }

    /// The greatest number of a manifest that can be read whole.
    private func newestManifest() throws(EngineError) -> UInt64? {
        let numbers = try storage.list(layout.root).compactMap { name in
            StoreLayout.number(in: name).flatMap { layout.manifest($0) == layout.root + "/" + name ? $0 : nil }
        }
        for number in numbers.sorted(by: >) {
            let layout = layout
            let storage = storage
            if try whole({ () throws(EngineError) in
                try VersionSet.recover(layout: layout, storage: storage, manifest: number) { _ in }
            }) != nil {
                return number
            }
        }
        return nil
    }

    /// As `readable`, and nil for a file that is missing.
    private func whole<Value>(_ body: () throws(EngineError) -> Value) throws(EngineError) -> Value? {
        try readable { () throws(EngineError) -> Value? in
            do throws(EngineError) { return try body() } catch {
                if error.posixCode == ENOENT { return nil }
                throw error
            }
        } ?? nil
    }

    /// Opens the store and closes it, which puts what is in memory and in logs into tables unless this is a dry run.
    ///
    /// - Returns: what is damaged; nil when it opens.
    private func openingError(_ dryRun: Bool) throws(EngineError) -> EngineError? {
        var options = Options()
        options.createIfMissing = false
        options.readOnly = dryRun
        // A damaged table is to be named and kept, not merged away because what is damaged is only its filter.
        options.disableAutomaticCompaction = true
        options.dmSize = Self.leastMemoryBytes
        if dryRun {
            // What the log holds stays in memory, where an entry takes at most about three times as much.
            let names = try storage.list(layout.logDirectory)
            let bytes = names.reduce(0) { $0 + ((try? storage.fileSize(layout.logDirectory + "/" + $1)) ?? 0) }
            options.dmSize = max(Self.leastMemoryBytes, 3 * Int(clamping: bytes))
        }
        options.memtableSize = Self.leastMemoryBytes / 4
        let database: Database
        do throws(EngineError) {
            database = try Database.open(layout.root, options: options, storage: storage)
        } catch {
            if case .corruption = error { return error }
            throw error
        }
        // A damaged table that this met is no reason to give up: it is replaced below.
        do throws(EngineError) { try database.close() } catch {
            guard case .corruption = error else { throw error }
        }
        return nil
    }

    private static let leastMemoryBytes = 64 << 20

    /// Whether the logs hold everything after `flushed` without a gap.
    private func logsAreSound(after flushed: SequenceNumber) throws(EngineError) -> Bool {
        var last = flushed
        for number in try StoreRebuild.logNumbers(layout, storage) {
            let path = layout.log(number)
            let storage = storage
            let isSound = try readable { () throws(EngineError) in
                var hasGap = false
                try LogReader.forEach(storage: storage, path: path, logNumber: number, kind: .writeAhead) {
                    payload, offset throws(EngineError) in
                    var first: SequenceNumber?
                    let end = try LogRecordReader.forEach(payload, file: path, offset: offset) {
                        sequence, _, _, _, _ throws(EngineError) in first = first ?? sequence
                    }
                    hasGap = hasGap || first.map { $0 > last + 1 } ?? false
                    last = max(last, end)
                }
                return !hasGap
            }
            if isSound != true { return false }
        }
        return true
    }

    // MARK: - Tables in their places

    /// - Returns: the tables that are sound.
    private func replaceDamagedTables(
        _ versions: VersionSet, _ needsIdentity: Bool, _ dryRun: Bool, _ report: inout StoreRepairReport,
        _ progress: (UInt64, UInt64) -> Void
    ) throws(EngineError) -> Set<FileIdentity> {
        var sound: Set<FileIdentity> = []
        let version = versions.current
        let total = UInt64(version.levels.joined().count)
        var edit = VersionEdit()
        var damaged: [UInt64] = []
        var done: UInt64 = 0
        for (level, files) in version.levels.enumerated() {
            for file in files {
                progress(done, total)
                done += 1
                let salvage = TableSalvage(storage, layout.table(file.number), file)
                if try salvage.isSound() {
                    sound.insert(try storage.fileIdentity(layout.table(file.number)))
                    continue
                }
                let number = versions.newFileNumber()
                let written = try salvage.copy(
                    to: dryRun ? DiscardedFile(layout.table(number)) : storage.create(layout.table(number)), number: number,
                    &report)
                edit.deletedFiles.append((level, file.number))
                if let written { edit.addedFiles.append((level, written)) }
                damaged.append(file.number)
            }
        }
        progress(total, total)
        guard !dryRun, !report.isSound else { return sound }
        if !damaged.isEmpty {
            try storage.syncDirectory(layout.tableDirectory)
            try keep(damaged)
        }
        // Also without a table in it: the first edit begins a new manifest, and has CURRENT name that.
        try versions.logAndApply(edit)
        for number in damaged where storage.exists(layout.table(number)) { try storage.delete(layout.table(number)) }
        if needsIdentity { _ = try StoreIdentity.create(at: layout.identity, storage: storage) }
        return sound
    }

    // MARK: - Snapshots

    /// Says which files of snapshots are damaged: nothing can be written to a snapshot.
    private func readSnapshots(besides sound: Set<FileIdentity>, _ report: inout StoreRepairReport) {
        let (tables, problems) = SnapshotDirectory(store: layout.root, storage: storage).tables(besides: sound)
        var damage = problems
        for table in tables {
            do throws(EngineError) { try table.verify(storage) } catch { damage.append(error) }
        }
        report.leftAlone = damage.map {
            "a snapshot is damaged, and left as it is; what else is in it can still be read: \($0)"
        }
    }

    /// Gives damaged tables a second name in `STORE/damaged`, for who knows better.
    private func keep(_ numbers: [UInt64]) throws(EngineError) {
        let directory = layout.root + "/damaged"
        if !storage.exists(directory) { try storage.createDirectory(directory) }
        for number in numbers where storage.exists(layout.table(number)) {
            let name = directory + String(layout.table(number).dropFirst(layout.tableDirectory.count))
            if storage.exists(name) { try storage.delete(name) }
            try storage.link(layout.table(number), to: name)
        }
        try storage.syncDirectory(directory)
        try storage.syncDirectory(layout.root)
    }
}
