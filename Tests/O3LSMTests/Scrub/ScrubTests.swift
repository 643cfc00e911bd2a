import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// Scrubs of open stores.
@Suite struct ScrubTests {
    private static func filled(_ store: TemporaryStore) throws -> Database {
        let database = try store.open()
        var random = SeededRandom(3)
        for number in 0..<3000 { try database.put(Array("key\(number)".utf8), random.bytes(1000)) }
        try database.compact()
        return database
    }

    private static func wait(_ database: Database) throws -> ScrubReport {
        for _ in 0..<4000 {
            if let report = database.scrubReport, report.state != .running { return report }
            usleep(5000)
        }
        return try #require(database.scrubReport)
    }

    @Test func aSoundStoreHasNoDamage() throws {
        let store = TemporaryStore()
        let database = try Self.filled(store)
        #expect(database.scrubReport == nil)
        let id = try database.startScrub(bytesPerSecond: nil)
        let report = try Self.wait(database)
        let levels = database.statistics().levels
        #expect(report.id == id && report.state == .done && report.problems.isEmpty)
        #expect(report.tables == levels.reduce(0) { $0 + $1.files } && report.tables == report.tablesTotal)
        #expect(report.bytes > report.bytesTotal * 9 / 10 && report.bytes <= report.bytesTotal)
        #expect(try database.startScrub(bytesPerSecond: nil) == id + 1)
        try database.close()
    }

    /// A flipped byte is found, told, and does not keep the rest from being looked at.
    @Test func damageIsFoundWhileTheStoreIsOpen() throws {
        let store = TemporaryStore()
        let database = try Self.filled(store)
        let tables = database.core.holder.current.version.levels.flatMap { $0 }
        try #require(tables.count > 2)
        let damaged = StoreLayout(root: store.path).table(tables[1].number)
        try Self.flip(damaged, at: 5000)
        let told = Mutex<[EngineError]>([])
        try database.startScrub(bytesPerSecond: nil) { error in told.withLock { $0.append(error) } }
        let report = try Self.wait(database)
        #expect(report.state == .done && report.tables == tables.count)
        #expect(report.problems.count == 1 && report.problems[0].contains(damaged))
        #expect(told.withLock { $0.map(\.description) } == report.problems)
        try database.close()
    }

    /// Tables that only snapshots hold are read, each once, however many snapshots have it; damage in them is named by
    /// scrub, check and repair, and a snapshot that is deleted is none.
    @Test func tablesOfSnapshotsAreRead() throws {
        let store = TemporaryStore()
        let database = try Self.filled(store)
        let first = try database.createSnapshot("first")
        let second = try database.createSnapshot("second")
        let own = database.statistics().levels.reduce(0) { $0 + $1.files }
        try database.startScrub(bytesPerSecond: nil)
        #expect(try Self.wait(database).tables == own)
        // No table of the snapshots is the store's any more.
        for number in 0..<3000 { try database.put(Array("key\(number)".utf8), [UInt8(number % 256)]) }
        try database.compact()
        try database.startScrub(bytesPerSecond: nil)
        var report = try Self.wait(database)
        let fresh = database.statistics().levels.reduce(0) { $0 + $1.files }
        #expect(report.problems.isEmpty && report.tables == fresh + first.tables && report.tables == report.tablesTotal)
        #expect(try database.verify().isEmpty)

        let layout = StoreLayout(root: first.path)
        let table = try #require(try POSIXStorage().list(layout.tableDirectory).sorted().first)
        try Self.flip(layout.tableDirectory + "/" + table, at: 5000)
        try Self.flip(StoreLayout(root: second.path).snapshot, at: 20)
        try database.startScrub(bytesPerSecond: nil)
        report = try Self.wait(database)
        #expect(report.problems.count == 2)
        #expect(report.problems.contains { $0.contains("/sst/" + table) })
        #expect(report.problems.contains { $0.contains("second/SNAPSHOT") })
        let found = try database.verify().map(\.description)
        #expect(Set(found) == Set(report.problems))
        try database.close()
        let repaired = try StoreRepair(store.path).run(dryRun: true)
        #expect(repaired.isSound && repaired.leftAlone.count == 2)
        #expect(repaired.leftAlone.contains { $0.contains("/sst/" + table) })

        // What is wrong with a snapshot goes with it.
        for name in ["first", "second"] {
            try? SnapshotDirectory(store: store.path).delete(name)
            if POSIXStorage().exists(store.path + "/snapshots/" + name) {
                try POSIXStorage().removeTree(store.path + "/snapshots/" + name)
            }
        }
        let again = try store.open()
        #expect(try again.verify().isEmpty)
        try again.close()
    }

    private static func flip(_ path: String, at offset: Int) throws {
        let file = open(path, O_RDWR)
        defer { close(file) }
        var byte: UInt8 = 0
        try #require(pread(file, &byte, 1, offset) == 1)
        byte ^= 4
        try #require(pwrite(file, &byte, 1, offset) == 1)
    }

    /// It keeps to its rate, one runs at a time, and the end of the store does not wait for it.
    @Test func itIsSlowAsToldAndEndsAtOnce() throws {
        let store = TemporaryStore()
        let database = try Self.filled(store)
        let id = try database.startScrub(bytesPerSecond: 100_000)
        #expect(try database.startScrub(bytesPerSecond: nil) == id)
        usleep(400_000)
        let report = try #require(database.scrubReport)
        #expect(report.state == .running && report.bytes < 1_000_000)
        let start = monotonicNanoseconds()
        try database.close()
        #expect(Double(monotonicNanoseconds() - start) / 1e9 < 10)
        #expect(database.scrubReport?.state == .stopped)
        #expect(throws: EngineError.closed) { try database.startScrub(bytesPerSecond: nil) }
    }

    @Test func itRepeatsUntilTheEnd() throws {
        let store = TemporaryStore()
        let database = try Self.filled(store)
        try database.startScrub(bytesPerSecond: 1 << 30, repeats: true)
        for _ in 0..<4000 where database.scrubReport == nil { usleep(5000) }
        #expect(try Self.wait(database).state == .done)
        try database.close()
    }
}
