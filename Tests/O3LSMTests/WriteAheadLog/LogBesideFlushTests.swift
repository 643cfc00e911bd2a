import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// Whoever writes a log that has fallen behind is at it for as long as storage takes.
@Suite struct LogBesideFlushTests {
    /// A flush does not wait for it; its memory comes back, and what it has made durable is not written any more.
    @Test func aLogThatIsBehindHoldsUpNoFlush() throws {
        let storage = FaultyStorage()
        let store = TemporaryStore("behind")
        var options = TemporaryStore.smallOptions
        options.commitIntervalMilliseconds = 60_000
        options.memtableSize = 12 << 20
        let database = try Database.open(store.path, options: options, storage: storage)
        let freeSlabs = database.statistics().dm.freeSlabs
        // Eight records of the log, a second each.
        let value = [UInt8](repeating: 7, count: 1000)
        let keys = (0..<8000).map { Array("key\($0)".utf8) }
        for key in keys { try database.put(key, value) }
        storage.delay(.append, path: ".log", milliseconds: 1000)
        let appends = storage.calls(.append)
        let isSynced = Atomic(false)
        let thread = try BackgroundThread("log") {
            try? database.sync()
            isSynced.store(true, ordering: .releasing)
        }
        while storage.calls(.append) == appends { usleep(1000) }
        try database.flush()
        let isBehind = !isSynced.load(ordering: .acquiring)
        #expect(isBehind, "the flush waited for the log")
        thread.join()
        let logged = database.statistics().wal.bytesWritten
        #expect(logged > 0 && logged < 4_000_000, "\(logged) bytes")
        #expect(database.statistics().dm.freeSlabs >= freeSlabs - options.shards)
        storage.heal()
        for key in keys { #expect(try database.get(key) == value) }
        try database.close()
    }
}
