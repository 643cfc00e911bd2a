import Testing

@testable import O3LSM

/// What simulated distance to DM costs, and whom.
@Suite struct FabricDistanceTests {
    private static let latency = 5_000
    private static func key(_ number: Int) -> [UInt8] { Array("key\(number + 1_000_000)".utf8) }

    private static func options(_ latency: Int, _ placement: Placement = .direct) -> Options {
        var options = TemporaryStore.smallOptions
        options.dmLatencyNanoseconds = latency
        options.placement = placement
        options.localBuffer = 4 << 20
        return options
    }

    /// Nodes that a search for a key reads in the active memtable, the head included.
    private func reads(_ database: Database, _ key: [UInt8]) -> Int {
        let map = database.core.writes.active.map
        return key.withUnsafeBytes { map.shards[map.route($0)].dependentReads($0, .seek(maximumSequenceNumber)) }
    }

    /// Round trips that an action pays for; it takes as long as they do.
    private func trips(_ database: Database, _ action: () throws -> Void) throws -> Int {
        let fabric = try #require(database.core.region.fabric)
        let before = fabric.paidRoundTrips
        let start = monotonicNanoseconds()
        try action()
        let elapsed = monotonicNanoseconds() - start
        let paid = fabric.paidRoundTrips - before
        #expect(elapsed >= UInt64(paid * Self.latency))
        return paid
    }

    @Test func aLookupPaysForEveryNodeThatItReads() throws {
        let store = TemporaryStore()
        defer { withExtendedLifetime(store) {} }
        let database = try store.open(Self.options(Self.latency))
        for number in 0..<1000 { try database.put(Self.key(number), [1]) }
        var sum = 0
        for number in stride(from: 0, to: 1000, by: 50) {
            let expected = 1 + reads(database, Self.key(number))
            var found: [UInt8]?
            let paid = try trips(database) { found = try database.get(Self.key(number)) }
            #expect(found == [1])
            #expect(paid == expected)
            sum += paid
        }
        // About log2 of a thousand nodes; a flat number, or one for each node on the way, is far from it.
        #expect((5...30).contains(sum / 20))
        var found: [UInt8]?
        let forAbsent = try trips(database) { found = try database.get(Array("absent".utf8)) }
        #expect(forAbsent == 1 && found == nil)
        try database.close()
    }

    @Test func anInsertPaysForItsSearchAndOneMore() throws {
        let store = TemporaryStore()
        defer { withExtendedLifetime(store) {} }
        let database = try store.open(Self.options(Self.latency))
        for number in 0..<50 {
            // A shard that is empty still has a head.
            let expected = 1 + max(1, reads(database, Self.key(number)))
            let paid = try trips(database) { try database.put(Self.key(number), [1]) }
            #expect(paid == expected)
        }
        try database.close()
    }

    @Test func aScanPaysForBlocksAndASeekForASearch() throws {
        let store = TemporaryStore()
        defer { withExtendedLifetime(store) {} }
        let database = try store.open(Self.options(Self.latency))
        let value = [UInt8](repeating: 7, count: 500)
        for number in 0..<200 { try database.put(Self.key(number), value) }
        let iterator = try database.makeIterator()
        var entries = 0
        let scan = try trips(database) {
            try iterator.seekToFirst()
            while iterator.isValid {
                entries += 1
                try iterator.next()
            }
        }
        #expect(entries == 200)
        // Written in order, they lie side by side: some seven in a block.
        let blocks = 200 * 540 / FabricDistance.blockBytes
        #expect(scan >= blocks / 2 && scan <= 2 * blocks + 4)
        let key = Self.key(100)
        let expected = reads(database, key)
        let seek = try trips(database) { try iterator.seek(key) }
        #expect(seek == expected)
        try database.close()
    }

    @Test func theOffsetCacheSavesTheWalk() throws {
        let store = TemporaryStore()
        defer { withExtendedLifetime(store) {} }
        var options = Self.options(Self.latency)
        options.offsetCache = 1 << 20
        let database = try store.open(options)
        for number in 0..<100 { try database.put(Self.key(number), [1]) }
        let key = Self.key(50)
        let expected = 1 + reads(database, key)
        database.core.writes.sealIfRoom()
        // Held, so that it stays although it is flushed.
        let state = database.core.holder.current
        let sealed = try #require(state.memtables.dropFirst().first)
        let cache = try #require(database.core.offsetCache)
        func look() throws -> Int {
            try trips(database) {
                let found = try key.withUnsafeBytes { try sealed.lookup($0, hash: hashKey($0), maximumSequenceNumber, cache) }
                guard case .put = found else { throw EngineError.invalidArgument("the key is not found") }
            }
        }
        #expect(try look() == expected)
        #expect(try look() == 1)
        #expect(cache.statistics.hits == 1)
        try database.close()
    }

    @Test func theLogAndRecoveryPayForTheBytesTheyRead() throws {
        let store = TemporaryStore()
        defer { withExtendedLifetime(store) {} }
        let database = try store.open(Self.options(100))
        let value = [UInt8](repeating: 7, count: 10_000)
        for number in 0..<20 { try database.put(Self.key(number), value) }
        try database.sync()
        #expect(try #require(database.core.region.fabric).paidBytes >= 200_000)
        abandon(database)
        let again = try store.open(Self.options(100))
        #expect(again.statistics().recovery.source == "region")
        #expect(try #require(again.core.region.fabric).paidBytes >= 200_000)
        #expect(again.core.writes.active.fabric != nil)
        try again.close()
    }

    @Test func privateMemoryIsNear() throws {
        // Ten milliseconds a round trip: paying for one of them would show.
        let store = TemporaryStore()
        defer { withExtendedLifetime(store) {} }
        let database = try store.open(Self.options(10_000_000, .staged))
        try database.put(Self.key(0), [1])
        #expect(!database.core.writes.active.isInDM && database.core.writes.active.fabric == nil)
        try database.close()
    }

    @Test func aTransferPaysForItsBytes() throws {
        let distance = try #require(FabricDistance(latencyNanoseconds: 0, bytesPerSecond: 100 << 20))
        // Ten MiB of a hundred a second; the bucket begins empty.
        let start = monotonicNanoseconds()
        for _ in 0..<10 { distance.transfer(1 << 20) }
        #expect(monotonicNanoseconds() - start >= 90_000_000)
    }

    @Test func withoutDistanceThereIsNothingToPay() throws {
        #expect(FabricDistance(latencyNanoseconds: 0, bytesPerSecond: nil) == nil)
        let store = TemporaryStore()
        defer { withExtendedLifetime(store) {} }
        let database = try store.open(Self.options(0))
        #expect(database.core.region.fabric == nil)
        try database.close()
        var options = Options()
        options.dmLatencyNanoseconds = -1
        #expect(throws: EngineError.self) { try options.validate() }
        options.dmLatencyNanoseconds = 200
        options.dmBandwidth = 0
        #expect(throws: EngineError.self) { try options.validate() }
    }
}
