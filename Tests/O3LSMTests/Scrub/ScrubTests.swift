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
        let file = open(damaged, O_RDWR)
        var byte: UInt8 = 0
        try #require(pread(file, &byte, 1, 5000) == 1)
        byte ^= 4
        try #require(pwrite(file, &byte, 1, 5000) == 1)
        close(file)
        let told = Mutex<[EngineError]>([])
        try database.startScrub(bytesPerSecond: nil) { error in told.withLock { $0.append(error) } }
        let report = try Self.wait(database)
        #expect(report.state == .done && report.tables == tables.count)
        #expect(report.problems.count == 1 && report.problems[0].contains(damaged))
        #expect(told.withLock { $0.map(\.description) } == report.problems)
        try database.close()
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
