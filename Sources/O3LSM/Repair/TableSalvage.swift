import Glibc

/// One table of a store that is repaired: whether it is sound, and what is left of it. Confined to one thread.
struct TableSalvage {
    private let storage: any Storage
    private let path: String
    /// What the manifest says of it; nil: nothing does.
    private let stated: FileMetadata?

    init(_ storage: any Storage, _ path: String, _ stated: FileMetadata?) {
        self.storage = storage
        self.path = path
        self.stated = stated
    }

    /// The table's own name within the store.
    private var name: String { String(path.split(separator: "/").suffix(2).joined(separator: "/")) }

    /// Reads all of it and checks every checksum.
    ///
    /// - Throws: what is not damage.
    func isSound() throws(EngineError) -> Bool { try sound(number: stated?.number ?? 1) != nil }

    /// What a manifest says of the table under another number; nil when it is not sound.
    func sound(number: UInt64) throws(EngineError) -> FileMetadata? {
        guard storage.exists(path) else { return nil }
        let table = try readable { () throws(EngineError) in
            let table = try Table.open(try storage.openForReading(path), number: number, cache: nil)
            table.file.forgetCached()
            try table.verify()
            return table
        }
        guard let table else { return nil }
        if let stated {
            guard table.file.size == stated.size, table.properties.entryCount == stated.entryCount,
                table.properties.rangeTombstoneCount == stated.rangeTombstoneCount
            else { return nil }
        }
        return table.metadata()
    }

    /// Writes what is left into a new file.
    ///
    /// - Returns: what the manifest is to say of it; nil when nothing is left, and the file is gone again.
    func copy(
        to file: any WritableFile, number: UInt64, _ report: inout StoreRepairReport
    ) throws(EngineError) -> FileMetadata? {
        let builder = TableBuilder(file: file, number: number, options: TableOptions())
        var losses: [StoreRepairReport.Loss] = []
        if storage.exists(path) {
            let source = try storage.openForReading(path)
            source.forgetCached()
            try TableRemains(source).copy(
                to: builder, bounds: stated.map { ($0.smallest.userKey, $0.largest.userKey) }
            ) { losses.append($0) }
        } else {
            losses.append(
                .init(
                    file: path, offset: 0, bytes: stated?.size ?? 0, after: stated?.smallest.userKey,
                    before: stated?.largest.userKey, note: "the file is missing"))
        }
        let entries = builder.entryCount
        let written = try builder.finish()
        try file.close()
        if written == nil, storage.exists(file.path) { try storage.delete(file.path) }
        let of = stated.map { " of \($0.entryCount)" } ?? ""
        report.changes.append("\(name) is replaced by what can be read of it: \(entries)\(of) entries")
        report.losses += losses
        return written
    }
}

/// Takes what is written to it and keeps nothing: for finding out what would be written.
final class DiscardedFile: WritableFile {
    let path: String
    private(set) var size: UInt64 = 0

    init(_ path: String) { self.path = path }

    func append(_ bytes: UnsafeRawBufferPointer) throws(EngineError) { size += UInt64(bytes.count) }
    func flush() throws(EngineError) {}
    func sync() throws(EngineError) {}
    func close() throws(EngineError) {}
}
