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

            let back = try database.makeIterator()
            try back.seekToLast()
            for key in found.reversed() {
                #expect(back.isValid && Array(back.key) == key)
                try back.previous()
            }
            #expect(!back.isValid)
            let end = database.statistics().cache
            let readBack = end.hits + end.misses - after.hits - after.misses
            #expect(readBack < 100, "\(readBack) blocks backward")
        }
        try database.close()
    }

    /// Where a million keys were, deleted one by one or all at once, a cursor is at the other side after a few blocks, both
    /// ways.
    @Test(arguments: [false, true]) func aMillionDeletedKeysAreCrossedAtOnce(isRange: Bool) throws {
        let store = TemporaryStore("million\(isRange)")
        var options = TemporaryStore.smallOptions
        options.dmSize = 128 << 20
        options.memtableSize = 16 << 20
        // With compaction, tables that a range tombstone covers would be gone.
        options.disableAutomaticCompaction = isRange
        let database = try store.open(options)
        let (count, batchSize) = (1_000_000, 1000)
        func forEachKey(_ write: (WriteBatch, [UInt8]) -> Void) throws {
            for start in stride(from: 0, to: count, by: batchSize) {
                let batch = WriteBatch()
                for number in start..<start + batchSize { write(batch, Self.name("key", number)) }
                try database.write(batch)
            }
        }
        try database.put(Self.name("first", 0), [1])
        try database.put(Self.name("last", 0), [2])
        try forEachKey { $0.put($1, [3]) }
        try database.flush()
        if isRange {
            try database.deleteRange(Self.name("key", 0), Self.name("key", count))
        } else {
            try forEachKey { $0.delete($1) }
            try database.flush()
            try database.waitUntilSettled()
        }
        for isFlushed in isRange ? [false, true] : [true] {
            if isFlushed { try database.flush() }
            let before = database.statistics().cache
            let cursor = try database.makeIterator()
            try cursor.seek(Self.name("first", 0))
            try cursor.next()
            #expect(cursor.isValid && Array(cursor.key) == Self.name("last", 0))
            let middle = database.statistics().cache
            // The keys fill some thousand blocks.
            let read = middle.hits + middle.misses - before.hits - before.misses
            #expect(read < 100, "\(read) blocks")
            let back = try database.makeIterator()
            try back.seekToLast()
            try back.previous()
            #expect(back.isValid && Array(back.key) == Self.name("first", 0))
            try back.next()
            #expect(back.isValid && Array(back.key) == Self.name("last", 0))
            let after = database.statistics().cache
            let readBack = after.hits + after.misses - middle.hits - middle.misses
            #expect(readBack < 200, "\(readBack) blocks backward and forward again")
        }
        try database.close()
    }

    /// Counts the steps that a cursor takes through a source.
    private final class CountingIterator: InternalIterator {
        private let source: InternalIterator
        private(set) var steps = 0

        init(_ source: InternalIterator) { self.source = source }

        override var isValid: Bool { source.isValid }
        override var userKey: UnsafeRawBufferPointer { source.userKey }
        override var trailer: Trailer { source.trailer }
        override var value: UnsafeRawBufferPointer { source.value }
        override func seekToFirst() throws(EngineError) { try source.seekToFirst() }
        override func seekToLast() throws(EngineError) { try source.seekToLast() }
        override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
            try source.seek(userKey, trailer)
        }
        override func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
            try source.seekBefore(userKey, trailer)
        }
        override func next() throws(EngineError) {
            steps += 1
            try source.next()
        }
        override func previous() throws(EngineError) {
            steps += 1
            try source.previous()
        }
        override func skip(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
            try source.skip(to: userKey, upTo: sequence)
        }
        override func skipBack(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
            try source.skipBack(to: userKey, upTo: sequence)
        }
    }

    /// In a memtable, too, being written or sealed, also after a crash, entries that a newer range tombstone covers are
    /// passed over; and what comes later is found.
    @Test func memtablesAreJumpedThrough() throws {
        let store = TemporaryStore("jumpedmemtable")
        var options = TemporaryStore.smallOptions
        options.dmSize = 64 << 20
        options.memtableSize = 16 << 20
        options.shards = 4
        var database = try store.open(options)
        let count = 50_000
        for number in 0..<count {
            if number % 2 == 0 { try database.put(Self.name("key", number), [3]) } else { try database.delete(Self.name("key", number)) }
        }
        try database.put(Self.name("a", 0), [1])
        try database.put(Self.name("z", 0), [2])
        try database.deleteRange(Self.name("key", 0), Self.name("key", count))
        /// All keys forth and back, and how many steps that took.
        func walk(_ memtable: Memtable) throws -> (keys: [[UInt8]], steps: Int) {
            let source = CountingIterator(memtable.makeIterator())
            let cursor = DatabaseIterator(
                source: source, sequence: database.core.region.visibleSequence,
                tombstones: FragmentedTombstones(memtable.tombstones.tombstones(from: nil, to: nil)),
                lowerBound: nil, upperBound: nil, pins: [memtable])
            var (forth, back): ([[UInt8]], [[UInt8]]) = ([], [])
            try cursor.seekToFirst()
            while cursor.isValid {
                forth.append(Array(cursor.key))
                try cursor.next()
            }
            try cursor.seekToLast()
            while cursor.isValid {
                back.append(Array(cursor.key))
                try cursor.previous()
            }
            #expect(forth == back.reversed())
            return (forth, source.steps)
        }
        let two = [Self.name("a", 0), Self.name("z", 0)]
        for state in ["active", "recovered", "sealed"] {
            if state == "recovered" {
                abandon(database)
                database = try store.open(options)
            }
            let memtable = try #require(database.core.holder.current.memtables.first { !$0.isUntouched })
            if state == "sealed" {
                database.core.writes.sealIfRoom()
                try #require(memtable.lastSequence > 0)
            }
            let (keys, steps) = try walk(memtable)
            #expect(keys == two, "\(state)")
            #expect(steps < 200, "\(steps) steps, \(state)")
            if state == "active" {
                // What is written later is not passed over.
                try database.put(Self.name("key", count / 2), [4])
                #expect(try walk(memtable).keys == [two[0], Self.name("key", count / 2), two[1]])
                // Until it is covered itself.
                try database.deleteRange(Self.name("key", 0), Self.name("key", count))
            }
        }
        try database.close()
    }
}
