import Foundation
import Glibc
import Testing

@testable import O3LSM

/// Compactions that cannot be done: what has nothing to do with them goes on, and nobody waits for them for ever.
@Suite struct FailedCompactionTests {
    private static func key(_ number: Int) -> [UInt8] { Array("key\(number + 1_000_000)".utf8) }
    private static func value(_ number: Int) -> [UInt8] {
        (0..<200).map { UInt8(truncatingIfNeeded: (number &+ $0) &* 2_654_435_761 >> 7) }
    }

    /// A closed store whose data is in tables of the bottom, one of which has a damaged block.
    private func damagedStore() throws -> TemporaryStore {
        let store = TemporaryStore()
        let database = try store.open()
        for number in 0..<20_000 { try database.put(Self.key(number), Self.value(number)) }
        try database.compact()
        let tables = database.core.versions.current.levels.joined().sorted { $0.size > $1.size }
        let path = StoreLayout(root: store.path).table(try #require(tables.first?.number))
        try database.close()
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try file.seek(toOffset: try #require(tables.first).size / 3)
        try file.write(contentsOf: [UInt8](repeating: 0xa5, count: 64))
        try file.close()
        return store
    }

    @Test(.timeLimit(.minutes(2))) func writersGoOnBesideADamagedTable() throws {
        let store = try damagedStore()
        let database = try store.open()
        let stop = database.options.l0StopTrigger
        for round in 1...stop * 2 {
            for number in stride(from: round % 7, to: 20_000, by: 7) {
                try database.put(Self.key(number), Self.value(number + round))
            }
            // Neither do those who wait for a flush hear of it.
            try database.flush()
        }
        #expect(database.statistics().compaction.failedJobs > 0)
        #expect(database.statistics().writeError == nil)
        #expect(Level0Columns(database.core.versions.current.levels[0]).maximumDepth < stop)
        for residue in 0..<7 {
            let round = (1...stop * 2).last { $0 % 7 == residue } ?? 0
            for number in stride(from: residue, to: 20_000, by: 700) {
                #expect(try database.get(Self.key(number)) == Self.value(number + round))
            }
        }
        #expect(throws: EngineError.self) { try database.compact() }
        #expect(throws: EngineError.self) { try database.waitUntilSettled() }
        try database.close()
    }

    /// Asked for on a disk without room for it, with nothing at work that would make some.
    @Test(.timeLimit(.minutes(1))) func aRequestThatNeedsMoreRoomThanThereIsIsRefused() throws {
        let store = TemporaryStore()
        let storage = FaultyStorage()
        var options = TemporaryStore.smallOptions
        options.disableAutomaticCompaction = true
        let database = try Database.open(store.path, options: options, storage: storage)
        for round in 0...1 {
            for number in 0..<5000 { try database.put(Self.key(number), Self.value(number + round)) }
            try database.flush()
        }
        storage.leave(freeBytes: 1)
        let error = #expect(throws: EngineError.self) { try database.compact() }
        #expect(error?.isOutOfSpace ?? false)
        try database.waitUntilSettled()
        storage.heal()
        try database.compact()
        #expect(database.core.versions.current.levels[0].isEmpty)
        #expect(try database.get(Self.key(7)) == Self.value(8))
        try database.close()
    }

    /// Few inputs, whose descriptor fits the job table, and outputs whose bounds do not.
    @Test func aResultThatIsTooLongForTheJobTableIsNoFailure() throws {
        let store = TemporaryStore()
        var options = TemporaryStore.smallOptions
        options.dmSize = 256 << 20
        options.memtableSize = 64 << 20
        options.compactionThreads = 1
        options.compression = .none
        options.disableAutomaticCompaction = true
        let database = try store.open(options)
        let prefix = [UInt8](repeating: 0x61, count: 2000)
        let value = [UInt8](repeating: 7, count: 40_000)
        for _ in 0...1 {
            for number in 0..<900 { try database.put(prefix + Self.key(number), value) }
            try database.flush()
        }
        try database.compact()
        let tables = database.core.versions.current.levels
        #expect(tables[0].isEmpty)
        let bounds = tables.joined().reduce(0) { $0 + $1.smallest.userKey.count + $1.largest.userKey.count }
        #expect(bounds > RegionLayout.Job.maximumResultBytes)
        #expect(database.statistics().compaction.failedJobs > 0, "the result was too long")
        for number in stride(from: 0, to: 900, by: 13) { #expect(try database.get(prefix + Self.key(number)) == value) }
        #expect(try database.verify().isEmpty)
        try database.close()
    }

    @Test(.timeLimit(.minutes(1))) func nobodyWaitsForAClosedStore() throws {
        let store = TemporaryStore()
        let database = try store.open()
        try database.close()
        let control = database.core.control
        #expect(throws: EngineError.closed) { try control.waitUntilSettled() }
        #expect(throws: EngineError.closed) { try control.compact(nil, nil) }
        #expect(throws: EngineError.closed) { try control.waitForFlush(through: 1) }
    }
}
