import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// The owner dies, its memory stays, and the next owner's log goes on from where the last one's was synced.
@Suite struct LogAfterDeathTests {
    private let memory = MemoryStorage()
    private let storage: FaultyStorage
    private let history = NumberedHistory(seed: 31)

    init() { storage = FaultyStorage(memory) }

    /// Nothing is synced or flushed but what a test asks for.
    private func open(_ storage: any Storage) throws -> Database {
        var options = NumberedHistory.options
        options.commitIntervalMilliseconds = 3_600_000
        options.memtableSize = 8 << 20
        options.dmSize = 48 << 20
        return try Database.open("/store", options: options, storage: storage)
    }

    private func write(_ batches: ClosedRange<Int>, to database: Database) throws {
        for number in batches { try database.write(history.batch(number)) }
    }

    private func logged(_ database: Database) -> UInt64 { database.statistics().wal.bytesWritten }

    /// What power loss would leave now.
    private func survivors() -> [MemoryStorage] {
        [MemoryStorage.Loss.everything, .nothing, .torn(1), .torn(2)].map { memory.afterPowerLoss($0) }
    }

    /// No owner may live any more: power loss takes the region, too.
    private func expect(_ batches: Int, in survivors: [MemoryStorage]) throws {
        for survivor in survivors {
            history.forgetRegion(survivor)
            defer { history.forgetRegion(survivor) }
            let database = try open(survivor)
            defer { abandon(database) }
            #expect(try NumberedHistory.contents(database) == history.model(after: batches))
        }
    }

    @Test func whatWasSyncedIsNotLoggedAgain() throws {
        defer { history.forgetRegion(memory) }
        var database = try open(storage)
        try write(1...40, to: database)
        try database.sync()
        let all = logged(database)
        #expect(all > 400_000)
        var left: [(batches: Int, survivors: [MemoryStorage])] = []
        for number in 41...44 {
            abandon(database)
            database = try open(storage)
            #expect(database.statistics().recovery.source == "region")
            try write(number...number, to: database)
            try database.sync()
            #expect(logged(database) > 0 && logged(database) < all / 8)
            left.append((number, survivors()))
        }
        // The logs of owners that died go when a flush has covered them, and not before.
        #expect(try memory.list("/store/wal").filter { $0.hasSuffix(".log") }.count >= 5)
        try database.flush()
        #expect(try memory.list("/store/wal").filter { $0.hasSuffix(".log") }.count <= 1)
        left.append((44, survivors()))
        abandon(database)
        for (batches, survivors) in left { try expect(batches, in: survivors) }
    }

    /// Batches 21 to 30 are in the file that other owners read, and not on the medium.
    @Test func whatASyncFailedToSaveIsLoggedAgain() throws {
        defer { history.forgetRegion(memory) }
        let first = try open(storage)
        try write(1...20, to: first)
        try first.sync()
        let before = logged(first)
        try write(21...30, to: first)
        storage.fail(.sync, path: ".log", code: EIO)
        #expect(throws: EngineError.self) { try first.sync() }
        abandon(first)
        storage.heal()
        let second = try open(storage)
        try second.sync()
        #expect(logged(second) > 0 && logged(second) < before)
        abandon(second)
        try expect(30, in: survivors())
    }

    /// A note that cannot be true, and one that its complement does not confirm, count as none.
    @Test(arguments: ["number", "complement", "both", "too far", "no logs"]) func aDamagedNoteIsNotBelieved(damage: String) throws {
        defer { history.forgetRegion(memory) }
        let first = try open(storage)
        try write(1...20, to: first)
        try first.sync()
        let all = logged(first)
        let region = first.core.region
        #expect(region.durableSequence == region.visibleSequence)
        let word = sharedWord64(region.base + RegionLayout.Header.durableSequence)
        let complement = sharedWord64(region.base + RegionLayout.Header.durableComplement)
        switch damage {
        case "number": word.pointee.bitwiseXor(1 << 3, ordering: .relaxed)
        case "complement": complement.pointee.bitwiseXor(1 << 3, ordering: .relaxed)
        case "both":
            word.pointee.store(0, ordering: .relaxed)
            complement.pointee.store(0, ordering: .relaxed)
        case "too far": region.noteDurable(region.visibleSequence + 1)
        default: break
        }
        abandon(first)
        if damage == "no logs" {
            for name in try memory.list("/store/wal") { try memory.delete("/store/wal/" + name) }
            try memory.syncDirectory("/store/wal")
        }
        let second = try open(storage)
        try second.sync()
        #expect(logged(second) >= all)
        abandon(second)
        try expect(20, in: survivors())
    }
}
