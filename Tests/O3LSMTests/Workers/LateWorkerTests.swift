import Foundation
import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// A worker whose lease has run out may find anything in the slabs it reads: an error, never a crash.
@Suite struct LateWorkerTests {
    private static func executor(_ region: Region, _ storage: any Storage) -> FlushExecutor {
        let memtables = WorkerMemtables(region)
        return FlushExecutor(storage: storage, layout: StoreLayout(root: "/store")) {
            source throws(EngineError) in try memtables.memtable(source)
        }
    }

    private static func storage() throws -> MemoryStorage {
        let storage = MemoryStorage()
        for directory in ["/store", "/store/sst"] { try storage.createDirectory(directory) }
        return storage
    }

    @Test func aCopyIsWhatTheOwnerHas() throws {
        let source = try PrivateMemtable(count: 3000, valueBytes: 900, hasTombstones: true)
        let copy = try #require(try WorkerMemtables(source.region).memtable(source.descriptor.sources[0]))
        let owned = source.memtable.makeIterator()
        let copied = copy.makeIterator()
        try owned.seekToFirst()
        try copied.seekToFirst()
        while owned.isValid {
            try #require(copied.isValid)
            #expect(Array(owned.userKey) == Array(copied.userKey) && Array(owned.value) == Array(copied.value))
            try owned.next()
            try copied.next()
        }
        #expect(!copied.isValid && copy.tombstones.count == 300)
        var gone = source.descriptor
        gone.sources[0].memtableID += 1
        #expect(try WorkerMemtables(source.region).memtable(gone.sources[0]) == nil)
        source.memtable.setState(.flushed)
        #expect(try WorkerMemtables(source.region).memtable(source.descriptor.sources[0]) == nil)
    }

    /// The slabs are given to somebody else while they are read, up to the last byte of the region.
    @Test func slabsThatChangeUnderTheReaderAreAnErrorAtWorst() throws {
        let seed = UInt64.random(in: 1...1_000_000)
        print("LateWorkerTests: seed \(seed)")
        // The shard has the last slabs of the region: what reads too far leaves the mapping.
        let source = try PrivateMemtable(count: 11_500, valueBytes: 1000, hasTombstones: true, regionBytes: 16 << 20)
        let region = source.region
        let isOver = Atomic<Bool>(false)
        let scribbler = try BackgroundThread("test-scribbler") {
            var random = SeededRandom(seed)
            let slabs = UInt64(region.slabCount) << 20
            // Mostly where lengths are: an entry begins at a multiple of eight.
            while !isOver.load(ordering: .relaxed) {
                let offset = Int(random.next() % (slabs / 8 - 3)) * 8 + [0, 4, 6, 7, 16, 16][random.below(6)]
                (region.base + RegionLayout.firstSlabOffset + offset).storeBytes(
                    of: UInt8(truncatingIfNeeded: random.next()), as: UInt8.self)
            }
        }
        let deadline = monotonicNanoseconds() + 3_000_000_000
        var failures = 0
        while monotonicNanoseconds() < deadline {
            // The root is mended each time, so that there is something to read.
            let executor = Self.executor(region, try Self.storage())
            do { _ = try executor.run(source.descriptor, attempt: 1) } catch { failures += 1 }
        }
        isOver.store(true, ordering: .relaxed)
        scribbler.join()
        #expect(failures > 0)
    }

    /// Every byte of an entry's header, and of the shard's root, with extreme values.
    @Test func damagedHeadersAreErrors() throws {
        let source = try PrivateMemtable(count: 200, valueBytes: 100, hasTombstones: true, regionBytes: 16 << 20)
        let shard = source.memtable.map.shards[0]
        let root = shard.root
        let first = RegionLayout.ShardRoot.firstEntry
        for byte in Array(0..<128) + Array(first..<(first + 2 * 160)) {
            let old = root.load(fromByteOffset: byte, as: UInt8.self)
            for new in [0, 0x80, 0xff, old ^ 1] as [UInt8] {
                root.storeBytes(of: new, toByteOffset: byte, as: UInt8.self)
                // Some bytes say nothing; what matters is that the process lives on.
                let storage = try Self.storage()
                do throws(EngineError) {
                    _ = try Self.executor(source.region, storage).run(source.descriptor, attempt: 1)
                } catch {
                    guard case .corruption = error else {
                        Issue.record("byte \(byte): \(error)")
                        continue
                    }
                }
            }
            root.storeBytes(of: old, toByteOffset: byte, as: UInt8.self)
        }
        let result = try Self.executor(source.region, try Self.storage()).run(source.descriptor, attempt: 1)
        #expect(result.entriesRead == 180)
    }

    /// A worker's own mapping of the region: its slabs cannot be written.
    @Test func aWorkerCannotWriteToSlabs() throws {
        let store = TemporaryStore()
        let database = try store.open()
        let identity = try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage())
        let (attached, _) = try Region.attach(storeID: identity.storeID, bootID: Region.currentBootID())
        let region = try #require(attached)
        try region.protectSlabs()
        let maps = try String(contentsOfFile: "/proc/self/maps", encoding: .utf8)
        let slabs = String(UInt(bitPattern: region.base + RegionLayout.firstSlabOffset), radix: 16)
        let line = maps.split(separator: "\n").first { $0.hasPrefix(slabs + "-") }
        #expect(line?.contains(" r--s ") == true)
        try database.close()
    }
}
