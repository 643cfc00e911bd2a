import Foundation
import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// What attempts at jobs write: never taken for a table, never in the way of one, and gone in the end.
@Suite struct AttemptFileTests {
    private static func tables(_ store: TemporaryStore) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: store.path + "/sst").sorted()
    }

    /// A new owner removes what it has found beside its work.
    private static func expectOnlyTables(_ store: TemporaryStore) throws {
        try waitUntil { try tables(store).allSatisfy { $0.hasSuffix(".sst") } }
        #expect(try tables(store).allSatisfy { $0.hasSuffix(".sst") })
    }

    @Test func namesOfAttempts() {
        let layout = StoreLayout(root: "/s")
        #expect(layout.table(12, attempt: 0x1f0) == "/s/sst/000012-1f0.part")
        #expect(layout.table(12, attempt: nil) == layout.table(12))
        #expect(StoreLayout.tableNumber(in: "000012-1f0.part") == 12)
        #expect(StoreLayout.tableNumber(in: "000012.sst") == 12)
        for other in ["000012.part", "000012-.part", "000012-xyz.part", "x-1.part", "000012.log", "-1.part", ".sst"] {
            #expect(StoreLayout.tableNumber(in: other) == nil, "\(other)")
        }
        #expect(StoreLayout.number(in: "000012-1f0.part") == nil)
    }

    /// A worker that was held up comes back after its owner has died, and the next one has given the same number to
    /// a table of its own.
    @Test func aLateWorkerNeitherReplacesNorRemovesATable() throws {
        let store = TemporaryStore()
        let database = try store.open()
        let region = database.core.region
        let jobs = JobTable(region)
        let layout = StoreLayout(root: store.path)
        for number in 0..<200 { try database.put(Array("key\(number)".utf8), [1, 2, 3]) }
        try database.flush()
        let live = try #require(database.core.versions.current.levels.joined().first?.number)
        let before = try Data(contentsOf: URL(fileURLWithPath: layout.table(live)))

        let source = try PrivateMemtable(count: 100, valueBytes: 10)
        var descriptor = source.descriptor
        descriptor.fileNumber = live
        let memtables = WorkerMemtables(source.region)
        let executor = FlushExecutor(storage: POSIXStorage(), layout: layout) {
            source throws(EngineError) in try memtables.memtable(source)
        }
        let ticket = try #require(jobs.post(.compaction, descriptor: [], isLocal: false))
        _ = try executor.run(descriptor, attempt: ticket.generation)
        #expect(try Data(contentsOf: URL(fileURLWithPath: layout.table(live))) == before)
        #expect(try Self.tables(store).contains { $0.hasSuffix(".part") })
        jobs.release(ticket)
        // The owner dies, the file stays: the next one removes it, beside its work.
        abandon(database)
        let next = try store.open()
        try Self.expectOnlyTables(store)
        for number in 0..<200 { #expect(try next.get(Array("key\(number)".utf8)) == [1, 2, 3]) }
        // One that is made after the sweep: check names it once the store is closed, the next opening removes it.
        _ = try executor.run(descriptor, attempt: 77)
        #expect(try next.verify() == [])
        abandon(next)
        let third = try store.open()
        try third.close()
        _ = try executor.run(descriptor, attempt: 78)
        var readOnly = TemporaryStore.smallOptions
        readOnly.readOnly = true
        let closed = try store.open(readOnly)
        #expect(try closed.verify().map(\.description).joined().contains("-4e.part"))
        try closed.close()
        let fourth = try store.open()
        try Self.expectOnlyTables(store)
        try fourth.close()
    }

    /// They may be what fills the disk: a program that writes as soon as the store is open must not meet them. Beside its
    /// work the owner removes one a millisecond.
    @Test func aFullDiskIsRidOfLeftoversBeforeTheStoreIsOpen() throws {
        let store = TemporaryStore()
        try store.open().close()
        let layout = StoreLayout(root: store.path)
        for number in UInt64(1000)..<3000 { try Data([1]).write(to: URL(fileURLWithPath: layout.table(number, attempt: 1))) }
        let storage = FaultyStorage()
        storage.leave(freeBytes: 0)
        let database = try Database.open(store.path, options: TemporaryStore.smallOptions, storage: storage)
        #expect(try Self.tables(store).allSatisfy { $0.hasSuffix(".sst") })
        storage.heal()
        try database.close()
    }

    @Test func attemptsOfTwoRegionsHaveNotOneName() throws {
        let store = TemporaryStore()
        var generations = Set<UInt64>()
        for _ in 0..<3 {
            let database = try store.open()
            let ticket = try #require(JobTable(database.core.region).post(.compaction, descriptor: []))
            JobTable(database.core.region).release(ticket)
            #expect(generations.insert(ticket.generation).inserted)
            try database.close()
        }
        #expect(generations.max().map { $0 > 1000 } == true)
    }

    /// The tables of a memtable get their names together; when that fails they are all made again.
    @Test(arguments: [FaultyStorage.Operation.rename, .syncDirectory]) func aNameThatCannotBeGivenIsTriedAgain(
        _ operation: FaultyStorage.Operation
    ) throws {
        let store = TemporaryStore("rename\(operation)")
        let storage = FaultyStorage(POSIXStorage())
        let database = try Database.open(store.path, options: TemporaryStore.smallOptions, storage: storage)
        for number in 0..<200 { try database.put(Array("key\(number)".utf8), [1, 2, 3]) }
        storage.fail(operation, path: "/sst", code: EIO)
        #expect(throws: EngineError.self) { try database.flush() }
        try database.flush()
        try database.close()
        let again = try store.open()
        for number in 0..<200 { #expect(try again.get(Array("key\(number)".utf8)) == [1, 2, 3]) }
        #expect(try again.verify() == [])
        try again.close()
    }

    /// An executor that was held up in the middle of its answer writes into a slot that is another job's by now: that
    /// job is done again.
    @Test func aJobWhoseResultSlotWasOverwrittenIsDoneAgain() throws {
        let store = TemporaryStore()
        let database = try store.open()
        let region = database.core.region
        let isOver = Atomic<Bool>(false)
        let spoiled = Atomic<Int>(0)
        // Spoils the results of the first few jobs just as they are done.
        let late = try BackgroundThread("test-late") {
            while !isOver.load(ordering: .relaxed), spoiled.load(ordering: .relaxed) < 3 {
                for slot in 0..<RegionLayout.Job.count {
                    let row = region.base + RegionLayout.Job.offset + slot * RegionLayout.Job.bytes
                    let word = JobWord(bits: sharedWord64(row + RegionLayout.Job.word).pointee.load(ordering: .acquiring))
                    guard word.state == .claimed || word.state == .done else { continue }
                    let checksum = row + RegionLayout.Job.resultChecksum
                    checksum.storeBytes(of: 0x1234_5678, as: UInt32.self)
                    if word.state == .done { spoiled.wrappingAdd(1, ordering: .relaxed) }
                }
            }
        }
        for number in 0..<8000 { try database.put(Array("key\(number)".utf8), [UInt8](repeating: 7, count: 500)) }
        // A flush that is refused is an error for who waits for it, and is tried again.
        while (try? database.flush()) == nil {}
        isOver.store(true, ordering: .relaxed)
        late.join()
        try database.flush()
        for number in 0..<8000 { #expect(try database.get(Array("key\(number)".utf8)) == [UInt8](repeating: 7, count: 500)) }
        #expect(try database.verify() == [])
        try database.close()
        #expect(try Self.tables(store).allSatisfy { $0.hasSuffix(".sst") })
    }
}
