import Synchronization
import Testing

@testable import O3LSM

@Suite struct OffsetCacheTests {
    @Test func answersWhatWasStored() throws {
        let cache = try #require(try OffsetCache(budgetBytes: 1 << 20))
        let lastOffset = UInt32(RegionLayout.ShardRoot.maximumSlabs * RegionLayout.slabBytes - 8)
        let places: [(memtable: UInt64, place: OffsetCache.Place)] = [
            (0, .init(shard: 0, offset: 2048)), (1, .init(shard: 31, offset: lastOffset)),
            (OffsetCache.maximumMemtableID, .init(shard: 31, offset: lastOffset)),
        ]
        for (memtable, place) in places {
            cache.store(77, memtable: memtable, place)
            #expect(cache.place(77, memtable: memtable) == place)
        }
        // Each memtable has a place of its own for a key, and no other has it.
        for (memtable, place) in places { #expect(cache.place(77, memtable: memtable) == place) }
        #expect(cache.place(77, memtable: 2) == nil)
        #expect(cache.place(78, memtable: 1) == nil)
        // An empty slot is no place in memtable 0 of the key whose hash is 0.
        #expect(cache.place(0, memtable: 0) == nil)
    }

    @Test func refusesIDsThatDoNotFit() throws {
        let cache = try #require(try OffsetCache(budgetBytes: 1 << 10))
        cache.store(5, memtable: OffsetCache.maximumMemtableID + 1, .init(shard: 1, offset: 2048))
        #expect(cache.place(5, memtable: OffsetCache.maximumMemtableID + 1) == nil)
        #expect(cache.place(5, memtable: 0) == nil)
    }

    @Test func keepsItsBudget() throws {
        #expect(try OffsetCache(budgetBytes: 0) == nil)
        #expect(try OffsetCache(budgetBytes: OffsetCache.setBytes - 1) == nil)
        let cache = try #require(try OffsetCache(budgetBytes: 1000))
        #expect(cache.capacityBytes == 960)
        let hashes = (0..<1000).map { number in withUnsafeBytes(of: number) { hashKey($0) } }
        for hash in hashes { cache.store(hash, memtable: 3, .init(shard: 0, offset: 4096)) }
        let kept = hashes.count { cache.place($0, memtable: 3) != nil }
        #expect(kept <= 60 && kept >= 50, "\(kept) of 60 slots in use")
    }

    @Test func forgetsTheOldestMemtableFirst() throws {
        let cache = try #require(try OffsetCache(budgetBytes: OffsetCache.setBytes))
        for memtable in UInt64(1)...6 { cache.store(memtable, memtable: memtable, .init(shard: 0, offset: 2048)) }
        #expect((UInt64(1)...6).map { cache.place($0, memtable: $0) != nil } == [false, false, true, true, true, true])
    }

    /// Threads write one set at once. Whatever mixes, a place is one that was stored for its memtable.
    @Test func mixesNoPlaces() throws {
        let cache = try #require(try OffsetCache(budgetBytes: OffsetCache.setBytes))
        let wrong = Atomic<Int>(0)
        let seen = Atomic<Int>(0)
        var threads: [BackgroundThread] = []
        for seed in UInt64(1)...4 {
            threads.append(
                try BackgroundThread("places-\(seed)") {
                    var random = SeededRandom(seed)
                    for _ in 0..<100_000 {
                        let memtable = UInt64(random.below(5))
                        let hash = UInt64(random.below(3))
                        // The shard follows from memtable and offset.
                        let offset = UInt32(256 + random.below(1000)) * 8
                        let shard = Int((UInt64(offset) / 8 &* 7 &+ memtable &* 11) % 32)
                        cache.store(hash, memtable: memtable, .init(shard: shard, offset: offset))
                        guard let found = cache.place(hash, memtable: memtable) else { continue }
                        seen.wrappingAdd(1, ordering: .relaxed)
                        if found.shard != Int((UInt64(found.offset) / 8 &* 7 &+ memtable &* 11) % 32) {
                            wrong.wrappingAdd(1, ordering: .relaxed)
                        }
                    }
                })
        }
        for thread in threads { thread.join() }
        #expect(wrong.load(ordering: .relaxed) == 0)
        #expect(seen.load(ordering: .relaxed) > 10_000)
    }
}
