import Testing

@testable import O3LSM

/// Scans that could wash the cache or crawl do neither.
@Suite struct LongScanTests {
    private static func name(_ prefix: String, _ number: Int) -> [UInt8] { Array("\(prefix)\(number + 1_000_000)".utf8) }

    /// Names and attributes that are looked up again and again stay in the block cache when a file of twelve times the cache
    /// is read from its beginning to its end, by cursor or block by block.
    @Test(arguments: [true, false]) func aLargeFileLeavesHotMetadata(byCursor: Bool) throws {
        let store = TemporaryStore("streaming\(byCursor)")
        var options = TemporaryStore.smallOptions
        options.compression = .none
        options.cacheSize = 2 << 20
        let database = try store.open(options)
        let (names, blocks) = (4000, 6000)
        for number in 0..<names { try database.put(Self.name("name", number), [UInt8](repeating: 1, count: 100)) }
        for number in 0..<blocks { try database.put(Self.name("data", number), [UInt8](repeating: 2, count: 4096)) }
        try database.compact()
        // The cache knows blocks by their tables: none of them may be rewritten meanwhile.
        try database.waitUntilSettled()
        let tables = database.core.holder.current.version.levels.joined().map(\.number)
        func readNames() throws { for number in 0..<names { _ = try database.get(Self.name("name", number)) } }
        for _ in 0..<4 { try readNames() }
        if byCursor {
            let cursor = try database.makeIterator()
            try cursor.seek(Self.name("data", 0))
            for _ in 0..<blocks { try cursor.next() }
        } else {
            for number in 0..<blocks { _ = try database.get(Self.name("data", number)) }
        }
        let before = database.statistics().cache
        try readNames()
        let after = database.statistics().cache
        #expect(database.core.holder.current.version.levels.joined().map(\.number) == tables)
        let (hits, misses) = (after.hits - before.hits, after.misses - before.misses)
        // 110 blocks of names: most of them are still there.
        #expect(misses <= 11, "\(misses) misses, \(hits) hits")
        try database.close()
    }

    /// Of keys that were deleted one by one, tables are compacted by themselves; then a scan over where they were reads next
    /// to nothing.
    @Test func tablesOfTombstonesGoAway() throws {
        let store = TemporaryStore("tombstones")
        let database = try store.open()
        let count = 50_000
        for number in 0..<count { try database.put(Self.name("key", number), [UInt8](repeating: 3, count: 40)) }
        try database.put(Self.name("last", 0), [4])
        try database.compact()
        for number in 0..<count { try database.delete(Self.name("key", number)) }
        try database.flush()
        try database.waitUntilSettled()
        let left = database.core.holder.current.version.levels.joined().reduce(UInt64(0)) { $0 + $1.entryCount }
        #expect(left < UInt64(count / 10), "\(left) entries are left of \(count) keys and their tombstones")
        let cursor = try database.makeIterator()
        try cursor.seekToFirst()
        #expect(cursor.isValid && Array(cursor.key) == Self.name("last", 0))
        try database.close()
    }

    /// A scan passes over what a range tombstone covers without reading it, and over nothing that was written later.
    @Test func rangeTombstonesAreJumpedOver() throws {
        let store = TemporaryStore("jumped")
        var options = TemporaryStore.smallOptions
        options.disableAutomaticCompaction = true
        let database = try store.open(options)
        let count = 50_000
        for number in 0..<count { try database.put(Self.name("key", number), [UInt8](repeating: 3, count: 40)) }
        try database.put(Self.name("last", 0), [4])
        try database.compact()
        try database.deleteRange(Self.name("key", 10), Self.name("key", count - 10))
        let kept = [100, 25_000, 49_000]
        for number in kept { try database.put(Self.name("key", number), [5]) }
        for isFlushed in [false, true] {
            if isFlushed { try database.flush() }
            let before = database.statistics().cache
            let cursor = try database.makeIterator()
            try cursor.seekToFirst()
            var found: [[UInt8]] = []
            while cursor.isValid {
                found.append(Array(cursor.key))
                try cursor.next()
            }
            let numbers = Array(0..<10) + kept + Array(count - 10..<count)
            #expect(found == numbers.map { Self.name("key", $0) } + [Self.name("last", 0)])
            let after = database.statistics().cache
            // The keys fill a thousand blocks.
            let read = after.hits + after.misses - before.hits - before.misses
            #expect(read < 100, "\(read) blocks")
        }
        try database.close()
    }
}
