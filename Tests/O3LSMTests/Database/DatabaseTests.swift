import Testing

@testable import O3LSM

@Suite struct DatabaseTests {
    private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

    @Test func putGetDelete() throws {
        let store = TemporaryStore()
        let database = try store.open()
        defer { try? database.close() }
        #expect(try database.get(bytes("a")) == nil)
        try database.put(bytes("a"), bytes("1"))
        #expect(try database.get(bytes("a")) == bytes("1"))
        try database.put(bytes("a"), bytes("2"))
        #expect(try database.get(bytes("a")) == bytes("2"))
        try database.delete(bytes("a"))
        #expect(try database.get(bytes("a")) == nil)
        try database.put(bytes("empty"), [])
        #expect(try database.get(bytes("empty")) == [])
    }

    @Test func closedStoreIsReadFromTables() throws {
        let store = TemporaryStore()
        var database = try store.open()
        for number in 0..<20_000 { try database.put(bytes("key\(number)"), bytes("value\(number)")) }
        try database.deleteRange(bytes("key5"), bytes("key6"))
        try database.close()
        #expect(throws: EngineError.closed) { try database.get(bytes("key1")) }
        database = try store.open()
        defer { try? database.close() }
        #expect(database.statistics().levels.map(\.files).reduce(0, +) > 0)
        for number in 0..<20_000 {
            let expected = "\(number)".hasPrefix("5") ? nil : bytes("value\(number)")
            #expect(try database.get(bytes("key\(number)")) == expected)
        }
    }

    @Test func abandonedStoreIsRecoveredFromDM() throws {
        let store = TemporaryStore()
        var database = try store.open()
        for number in 0..<30_000 { try database.put(bytes("key\(number)"), bytes("value\(number)")) }
        abandon(database)
        database = try reopen(database, store)
        defer { try? database.close() }
        #expect(database.statistics().recovery.source == "region")
        for number in 0..<30_000 { #expect(try database.get(bytes("key\(number)")) == bytes("value\(number)")) }
    }

    /// A memtable large enough that its shards are read by several threads.
    @Test func largeMemtableIsRecoveredWholeOrRefused() throws {
        let store = TemporaryStore()
        var options = Options()
        options.dmSize = 256 << 20
        options.memtableSize = 64 << 20
        options.shards = 8
        let value = [UInt8](repeating: 7, count: 8000)
        func key(_ number: Int) -> [UInt8] { bytes("\(number % 10)-\(number)") }
        var database = try store.open(options)
        for number in 0..<5_000 { try database.put(key(number), value) }
        try database.deleteRange(key(0), key(0) + [0])
        try database.sync()
        abandon(database)
        database = try reopen(database, store, options)
        #expect(database.statistics().recovery.source == "region")
        for number in 0..<5_000 { #expect(try database.get(key(number)) == (number == 0 ? nil : value)) }

        // One byte of a value in the last shard: not data, so the log it is.
        let active = try #require(database.core.holder.current.memtables.first)
        let shard = try #require(active.map.shards.last { !$0.isEmpty })
        let entry = try #require(shard.entryWithValue(UInt32(RegionLayout.ShardRoot.firstEntry)))
        abandon(database)
        let place = UnsafeMutableRawPointer(mutating: try #require(entry.value.baseAddress))
        place.storeBytes(of: place.load(as: UInt8.self) ^ 1, as: UInt8.self)
        database = try reopen(database, store, options)
        defer { try? database.close() }
        #expect(database.statistics().recovery.source == "log")
        for number in 0..<5_000 { #expect(try database.get(key(number)) == (number == 0 ? nil : value)) }
    }

    @Test func lostRegionIsRecoveredFromTheLog() throws {
        let store = TemporaryStore()
        var database = try store.open()
        for number in 0..<30_000 { try database.put(bytes("key\(number)"), bytes("value\(number)")) }
        try database.sync()
        abandon(database)
        Region.unlink(storeID: try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage()).storeID)
        database = try reopen(database, store)
        defer { try? database.close() }
        #expect(database.statistics().recovery.source == "log")
        for number in 0..<30_000 { #expect(try database.get(bytes("key\(number)")) == bytes("value\(number)")) }
    }

    /// A shard must not be split below an entry that the same batch has already placed in it.
    @Test func descendingKeysInOneBatchSurviveShardSplits() throws {
        let store = TemporaryStore()
        let database = try store.open()
        defer { try? database.close() }
        func key(_ number: Int) -> [UInt8] { bytes(String(number + 1_000_000)) }
        let value = [UInt8](repeating: 7, count: 2000)
        for number in 0..<800 {
            let batch = WriteBatch()
            batch.put(key(number * 10 + 9), value)
            batch.put(key(number * 10 + 1), value)
            try database.write(batch)
            #expect(try database.get(key(number * 10 + 9)) == value)
        }
        try database.flush()
        for number in 0..<800 { #expect(try database.get(key(number * 10 + 9)) == value) }
    }

    /// The lock of the abandoned database goes with the object.
    private func reopen(_ database: consuming Database, _ store: TemporaryStore, _ options: Options = TemporaryStore.smallOptions)
        throws -> Database
    {
        _ = consume database
        return try store.open(options)
    }
}
