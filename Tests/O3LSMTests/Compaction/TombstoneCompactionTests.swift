import Glibc
import Testing

@testable import O3LSM

/// Tombstones go without being asked: where they lie close, and where a snapshot had kept them.
@Suite struct TombstoneCompactionTests {
    private static func key(_ number: Int) -> [UInt8] { Array("key\(number + 1_000_000)".utf8) }

    private static func files(_ database: Database) -> [FileMetadata] {
        database.core.holder.current.version.levels.flatMap { $0 }
    }
    private static func tombstones(_ database: Database) -> UInt64 {
        files(database).reduce(0) { $0 + $1.deletionCount + $1.rangeTombstoneCount }
    }

    /// Waits until a condition holds; false when it did not come true in half a minute.
    private static func wait(_ condition: () -> Bool) -> Bool {
        let deadline = monotonicNanoseconds() + 30_000_000_000
        while monotonicNanoseconds() < deadline {
            if condition() { return true }
            usleep(20_000)
        }
        return condition()
    }

    /// A table of which 40 % are deletes is compacted by itself when they lie in one place, also if the store was closed in
    /// between; and is left alone when they lie scattered.
    @Test(arguments: [true, false]) func aClusterOfDeletesIsCompactedByItself(isClustered: Bool) throws {
        let store = TemporaryStore("cluster\(isClustered)")
        var options = TemporaryStore.smallOptions
        options.dmSize = 64 << 20
        options.memtableSize = 8 << 20
        options.shards = 1
        options.l0CompactionTrigger = 8
        options.disableAutomaticCompaction = true
        var database = try store.open(options)
        let count = 20_000
        for number in 0..<count { try database.put(Self.key(number), [1]) }
        try database.compact()
        for number in 0..<count {
            if isClustered ? (4000..<12_000).contains(number) : number % 5 < 2 {
                try database.delete(Self.key(number))
            } else {
                try database.put(Self.key(number), [2])
            }
        }
        try database.flush()
        let table = try #require(database.core.holder.current.version.levels[0].first)
        try #require(table.deletionCount == 8000 && table.entryCount == 20_000)
        #expect(isClustered == (table.densestDeletions >= CompactionPicker.clusteredDeletions))
        try database.close()

        options.disableAutomaticCompaction = false
        database = try store.open(options)
        try database.waitUntilSettled()
        #expect(Self.tombstones(database) == (isClustered ? 0 : 8000))
        #expect(Self.files(database).reduce(0) { $0 + $1.entryCount } == (isClustered ? 12_000 : 40_000))
        #expect(try database.get(Self.key(3999)) == [2])
        #expect(try database.get(Self.key(5000)) == nil)
        #expect(try database.verify().isEmpty)
        try database.close()
    }

    /// What a snapshot keeps in the last level stays as long as it lives, and goes with it; then the tree is at rest.
    @Test(arguments: [false, true]) func tombstonesGoWithTheSnapshotThatKeptThem(isNewerHeld: Bool) throws {
        let store = TemporaryStore("released\(isNewerHeld)")
        let database = try store.open()
        let count = 5000
        for number in 0..<count { try database.put(Self.key(number), [UInt8](repeating: 1, count: 40)) }
        try database.compact()
        var snapshot: Snapshot? = database.makeSnapshot()
        for number in 1000..<1400 { try database.delete(Self.key(number)) }
        try database.deleteRange(Self.key(2000), Self.key(2500))
        let newer = isNewerHeld ? database.makeSnapshot() : nil
        try database.compact()
        try database.waitUntilSettled()
        #expect(Self.tombstones(database) > 400)
        let before = Self.files(database).map(\.number)
        // Longer than the control plane sleeps.
        usleep(500_000)
        try database.waitUntilSettled()
        #expect(Self.files(database).map(\.number) == before, "written again in vain")
        #expect(try database.get(Self.key(1200), snapshot: snapshot) != nil)
        #expect(try database.get(Self.key(2200), snapshot: snapshot) != nil)

        snapshot = nil
        #expect(Self.wait { Self.tombstones(database) == 0 }, "\(Self.tombstones(database)) tombstones are left")
        #expect(Self.files(database).reduce(0) { $0 + $1.entryCount } == UInt64(count - 400 - 500))
        try database.waitUntilSettled()
        let after = Self.files(database).map(\.number)
        usleep(500_000)
        try database.waitUntilSettled()
        #expect(Self.files(database).map(\.number) == after, "written again in vain")
        for number in stride(from: 0, to: count, by: 50) {
            let isThere = !(1000..<1400).contains(number) && !(2000..<2500).contains(number)
            #expect(try (database.get(Self.key(number), snapshot: newer) != nil) == isThere)
        }
        try database.close()
    }

    /// Tables that nothing lies under, with the snapshots going one by one: what the picker asks for ends, changes nothing
    /// that a reader sees, and leaves no tombstone in the end.
    @Test func rewritesForReleasedSnapshotsEnd() throws {
        var rewrites = 0
        for seed in 0..<12 as Range<UInt64> {
            var random = SeededRandom(seed &+ 5000)
            var job = try RandomJob(&random, maximumSnapshots: 3)
            job.deeper = []
            let merge = try #require(job.compaction)
            var files = try Self.run(job, merge)
            while true {
                var steps = 0
                let readers = job.snapshots + [job.lastSequence]
                let before = try readers.map { try job.fixture.state(of: files, at: $0) }
                while let found = CompactionPicker(
                    levels: [[], [], [], [], [], [], files], options: job.options, oldestSnapshot: job.snapshots.first
                ).pick() {
                    #expect(found.reason == .tombstones && found.level == 6 && found.outputLevel == 6 && found.files.count == 1)
                    let outputs = try Self.run(job, found)
                    files = (files.filter { file in found.files.allSatisfy { $0 !== file } } + outputs)
                        .sorted { $0.smallest < $1.smallest }
                    steps += 1
                    try #require(steps < 1000, "no end, seed \(seed)")
                }
                rewrites += steps
                #expect(try readers.map { try job.fixture.state(of: files, at: $0) } == before, "seed \(seed)")
                if job.snapshots.isEmpty { break }
                job.snapshots.removeFirst()
            }
            #expect(files.allSatisfy { $0.deletionCount + $0.rangeTombstoneCount == 0 }, "seed \(seed)")
        }
        #expect(rewrites > 20)
    }

    private static func run(_ job: RandomJob, _ compaction: Compaction) throws -> [FileMetadata] {
        let descriptors = compaction.descriptors(
            options: job.options, snapshots: job.snapshots, reserveNumbers: job.fixture.reserve)
        let results = try descriptors.map { try job.fixture.executor.run($0) }
        try compaction.validate(results, of: descriptors)
        return results.flatMap(\.outputs)
    }
}
