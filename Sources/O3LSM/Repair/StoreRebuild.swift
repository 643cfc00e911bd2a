/// Makes a new store of all that can be read of one whose tree of tables is not known, or whose logs have gaps: every
/// table and log is merged by sequence numbers into one sorted run. Takes twice the space of the store for a while.
struct StoreRebuild {
    private let layout: StoreLayout
    private let storage: any Storage
    private let versions: VersionSet?
    private let identity: StoreIdentity?

    /// - Parameters:
    ///   - versions: the tree, where it is known.
    ///   - identity: of the store, where it is known.
    init(_ layout: StoreLayout, _ storage: any Storage, versions: VersionSet?, identity: StoreIdentity?) {
        self.layout = layout
        self.storage = storage
        self.versions = versions
        self.identity = identity
    }

    /// Where the new store is made.
    static func building(_ layout: StoreLayout) -> String { layout.root + StoreLayout.repairSuffix }
    /// Where the old one is kept.
    static func aside(_ layout: StoreLayout) -> String { layout.root + ".damaged" }

    /// Brings an interrupted exchange to its end, or removes what there is of a new store.
    static func finishEarlier(_ layout: StoreLayout, _ storage: any Storage) throws(EngineError) {
        let building = StoreLayout(root: building(layout))
        let aside = StoreLayout(root: aside(layout))
        if storage.exists(building.root) {
            try storage.checkOwn(building.root)
            if !storage.exists(layout.root), storage.exists(building.identity) {
                try storage.rename(building.root, to: layout.root)
                try storage.syncDirectory(parent(layout))
            } else if storage.exists(layout.root) {
                try building.checkIsLeftover(storage)
                // Held by the repair that is at work on it, if there is one.
                let held = try storage.lock(layout.lock)
                defer { withExtendedLifetime(held) {} }
                try storage.removeTree(building.root)
            }
        }
        guard storage.exists(aside.root) else { return }
        if storage.exists(aside.snapshotDirectory) { try storage.checkOwn(aside.root) }
        try adoptSnapshots(layout, storage)
    }

    static func logNumbers(_ layout: StoreLayout, _ storage: any Storage) throws(EngineError) -> [UInt64] {
        guard storage.exists(layout.logDirectory) else { return [] }
        return try storage.list(layout.logDirectory).compactMap { name in
            StoreLayout.number(in: name).flatMap { layout.log($0) == layout.logDirectory + "/" + name ? $0 : nil }
        }.sorted()
    }

    /// - Throws: `.io`; `.invalidArgument` when an earlier damaged store is still kept.
    func run(
        dryRun: Bool, _ report: inout StoreRepairReport, _ progress: (UInt64, UInt64) -> Void
    ) throws(EngineError) {
        let target = StoreLayout(root: Self.building(layout))
        if !dryRun {
            guard !storage.exists(Self.aside(layout)) else {
                throw .invalidArgument(
                    "\(Self.aside(layout)), which an earlier repair has kept, is still there: move it or remove it first")
            }
            for directory in [target.root, target.logDirectory, target.tableDirectory] {
                try storage.createNewDirectory(directory)
            }
        }
        var next: UInt64 = 1
        var inputs = try gather(target, dryRun, &next, &report, progress)
        let logs = try Self.logNumbers(layout, storage)
        inputs += try LogTables(storage, layout, flushed: versions?.flushedSequence ?? 0).write(logs, &report) {
            () throws(EngineError) in
            defer { next += 1 }
            let path = target.table(next)
            return (dryRun ? DiscardedFile(path) : try storage.create(path), next)
        }
        report.changes.append(
            "\(inputs.count) tables and \(logs.count) logs are merged; the store as it was is kept as \(Self.aside(layout))")
        guard !dryRun else { return }
        try merge(inputs, into: target, next)
        _ = try StoreIdentity.create(at: target.identity, storage: storage)
        try takePlace(of: target)
    }

    /// Brings every table, or what is left of it, into the new store's directory.
    private func gather(
        _ target: StoreLayout, _ dryRun: Bool, _ next: inout UInt64, _ report: inout StoreRepairReport,
        _ progress: (UInt64, UInt64) -> Void
    ) throws(EngineError) -> [FileMetadata] {
        let known = versions.map { Array($0.current.levels.joined()) }
        let paths: [(path: String, stated: FileMetadata?)]
        if let known {
            paths = known.map { (layout.table($0.number), $0) }
        } else {
            paths = try storage.list(layout.tableDirectory).sorted().compactMap { name in
                let path = layout.tableDirectory + "/" + name
                guard let number = StoreLayout.tableNumber(in: name), layout.table(number) == path else { return nil }
                return (path, nil)
            }
        }
        var inputs: [FileMetadata] = []
        for (index, (path, stated)) in paths.enumerated() {
            progress(UInt64(index), UInt64(paths.count))
            let salvage = TableSalvage(storage, path, stated)
            let copy = target.table(next)
            if let sound = try salvage.sound(number: next) {
                if !dryRun { try storage.link(path, to: copy) }
                inputs.append(sound)
            } else if let written = try salvage.copy(
                to: dryRun ? DiscardedFile(copy) : storage.create(copy), number: next, &report)
            {
                inputs.append(written)
            }
            next += 1
        }
        progress(UInt64(paths.count), UInt64(paths.count))
        return inputs
    }

    /// Runs that are merged at once: each has a table open.
    private static let maximumRuns = 64
    /// Tables that a merge keeps open beside, for their range tombstones.
    private static let maximumOpenTables = 256

    private func merge(_ inputs: [FileMetadata], into target: StoreLayout, _ next: UInt64) throws(EngineError) {
        let tables = TableCache(
            storage: storage, layout: target, capacity: min(Self.maximumOpenTables, DescriptorLimit.tables),
            blockCache: BlockCache(capacity: 8 << 20))
        var runs = Self.runs(of: inputs)
        var next = next
        while runs.count > Self.maximumRuns {
            let some = Array(runs.prefix(Self.maximumRuns))
            // What is deleted may be in the others.
            let merged = try mergeRuns(some, tables, into: target, &next, rest: KeyRange.hull(inputs))
            runs = runs.dropFirst(some.count) + (merged.isEmpty ? [] : [merged])
        }
        var levels = Version.empty.levels
        if !runs.isEmpty {
            levels[Version.levelCount - 1] = try mergeRuns(runs, tables, into: target, &next, rest: nil)
        }
        try storage.syncDirectory(target.tableDirectory)
        let last = inputs.reduce(versions?.flushedSequence ?? 0) { max($0, $1.largestSequence) }
        try VersionSet.write(Version(levels: levels), flushed: last, target, storage)
    }

    /// Tables as few runs, each of them ascending and disjoint.
    static func runs(of files: [FileMetadata]) -> [[FileMetadata]] {
        var runs: [(end: KeyRange, files: [FileMetadata])] = []
        for file in files.sorted(by: { $0.smallest < $1.smallest }) {
            let range = KeyRange(file)
            if let place = runs.firstIndex(where: { $0.end.isBefore(range) }) {
                runs[place].files.append(file)
                runs[place].end = range
            } else {
                runs.append((range, [file]))
            }
        }
        return runs.map(\.files)
    }

    /// Merges runs into one, whose tables are numbered from `next` on, and removes them.
    ///
    /// - Parameter rest: where keys of tables that are not among them may lie.
    private func mergeRuns(
        _ runs: [[FileMetadata]], _ tables: TableCache, into target: StoreLayout, _ next: inout UInt64, rest: KeyRange?
    ) throws(EngineError) -> [FileMetadata] {
        let options = Options()
        // L0 has a cursor for each table, deeper levels one for each run.
        let descriptor = CompactionDescriptor(
            inputs: runs.map { Compaction.Input(level: 1, files: $0) }, outputLevel: Version.levelCount - 1,
            snapshots: [], deeperRanges: rest.map { [$0] } ?? [], cutKeys: [], tableOptions: TableOptions(options),
            outputFileSize: UInt64(options.tableFileSize), firstOutputNumber: next,
            outputNumberCount: CompactionDescriptor.maximumOutputs)
        let outputs = try CompactionExecutor(storage: storage, layout: target, tables: tables).run(descriptor).outputs
        next += UInt64(outputs.count)
        for file in runs.joined() { try storage.delete(target.table(file.number)) }
        return outputs
    }

    private func takePlace(of target: StoreLayout) throws(EngineError) {
        let aside = StoreLayout(root: Self.aside(layout))
        // The new one has a name on storage before the old one loses its own.
        try storage.syncDirectory(Self.parent(layout))
        try storage.rename(layout.root, to: aside.root)
        try storage.rename(target.root, to: layout.root)
        try storage.syncDirectory(Self.parent(layout))
        try Self.adoptSnapshots(layout, storage)
        // Nobody will ask for the memory of an identity that is gone.
        if let identity { Region.unlink(storeID: identity.storeID) }
    }

    /// Those whose names the new store has given meanwhile stay with the damaged one.
    private static func adoptSnapshots(_ layout: StoreLayout, _ storage: any Storage) throws(EngineError) {
        _ = try SnapshotDirectory(store: layout.root, storage: storage).adopt(from: StoreLayout(root: aside(layout)))
    }

    private static func parent(_ layout: StoreLayout) -> String {
        guard let slash = layout.root.lastIndex(of: "/") else { return "." }
        return slash == layout.root.startIndex ? "/" : String(layout.root[..<slash])
    }
}
