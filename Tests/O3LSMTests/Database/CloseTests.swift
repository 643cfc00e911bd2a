import Foundation
import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// What a store that is closed, or could not be opened, leaves behind: no thread, no writer that waits.
@Suite struct CloseTests {
    /// L0 is full and stays so, since a worker sits on the compaction: close does not wait for it, nor do writers.
    @Test(.timeLimit(.minutes(1))) func aStoppedWriterIsTold() throws {
        let store = TemporaryStore()
        var options = TemporaryStore.smallOptions
        (options.l0CompactionTrigger, options.l0SlowdownTrigger, options.l0StopTrigger) = (2, 2, 2)
        let database = try store.open(options)
        let region = database.core.region
        let node = try #require(NodeTable(region).attach(role: .worker, roles: [.compaction], capacity: 4))
        database.core.executor.setWorkers(flush: false, compaction: true, isMemoryScarce: false)
        let isOver = Atomic<Bool>(false)
        let thief = try BackgroundThread("test-thief") {
            while !isOver.load(ordering: .relaxed) {
                NodeTable(region).beat(node)
                if JobTable(region).claim([.compaction], node: node, isOwner: false) == nil { usleep(500) }
            }
        }
        for value in 0..<2 as Range<UInt8> {
            for number in 0..<100 { try database.put(Array("key\(number)".utf8), [value]) }
            try database.flush()
        }
        waitUntil { database.core.writes.stop.load(ordering: .acquiring) != 0 }
        let error = Mutex<EngineError?>(nil)
        let writer = try BackgroundThread("test-writer") {
            // Again if it could go on, because the thief was given too little time and lost its lease.
            do throws(EngineError) { while true { try database.put([1], [1]) } } catch let refused {
                error.withLock { $0 = refused }
            }
        }
        // It waits by then, or comes to a closed store: either way it is told.
        usleep(200_000)
        try database.close()
        waitUntil { error.withLock { $0 } != nil }
        #expect(error.withLock { $0 } == .closed)
        if error.withLock({ $0 }) != nil { writer.join() }
        isOver.store(true, ordering: .relaxed)
        thief.join()
    }

    /// Long pauses between two looks at what is to be done are cut short.
    @Test(arguments: Placement.allCases) func closingDoesNotWaitForATick(placement: Placement) throws {
        let store = TemporaryStore("\(#function)\(placement)")
        var options = TemporaryStore.smallOptions
        options.placement = placement
        options.localBuffer = 4 << 20
        options.commitIntervalMilliseconds = 3_600_000
        for round in 0..<40 as Range<UInt8> {
            let database = try store.open(options)
            try database.put([1], [round])
            let start = monotonicNanoseconds()
            try database.close()
            #expect(monotonicNanoseconds() - start < 5_000_000_000)
        }
    }

    /// A compaction for which there is no room in the job table runs on a thread of its own.
    @Test func aCompactionOutsideTheJobTableEndsWithTheStore() throws {
        let store = TemporaryStore()
        let storage = FaultyStorage(POSIXStorage())
        var options = TemporaryStore.smallOptions
        options.disableAutomaticCompaction = true
        options.compression = .none
        let database = try Database.open(store.path, options: options, storage: storage)
        for round in 0..<2 as Range<UInt8> {
            for number in 0..<3000 {
                try database.put(Array("key\(number)".utf8), [UInt8](repeating: round, count: 500))
            }
            try database.flush()
        }
        // Executors fail them, and nobody takes the answers.
        while JobTable(database.core.region).post(.compaction, descriptor: []) != nil {}
        storage.delay(.read, path: ".sst", milliseconds: 100)
        let before = storage.calls(.create)
        let caller = try BackgroundThread("test-caller") { try? database.compact() }
        waitUntil { storage.calls(.create) > before }
        #expect(storage.calls(.create) == before + 1)
        try database.close()
        caller.join()
        let reads = storage.calls(.read)
        usleep(500_000)
        #expect(storage.calls(.read) == reads)
        let again = try store.open(options)
        #expect(try again.verify() == [])
        for number in 0..<3000 {
            #expect(try again.get(Array("key\(number)".utf8)) == [UInt8](repeating: 1, count: 500))
        }
        try again.close()
    }

    /// Threads that went on would hold the storage for ever, and change the store that somebody else has by then.
    @Test func aFailedOpeningLeavesNoThread() throws {
        weak var storage: FaultyStorage?
        let store = TemporaryStore()
        let database = try store.open()
        for number in 0..<3 as Range<UInt8> {
            try database.put([1], [number])
            try database.sync()
        }
        abandon(database)
        Region.unlink(
            storeID: try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage()).storeID)
        let log = store.path + "/wal/000001.log"
        var bytes = try #require(FileManager.default.contents(atPath: log))
        bytes[LogFormat.fileHeaderBytes + 30] ^= 1
        try bytes.write(to: URL(fileURLWithPath: log))
        do {
            let used = FaultyStorage(POSIXStorage())
            storage = used
            let error = #expect(throws: EngineError.self) {
                try Database.open(store.path, options: TemporaryStore.smallOptions, storage: used)
            }
            #expect(error?.isCorruption == true)
        }
        #expect(storage == nil)
    }
}
