import Glibc
import Synchronization
import Testing

@testable import O3FileSystem
@testable import O3LSM

/// Memory that is full because of what readers hold: writers wait for them, and they for nobody.
@Suite struct FullMemoryTests {
    // @unchecked: behind a lock.
    private struct Held: @unchecked Sendable {
        var sinks: [ReadSink] = []
    }

    @Test(.timeLimit(.minutes(2))) func aReaderWhoseAccessTimeIsDueWaitsForNoWriter() throws {
        let temporary = TemporaryStore()
        let database = try temporary.open(dmSize: 16 << 20)
        let files = try FileSystem(database, options: FileSystem.Options())
        let file = try files.touch(rootInode, "file").inode
        let other = try files.touch(rootInode, "other").inode
        let count = 2000
        let block = [UInt8](repeating: 7, count: 16384)
        let held = Mutex(Held())
        let isHolding = Atomic<Bool>(true)
        let written = Atomic<Int>(0)
        let writer = try BackgroundThread("test-writer") {
            for number in 0..<count {
                let offset = UInt64(number * block.count)
                try? files.put(file, offset, block)
                written.store(number + 1, ordering: .releasing)
                guard isHolding.load(ordering: .acquiring) else { continue }
                // As of a reader whose answer is not sent yet.
                let sink = ReadSink()
                try? files.read(file, offset: offset, length: block.count, into: sink)
                held.withLock { $0.sinks.append(sink) }
            }
        }
        var last = -1
        while written.load(ordering: .acquiring) != last {
            last = written.load(ordering: .acquiring)
            usleep(2_000_000)
        }
        #expect(last < count)
        // The writer holds the lock of the one file, and there is no memory for the other.
        let start = monotonicNanoseconds()
        for inode in [file, other] { files.noteAccess(inode) }
        #expect(monotonicNanoseconds() - start < 1_000_000_000)
        #expect(written.load(ordering: .acquiring) == last)
        isHolding.store(false, ordering: .releasing)
        held.withLock { $0.sinks.removeAll() }
        writer.join()
        for number in 0..<count {
            #expect(try files.get(file, UInt64(number * block.count), block.count) == block)
        }
        files.noteAccess(other)
        let attributes = try files.getAttributes(other)
        #expect(attributes.accessTime > attributes.changeTime)
        try database.close()
    }
}
