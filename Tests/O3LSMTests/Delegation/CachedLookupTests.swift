import Testing

@testable import O3LSM

/// Point reads through the offset cache say what they say without it.
@Suite struct CachedLookupTests {
    private static func open(_ store: TemporaryStore) throws -> Database {
        var options = TemporaryStore.smallOptions
        options.offsetCache = 1 << 20
        return try store.open(options)
    }
    private static func read(_ database: Database, _ state: ReadState, _ key: String, _ sequence: SequenceNumber) throws -> String? {
        try Array(key.utf8).withUnsafeBytes { bytes in
            try database.core.lookup(bytes, state, sequence).map { String(decoding: $0.copy(), as: UTF8.self) }
        }
    }
    private static func put(_ database: Database, _ key: String, _ value: String) throws {
        try database.put(Array(key.utf8), Array(value.utf8))
    }

    @Test func versionsTombstonesAndSnapshots() throws {
        let store = TemporaryStore()
        let database = try Self.open(store)
        let core = database.core
        let cache = try #require(core.offsetCache)
        try Self.put(database, "a", "a1")
        try Self.put(database, "b", "b1")
        let first = core.region.visibleSequence
        try Self.put(database, "a", "a2")
        try database.delete(Array("b".utf8))
        // The active memtable is none of the cache's business.
        #expect(try Self.read(database, core.holder.current, "a", first) == "a1")
        #expect(try Self.read(database, core.holder.current, "a", first + 2) == "a2")
        #expect(cache.statistics.hits == 0 && cache.statistics.misses == 0)

        core.writes.sealIfRoom()
        // Held: the sealed memtable stays readable whatever is flushed.
        let state = core.holder.current
        let sealedAt = core.region.visibleSequence
        // A reader of the older state must not put its version in the place of the newest.
        #expect(try Self.read(database, state, "a", first) == "a1")
        #expect(cache.statistics.misses == 1)
        for _ in 0..<2 { #expect(try Self.read(database, state, "a", sealedAt) == "a2") }
        #expect(cache.statistics.misses == 2 && cache.statistics.hits == 1)
        // Nor may it get the newest one.
        #expect(try Self.read(database, state, "a", first) == "a1")
        // A deletion is an entry as others are.
        for _ in 0..<2 { #expect(try Self.read(database, state, "b", sealedAt) == nil) }
        #expect(cache.statistics.hits == 2)
        #expect(try Self.read(database, state, "b", first) == "b1")

        // Newer memtables come first, the active one and a sealed one.
        try Self.put(database, "a", "a3")
        #expect(try database.get(Array("a".utf8)) == Array("a3".utf8))
        core.writes.sealIfRoom()
        let later = core.holder.current
        let laterAt = core.region.visibleSequence
        for _ in 0..<2 { #expect(try Self.read(database, later, "a", laterAt) == "a3") }
        for _ in 0..<2 { #expect(try Self.read(database, later, "a", sealedAt) == "a2") }
        // So do range tombstones of newer memtables.
        try database.deleteRange(Array("a".utf8), Array("c".utf8))
        let now = core.holder.current
        for _ in 0..<2 { #expect(try Self.read(database, now, "a", core.region.visibleSequence) == nil) }
        #expect(try Self.read(database, now, "a", laterAt) == "a3")
        try database.close()
    }

    @Test func aTombstoneInTheSameMemtableHides() throws {
        let store = TemporaryStore()
        let database = try Self.open(store)
        let core = database.core
        try Self.put(database, "k", "1")
        let before = core.region.visibleSequence
        try database.deleteRange(Array("k".utf8), Array("l".utf8))
        try Self.put(database, "m", "2")
        core.writes.sealIfRoom()
        let state = core.holder.current
        let now = core.region.visibleSequence
        for _ in 0..<3 {
            #expect(try Self.read(database, state, "k", now) == nil)
            #expect(try Self.read(database, state, "k", before) == "1")
            #expect(try Self.read(database, state, "m", now) == "2")
        }
        #expect(try #require(core.offsetCache).statistics.hits >= 5)
        try database.close()
    }

    /// Two keys with one hash: the key of the entry decides.
    @Test func comparesKeys() throws {
        let store = TemporaryStore()
        let database = try Self.open(store)
        let core = database.core
        let cache = try #require(core.offsetCache)
        try Self.put(database, "own", "mine")
        try Self.put(database, "foreign", "theirs")
        core.writes.sealIfRoom()
        let state = core.holder.current
        let memtable = state.memtables[1]
        let now = core.region.visibleSequence
        Array("foreign".utf8).withUnsafeBytes { foreign in
            let shard = memtable.map.shards[memtable.map.route(foreign)]
            let offset = shard.findAtOrAfter(foreign, .seek(now))
            let place = OffsetCache.Place(shard: shard.index, offset: offset)
            for key in ["own", "absent"] {
                Array(key.utf8).withUnsafeBytes { cache.store(hashKey($0), memtable: memtable.id, place) }
            }
        }
        #expect(try Self.read(database, state, "own", now) == "mine")
        #expect(try Self.read(database, state, "absent", now) == nil)
        #expect(cache.statistics.hits == 0)
        #expect(try Self.read(database, state, "own", now) == "mine")
        #expect(cache.statistics.hits == 1)
        try database.close()
    }

    /// A place does not change when its memtable is copied from private memory to DM.
    @Test func placesTravelWithTheirMemtable() throws {
        let store = TemporaryStore()
        var options = TemporaryStore.smallOptions
        options.offsetCache = 1 << 20
        options.placement = .staged
        options.localBuffer = 8 << 20
        options.shards = 4
        let database = try store.open(options)
        let core = database.core
        for number in 0..<1000 { try Self.put(database, "key\(number)", "value\(number)") }
        core.writes.sealIfRoom()
        let source = core.holder.current.memtables[1]
        let now = core.region.visibleSequence
        let transfer = try #require(MemtableTransfer.begin(source, to: core.region, core.allocator, beside: []))
        for piece in transfer.pieces { _ = transfer.copy(piece) }
        let copy = try transfer.finish()
        let cache = try #require(try OffsetCache(budgetBytes: 1 << 20))
        for memtable in [source, copy] {
            for number in 0..<1000 {
                try Array("key\(number)".utf8).withUnsafeBytes { key in
                    guard case .put(let value, _) = try memtable.lookup(key, hash: hashKey(key), now, cache) else {
                        throw EngineError.closed
                    }
                    #expect(value.copy() == Array("value\(number)".utf8))
                }
            }
        }
        #expect(cache.statistics.hits == 1000)
        copy.setState(.flushed)
        copy.discard()
        try database.close()
    }
}
