/// `o3fs check` of the engine's files: everything that is read when a store is used, and what its snapshots hold.
extension EngineCore {
    func verify(progress: (_ done: UInt64, _ total: UInt64) -> Void) -> [EngineError] {
        let version = holder.current.version
        var problems: [EngineError] = []
        do throws(EngineError) { try version.checkInvariants() } catch { problems.append(error) }
        let files = version.levels.flatMap { $0 }
        let known = SnapshotDirectory.identities(files, layout, storage)
        let kept = SnapshotDirectory(store: layout.root, storage: storage).tables(besides: known)
        let total = UInt64(files.count + kept.tables.count)
        var done: UInt64 = 0
        func check(_ body: () throws(EngineError) -> Void) {
            progress(done, total)
            done += 1
            do throws(EngineError) { try body() } catch { problems.append(error) }
        }
        for file in files { check { () throws(EngineError) in try verify(file) } }
        problems += kept.problems
        for table in kept.tables { check { () throws(EngineError) in try table.verify(storage) } }
        progress(total, total)
        return problems + damagedLines() + leakedTables(version)
    }

    private func verify(_ file: FileMetadata) throws(EngineError) {
        let table = try tables.table(file)
        try table.verify()
        guard table.properties.entryCount == file.entryCount,
            table.properties.rangeTombstoneCount == file.rangeTombstoneCount
        else {
            throw .corruption(
                file: layout.table(file.number), offset: 0,
                expected: "\(file.entryCount) entries, as the manifest says", found: "\(table.properties.entryCount)")
        }
    }

    /// The files of one line that a store need not have, and that nobody reads when it is opened.
    private func damagedLines() -> [EngineError] {
        var problems: [EngineError] = []
        do throws(EngineError) { _ = try OriginFile.load(layout, storage) } catch { problems.append(error) }
        if storage.exists(layout.snapshot) {
            do throws(EngineError) { _ = try SnapshotFile.load(layout, storage) } catch { problems.append(error) }
        }
        return problems
    }

    /// Files among the tables that nothing names. Only a store that was closed in order, which removes its logs, and is
    /// not open now must have none: after a crash they wait for the next owner.
    private func leakedTables(_ version: Version) -> [EngineError] {
        guard options.readOnly, recovery.source == "log", recovery.replayedEntries == 0,
            let logs = try? StoreRebuild.logNumbers(layout, storage), logs.isEmpty,
            let names = try? storage.list(layout.tableDirectory)
        else { return [] }
        let live = Set(version.levels.joined().map { layout.table($0.number) })
        return names.map { layout.tableDirectory + "/" + $0 }.filter { !live.contains($0) }.sorted().map {
            .corruption(
                file: $0, offset: 0, expected: "a table that the manifest names", found: "one that nothing names")
        }
    }
}
