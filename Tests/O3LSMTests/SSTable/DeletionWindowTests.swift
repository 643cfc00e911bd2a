import Testing

@testable import O3LSM

/// How close deletes lie in a table is counted right, written down, and read with suspicion.
@Suite struct DeletionWindowTests {
    /// The most deletes in a window, by a look at every one.
    private static func most(_ deletes: [Bool]) -> UInt64 {
        var sums = [0]
        for isDelete in deletes { sums.append((sums.last ?? 0) + (isDelete ? 1 : 0)) }
        return UInt64(sums.indices.map { sums[$0] - sums[max(0, $0 - DeletionWindow.length)] }.max() ?? 0)
    }

    @Test(arguments: 0..<20 as Range<UInt64>) func countsAsALookAtEveryWindow(seed: UInt64) {
        var random = SeededRandom(seed)
        var deletes: [Bool] = []
        for _ in 0..<random.below(12) {
            let share = [0, 5, 50, 100][random.below(4)]
            for _ in 0..<random.below(6000) { deletes.append(random.below(100) < share) }
        }
        var window = DeletionWindow()
        for isDelete in deletes { window.add(isDelete: isDelete) }
        #expect(window.most == Self.most(deletes), "seed \(seed)")
    }

    /// 10,000 entries, 3,000 deletes in a row among them.
    private static func table() throws -> (bytes: [UInt8], metadata: FileMetadata?) {
        let entries = (0..<10_000).map { number in
            let isDelete = (5000..<8000).contains(number)
            return TableEntry(
                key: Array("key\(100_000 + number)".utf8), trailer: Trailer(sequence: 7, kind: isDelete ? .delete : .put),
                value: isDelete ? [] : [1])
        }
        return try TableModel(entries: entries).build(TableOptions())
    }

    /// The table with other properties, and checksums that fit.
    private static func changing(_ bytes: [UInt8], _ change: (inout TableProperties) -> Void) throws -> [UInt8] {
        let table = try Table.open(MemoryReadableFile(bytes), number: 7, cache: nil)
        var (footer, properties) = (table.footer, table.properties)
        change(&properties)
        let file = MemoryWritableFile()
        try bytes.prefix(Int(footer.properties.offset)).withUnsafeBytes { try file.append($0) }
        var encoder = BlockEncoder(.none)
        footer.properties = try properties.encode().withUnsafeBytes {
            try encoder.write($0, compress: false, to: file, at: file.size)
        }
        try footer.encode().withUnsafeBytes { try file.append($0) }
        return file.bytes
    }

    @Test func aTableSaysHowCloseItsDeletesLie() throws {
        let (bytes, metadata) = try Self.table()
        #expect(metadata?.densestDeletions == 3000)
        let table = try Table.open(MemoryReadableFile(bytes), number: 7, cache: nil)
        #expect(table.properties.densestDeletions == 3000)
        try table.verify()
    }

    @Test func aTableOfAnOlderWriterSaysNothing() throws {
        let old = try Self.changing(try Self.table().bytes) { $0.densestDeletions = nil }
        let table = try Table.open(MemoryReadableFile(old), number: 7, cache: nil)
        #expect(table.properties.densestDeletions == nil)
        #expect(table.properties.metadata(number: 7, size: UInt64(old.count)).densestDeletions == 0)
        try table.verify()
    }

    @Test func wrongNumbersAreCorruption() throws {
        let bytes = try Self.table().bytes
        // More than there are, or than a window holds: refused at once.
        for impossible: UInt64 in [3001, UInt64(DeletionWindow.length) + 1, .max] {
            let forged = try Self.changing(bytes) { $0.densestDeletions = impossible }
            #expect(throws: EngineError.self, "\(impossible)") {
                try Table.open(MemoryReadableFile(forged), number: 7, cache: nil)
            }
        }
        let forged = try Self.changing(bytes) {
            $0.deletionCount = 9000
            $0.densestDeletions = UInt64(DeletionWindow.length) + 1
        }
        #expect(throws: EngineError.self) { try Table.open(MemoryReadableFile(forged), number: 7, cache: nil) }
        // Possible, and not so: found by those who read everything.
        for wrong: UInt64 in [0, 2999] {
            let forged = try Self.changing(bytes) { $0.densestDeletions = wrong }
            let table = try Table.open(MemoryReadableFile(forged), number: 7, cache: nil)
            #expect(throws: EngineError.self, "\(wrong)") { try table.verify() }
        }
    }
}
