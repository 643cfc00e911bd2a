/// Turns what can be read of logs into tables of bounded size, which a merge can take with the others. Confined to one
/// thread.
struct LogTables {
    private let storage: any Storage
    private let source: StoreLayout
    /// Everything up to it is in tables; 0 where that is not known.
    private let flushed: SequenceNumber

    private static let tableBytes = 32 << 20

    init(_ storage: any Storage, _ source: StoreLayout, flushed: SequenceNumber) {
        self.storage = storage
        self.source = source
        self.flushed = flushed
    }

    private struct Entry {
        var key: InternalKey
        var value: [UInt8]
    }

    /// Reads the logs, which are given ascending.
    ///
    /// - Parameter make: makes the file of the next table, and its number.
    /// - Returns: what was written.
    func write(
        _ numbers: [UInt64], _ report: inout StoreRepairReport,
        make: () throws(EngineError) -> (file: any WritableFile, number: UInt64)
    ) throws(EngineError) -> [FileMetadata] {
        var tables: [FileMetadata] = []
        var entries: [Entry] = []
        var bytes = 0
        for number in numbers {
            let path = source.log(number)
            var losses: [StoreRepairReport.Loss] = []
            try LogReader.forEachReadable(storage: storage, path: path, logNumber: number) {
                payload, offset throws(EngineError) in
                _ = try LogRecordReader.forEach(payload, file: path, offset: offset) {
                    sequence, kind, _, key, value throws(EngineError) in
                    guard sequence > flushed else { return }
                    entries.append(
                        Entry(key: InternalKey(key, Trailer(sequence: sequence, kind: kind)), value: [UInt8](value)))
                    bytes += key.count + value.count
                }
                if bytes >= Self.tableBytes {
                    try spill(&entries, &tables, make)
                    bytes = 0
                }
            } lost: { offset, bytes in
                losses.append(.init(file: path, offset: offset, bytes: bytes, note: "what was written then"))
            }
            report.losses += losses
        }
        try spill(&entries, &tables, make)
        return tables
    }

    private func spill(
        _ entries: inout [Entry], _ tables: inout [FileMetadata],
        _ make: () throws(EngineError) -> (file: any WritableFile, number: UInt64)
    ) throws(EngineError) {
        guard !entries.isEmpty else { return }
        entries.sort { $0.key < $1.key }
        let (file, number) = try make()
        let builder = TableBuilder(file: file, number: number, options: TableOptions())
        var last: InternalKey?
        for entry in entries {
            // After a sync that failed, the next log repeats what the last one may not hold.
            if entry.key == last { continue }
            last = entry.key
            if entry.key.trailer.kind == .rangeDelete {
                try builder.addRangeTombstone(
                    RangeTombstone(begin: entry.key.userKey, end: entry.value, sequence: entry.key.trailer.sequence))
            } else {
                try entry.key.userKey.withEngineBytes { key throws(EngineError) in
                    try entry.value.withEngineBytes { value throws(EngineError) in
                        try builder.add(key, entry.key.trailer, value)
                    }
                }
            }
        }
        if let written = try builder.finish() { tables.append(written) }
        try file.close()
        entries.removeAll(keepingCapacity: true)
    }
}
