import Glibc
import Testing

@testable import O3LSM

/// Somebody deletes the object of a store's DM region, or puts another in its place, while the store is open. The daemon
/// goes on and says so; and what returns from then on survives the death of all processes, for the log has it.
@Suite struct LostMemoryTests {
    private static func key(_ number: Int) -> [UInt8] { Array("key\(number)".utf8) }

    /// Whether the statistics speak of it within a while.
    private static func isReported(_ database: Database) -> Bool {
        waitUntil { database.statistics().dm.isNameLost }
    }

    enum Deed: String, CaseIterable { case deleted, replaced, replacedByAnOutsider }

    @Test(arguments: Deed.allCases) func nothingIsLostAndItIsSaid(deed: Deed) throws {
        let store = TemporaryStore("lostmemory\(deed)")
        var options = TemporaryStore.smallOptions
        // Nothing but the loss of the name makes the log follow.
        options.commitIntervalMilliseconds = 3_600_000
        let database = try store.open(options)
        for number in 0..<100 { try database.put(Self.key(number), [1]) }
        usleep(1_500_000)
        #expect(!database.statistics().dm.isNameLost)
        let logged = database.statistics().wal.bytesWritten
        #expect(logged == 0)
        let name = database.core.region.name
        try #require(shm_unlink(name) == 0)
        if deed != .deleted {
            let descriptor = shm_open(name, O_RDWR | O_CREAT | O_EXCL, deed == .replaced ? 0o600 : 0o000)
            try #require(descriptor >= 0)
            try #require(ftruncate(descriptor, deed == .replaced ? off_t(database.core.region.size) : 0) == 0)
            close(descriptor)
        }
        #expect(Self.isReported(database))
        // As an application whose every operation returned, until all processes die at once.
        for number in 100..<200 { try database.put(Self.key(number), [2]) }
        let batch = WriteBatch()
        batch.delete(Self.key(0))
        try database.write(batch)
        abandon(database)
        shm_unlink(name)

        let next = try store.open(options)
        #expect(next.statistics().recovery.source == "log")
        #expect(try next.get(Self.key(0)) == nil)
        for number in 1..<200 { #expect(try next.get(Self.key(number)) == [number < 100 ? 1 : 2]) }
        #expect(!next.statistics().dm.isNameLost)
        try next.close()
    }

    /// A close in order makes an end of it.
    @Test func theNextMountHasNewMemory() throws {
        let store = TemporaryStore("lostmemoryclose")
        let database = try store.open()
        try database.put(Self.key(1), [1])
        try #require(shm_unlink(database.core.region.name) == 0)
        #expect(Self.isReported(database))
        try database.put(Self.key(2), [2])
        try database.close()
        let next = try store.open()
        #expect(try next.get(Self.key(1)) == [1] && next.get(Self.key(2)) == [2])
        usleep(1_500_000)
        #expect(!next.statistics().dm.isNameLost)
        try next.close()
    }
}
