import Testing

@testable import O3LSM

/// The accounts of disaggregated memory: they balance, and a leak shows.
@Suite struct LeakTests {
    @Test(arguments: Placement.allCases) func aUsedStoreHasNone(placement: Placement) throws {
        let store = TemporaryStore("leaks\(placement)")
        var options = TemporaryStore.smallOptions
        options.placement = placement
        options.localBuffer = 4 << 20
        let database = try store.open(options)
        for number in 0..<10_000 { try database.put(Array("key\(number * 7919 % 10_000)".utf8), [UInt8](repeating: 7, count: 400)) }
        #expect(try database.leaks() == [])
        try database.flush()
        #expect(try database.leaks() == [])
        abandon(database)
        let again = try store.open(options)
        #expect(try again.leaks() == [])
        try again.close()
    }

    @Test func whatIsLostShows() throws {
        let store = TemporaryStore()
        let database = try store.open()
        try database.put([1], [2])
        let core = database.core
        let slab = try #require(core.allocator.allocate())
        let directory = MemtableDirectory(core.region)
        let slot = try #require(directory.freeSlot())
        directory.setState(slot, .flushed)
        let word = core.region.base + RegionLayout.Job.offset + 15 * RegionLayout.Job.bytes + RegionLayout.Job.word
        sharedWord64(word).pointee.store(JobWord(generation: 3, node: 9, state: .claimed).bits, ordering: .releasing)
        #expect(try database.leaks().count == 3)
        core.allocator.release([slab])
        directory.setState(slot, .free)
        sharedWord64(word).pointee.store(0, ordering: .releasing)
        #expect(try database.leaks() == [])
        try database.close()
    }
}
