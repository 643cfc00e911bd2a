import Glibc
import Testing

@testable import O3LSM

/// Tables that range tombstones hide whole leave the tree unread, and nothing else does.
@Suite struct CoveredTablesTests {
    private static func key(_ number: Int) -> [UInt8] { Array("key\(String(number + 100_000))".utf8) }

    /// A random tree of ten tables, some with tombstones: a table is said to be covered only if dropping it
    /// changes no state that a reader may ask for.
    @Test(arguments: 0..<40 as Range<UInt64>)
    func nothingVisibleIsDropped(seed: UInt64) throws {
        var random = SeededRandom(seed)
        let fixture = try CompactionFixture()
        var files: [FileMetadata] = []
        var sequence: SequenceNumber = 1
        for _ in 0..<10 {
            let start = Int.random(in: 0..<40, using: &random)
            var writes: [CompactionFixture.Write] = []
            for offset in 0..<Int.random(in: 1...6, using: &random) {
                writes.append(.init(key: Self.key(start + offset), sequence: sequence, value: [UInt8(sequence & 255)]))
                sequence += 1
            }
            var tombstones: [RangeTombstone] = []
            for _ in 0..<Int.random(in: 0...2, using: &random) {
                let begin = Int.random(in: 0..<40, using: &random)
                tombstones.append(
                    RangeTombstone(
                        begin: Self.key(begin), end: Self.key(begin + Int.random(in: 1...20, using: &random)),
                        sequence: sequence))
                sequence += 1
            }
            if let file = try fixture.makeTable(writes, tombstones) { files.append(file) }
        }
        let snapshots = (0..<Int.random(in: 0...2, using: &random))
            .map { _ in SequenceNumber.random(in: 1..<sequence, using: &random) }.sorted()
        let version = Version(levels: [files.reversed()] + Array(repeating: [], count: Version.levelCount - 1))
        let covered = try CoveredTables(version: version, snapshots: snapshots, tables: fixture.tables)
        let dropped = files.filter(covered.cover)
        let kept = files.filter { !covered.cover($0) }
        for reader in snapshots + [sequence] {
            #expect(
                try fixture.state(of: files, at: reader) == fixture.state(of: kept, at: reader),
                "dropping \(dropped.map(\.number)) changes what \(reader) sees, seed \(seed)")
        }
    }

    /// As above, with tables that are written again without what the others' tombstones hide.
    @Test(arguments: 0..<16 as Range<UInt64>)
    func aTrimmedTableLooksTheSameToEveryReader(seed: UInt64) throws {
        var random = SeededRandom(seed)
        let fixture = try CompactionFixture()
        let old = try #require(
            try fixture.makeTable(
                (0..<200).map { .init(key: Self.key($0), sequence: 1 + UInt64($0), value: [UInt8](repeating: 7, count: 300)) },
                seed % 2 == 0 ? [] : [RangeTombstone(begin: Self.key(5), end: Self.key(9), sequence: 201)]))
        var sequence: SequenceNumber = 202
        var newer: [FileMetadata] = []
        for _ in 0..<4 {
            var tombstones: [RangeTombstone] = []
            for _ in 0..<3 {
                let begin = Int.random(in: 0..<200, using: &random)
                tombstones.append(
                    RangeTombstone(
                        begin: Self.key(begin), end: Self.key(begin + Int.random(in: 1...30, using: &random)),
                        sequence: sequence))
                sequence += 1
            }
            let write = CompactionFixture.Write(
                key: Self.key(Int.random(in: 0..<200, using: &random)), sequence: sequence, value: [1])
            sequence += 1
            newer.append(try #require(try fixture.makeTable([write], tombstones)))
        }
        let snapshots = (0..<Int.random(in: 0...2, using: &random))
            .map { _ in SequenceNumber.random(in: 1..<sequence, using: &random) }.sorted()
        var levels = [newer.reversed()] + Array(repeating: [FileMetadata](), count: Version.levelCount - 1)
        levels[6] = [old]
        var options = Options()
        options.blockSize = 1024
        let covered = try CoveredTables(version: Version(levels: levels), snapshots: snapshots, tables: fixture.tables)
        let hidden = try covered.hiddenBytes(of: old, fixture.tables.table(old))
        #expect(hidden > 0 || !snapshots.isEmpty)

        var trim = try #require(
            CompactionPicker(levels: levels, options: options).assemble(.tombstones, [old], from: 6, to: 6))
        trim.tombstoneSources = newer
        let descriptors = trim.descriptors(options: options, snapshots: snapshots, reserveNumbers: fixture.reserve)
        let results = try descriptors.map { descriptor in
            let answer = try fixture.executor.run(encoded: descriptor.encode())
            return try answer.withUnsafeBytes { try CompactionResult.decode($0, source: "test") }
        }
        try trim.validate(results, of: descriptors)
        let outputs = results.flatMap(\.outputs)
        for reader in snapshots + [sequence] {
            #expect(
                try fixture.state(of: newer + [old], at: reader) == fixture.state(of: newer + outputs, at: reader),
                "seed \(seed), snapshots \(snapshots), at \(reader)")
        }
        if hidden > 0 { #expect(outputs.reduce(0) { $0 + $1.entryCount } < old.entryCount) }
        for file in outputs { #expect(try covered.hiddenBytes(of: file, fixture.tables.table(file)) == 0, "seed \(seed)") }
    }

    @Test func aTombstoneInPiecesCoversATable() throws {
        let fixture = try CompactionFixture()
        let old = try #require(
            try fixture.makeTable((0..<50).map { .init(key: Self.key($0), sequence: 1 + UInt64($0), value: [1]) }, []))
        let left = try #require(
            try fixture.makeTable([], [RangeTombstone(begin: Self.key(0), end: Self.key(20), sequence: 60)]))
        let right = try #require(
            try fixture.makeTable([], [RangeTombstone(begin: Self.key(20), end: Self.key(50), sequence: 61)]))
        func covers(_ files: [FileMetadata], _ snapshots: [SequenceNumber] = []) throws -> Bool {
            let version = Version(levels: [files] + Array(repeating: [], count: Version.levelCount - 1))
            return try CoveredTables(version: version, snapshots: snapshots, tables: fixture.tables).cover(old)
        }
        #expect(try covers([right, left, old]))
        #expect(try !covers([left, old]))
        #expect(try !covers([right, old]))
        #expect(try !covers([right, left, old], [30]), "a snapshot sees half of the table")
        #expect(try covers([right, left, old], [61]), "the snapshot sees the tombstones, too")
    }

    @Test func aDeletedRangeGivesItsTablesBackUnread() throws {
        let store = TemporaryStore()
        let database = try store.open()
        let value = [UInt8](repeating: 7, count: 4000)
        for number in 0..<4000 { try database.put(Self.key(number), value.shuffled()) }
        try database.flush()
        let before = database.statistics()
        try database.deleteRange(Self.key(10), Self.key(3990))
        try database.flush()
        let deadline = monotonicNanoseconds() + 10_000_000_000
        while database.statistics().compaction.droppedTables == 0, monotonicNanoseconds() < deadline { usleep(10_000) }
        let after = database.statistics()
        #expect(after.compaction.droppedTables > 0)
        #expect(after.levels.reduce(0) { $0 + $1.bytes } < before.levels.reduce(0) { $0 + $1.bytes } / 2)
        for number in 0..<4000 {
            #expect(try (database.get(Self.key(number)) != nil) == (number < 10 || number >= 3990))
        }
        try database.close()
    }
}
