import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// A region whose memtables are flushed and still read: a writer waits until the reader ends, and does nothing else.
@Suite struct PinnedMemoryTests {
    /// The log has read a memtable to its end when it is flushed: it does not keep its memory.
    @Test func theLogHoldsNoFlushedMemtable() throws {
        let store = TemporaryStore()
        let database = try store.open()
        let free = database.statistics().dm.freeSlabs
        for round in 1...3 {
            for number in 0..<40 { try database.put(Array("key\(number)".utf8), [UInt8](repeating: 7, count: 20_000)) }
            try database.sync()
            try database.flush()
            let deadline = monotonicNanoseconds() + 10_000_000_000
            while database.statistics().dm.freeSlabs < free, monotonicNanoseconds() < deadline { usleep(10_000) }
            #expect(database.statistics().dm.freeSlabs >= free, "round \(round)")
        }
        try database.close()
    }

    /// - Parameter rowTypes: first bytes of keys; several give a memtable more shards than were asked for.
    @Test(.timeLimit(.minutes(2)), arguments: ["k", "abcdefg"]) func writersWaitForReadersOfAFullRegion(_ rowTypes: String) throws {
        let rowTypes = Array(rowTypes.utf8)
        @Sendable func key(_ number: Int) -> [UInt8] { [rowTypes[number % rowTypes.count]] + Array("\(number)".utf8) }
        let store = TemporaryStore()
        var options = TemporaryStore.smallOptions
        options.dmSize = 16 << 20
        let database = try store.open(options)
        let region = database.core.region
        let holder = database.core.holder
        let pins = Mutex<[ReadState]>([])
        let isPinning = Atomic<Bool>(true)
        let written = Atomic<Int>(0)
        let writer = try BackgroundThread("test-writer") {
            for number in 0..<2000 {
                try? database.put(key(number), [UInt8](repeating: 7, count: 20_000))
                written.store(number + 1, ordering: .releasing)
                // As an iterator does: each holds the memtables of its time.
                guard isPinning.load(ordering: .acquiring) else { continue }
                let state = holder.current
                pins.withLock { $0.append(state) }
            }
        }
        var last = -1
        while written.load(ordering: .acquiring) != last {
            last = written.load(ordering: .acquiring)
            usleep(2_000_000)
        }
        #expect(last < 2000)
        let before = region.takeMemtableID()
        usleep(1_000_000)
        // One number more is this test's.
        #expect(region.takeMemtableID() - before <= 3, "memtables are made and sealed while nothing comes free")
        #expect(written.load(ordering: .acquiring) == last)
        // A wait is told while it goes on.
        let stall = try #require(database.statistics().stalls[StallCause.dmFull.rawValue])
        #expect(stall.waiting == 1 && stall.count >= 1)
        #expect(stall.longestWaitSeconds > 2 && stall.seconds >= stall.longestWaitSeconds)
        isPinning.store(false, ordering: .releasing)
        pins.withLock { $0.removeAll() }
        writer.join()
        let over = try #require(database.statistics().stalls[StallCause.dmFull.rawValue])
        #expect(over.waiting == 0 && over.longestWaitSeconds == 0 && over.seconds >= stall.seconds)
        for number in 0..<2000 { #expect(try database.get(key(number))?.count == 20_000) }
        try database.close()
    }
}
