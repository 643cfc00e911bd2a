/// A table that is to be read whole and compared with what a manifest says of it.
struct VerifiedTable: Sendable {
    var path: String
    var file: FileMetadata
    /// The directory of the snapshot whose it is; nil: the store's own.
    var snapshot: String?

    /// Reads it from storage, past every cache, and checks every checksum.
    ///
    /// - Parameter pace: told the bytes of each block before it is read; what it throws ends the verification.
    /// - Throws: what is wrong with the table, which names it.
    func verify(
        _ storage: any Storage, pace: (_ bytes: Int) throws(EngineError) -> Void = { _ in }
    ) throws(EngineError) {
        let table = try Table.open(try storage.openForReading(path), number: file.number, cache: nil)
        // What the system remembers of the file says nothing about storage.
        table.file.forgetCached()
        guard table.file.size == file.size, table.properties.entryCount == file.entryCount,
            table.properties.rangeTombstoneCount == file.rangeTombstoneCount
        else {
            throw .corruption(
                file: path, offset: 0, expected: "\(file.size) bytes, \(file.entryCount) entries",
                found: "\(table.file.size) bytes, \(table.properties.entryCount) entries")
        }
        try table.verify(pace: pace)
    }
}

/// What snapshots hold, for those who look for damage.
extension SnapshotDirectory {
    /// Tables of snapshots, each file once, however many snapshots share it.
    ///
    /// - Parameter known: files that are looked at anyway.
    /// - Returns: the tables, and what is wrong with the other files of the snapshots; each names the file.
    func tables(besides known: Set<FileIdentity>) -> (tables: [VerifiedTable], problems: [EngineError]) {
        var seen = known
        var tables: [VerifiedTable] = []
        var problems: [EngineError] = []
        var snapshots: [String] = []
        do throws(EngineError) { snapshots = try names() } catch { problems.append(error) }
        for snapshot in snapshots {
            let layout = StoreLayout(root: path(of: snapshot))
            do throws(EngineError) {
                _ = try StoreIdentity.load(from: layout.identity, storage: storage)
                _ = try SnapshotFile.load(layout, storage)
                let version = try VersionSet.recover(layout: layout, storage: storage) { _ in }.current
                try version.checkInvariants()
                for file in version.levels.joined() {
                    let path = layout.table(file.number)
                    let isNew = try seen.insert(storage.fileIdentity(path)).inserted
                    if isNew { tables.append(VerifiedTable(path: path, file: file, snapshot: layout.root)) }
                }
            } catch {
                // It may have been deleted meanwhile.
                if storage.exists(layout.root) { problems.append(error) }
            }
        }
        return (tables, problems)
    }

    /// Those that `known` stands for: the store's own tables.
    static func identities(
        _ files: some Sequence<FileMetadata>, _ layout: StoreLayout, _ storage: any Storage
    ) -> Set<FileIdentity> {
        // One that is not there is found missing by whoever reads it.
        Set(files.compactMap { try? storage.fileIdentity(layout.table($0.number)) })
    }
}
