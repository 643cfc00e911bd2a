import Dispatch
import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// Tables in real files.
@Suite struct TableCacheTests {
    private struct Store {
        let directory: TemporaryDirectory
        let layout: StoreLayout
        let storage: FaultyStorage
        var files: [FileMetadata] = []

        /// Table n holds the keys (n, 0 … 99), each with the value n.
        init(tables: Int) throws {
            directory = try TemporaryDirectory()
            layout = StoreLayout(root: directory.path)
            storage = FaultyStorage()
            try storage.createDirectory(layout.tableDirectory)
            for number in 1...UInt64(tables) {
                let file = try storage.create(layout.table(number))
                let builder = TableBuilder(file: file, number: number, options: TableOptions())
                for low in 0..<UInt8(100) {
                    try builder.add(
                        TableEntry(
                            key: [UInt8(number), low],
                            trailer: Trailer(sequence: 1, kind: .put),
                            value: [UInt8(number)]
                        )
                    )
                }
                files.append(try #require(try builder.finish()))
                try file.close()
            }
        }

        func cache(capacity: Int) -> TableCache {
            TableCache(storage: storage, layout: layout, capacity: capacity, blockCache: BlockCache(capacity: 8 << 20))
        }
    }

    @Test func opensOnceAndStaysBounded() throws {
        let store = try Store(tables: 60)
        let cache = store.cache(capacity: 100)
        for _ in 0..<3 {
            for file in store.files {
                let table = try cache.table(file)
                #expect(try table.newest([UInt8(file.number), 5])?.value == [UInt8(file.number)])
                #expect(table.metadata().smallest == file.smallest && table.metadata().largest == file.largest)
            }
        }
        #expect(store.storage.calls(.open) == 60)
        #expect(cache.openCount == 60)
        let other = try Store(tables: 60)
        let small = other.cache(capacity: 16)
        for _ in 0..<3 { for file in other.files { _ = try small.table(file) } }
        #expect(small.openCount == 16)
    }

    /// Those that stay with their metadata close with it; others when they are evicted and nobody reads them.
    @Test func tablesCloseWhenLetGo() throws {
        var store = try Store(tables: 60)
        let cache = store.cache(capacity: 16)
        for file in store.files { _ = try cache.table(file) }
        weak var resident: Table?
        weak var evicted: Table?
        do {
            let (first, last) = (try cache.table(store.files[0]), try cache.table(store.files[59]))
            (resident, evicted) = (first, last)
            #expect(store.files[0].table.unmanaged != nil && store.files[59].table.unmanaged == nil)
            cache.evict(number: 60)
            cache.evict(number: 77)
            store.files.remove(at: 59)
            store.files.remove(at: 0)
            #expect(try first.newest([1, 1])?.value == [1])
            #expect(try last.newest([60, 1])?.value == [60])
        }
        #expect(resident == nil && evicted == nil)
        #expect(cache.openCount == 14)
        #expect(cache.blockCache.statistics.pinnedBytes > 0)
        store.files = []
        for number in 1...60 { cache.evict(number: UInt64(number)) }
        #expect(cache.openCount == 0)
        #expect(cache.blockCache.statistics.pinnedBytes == 0)
    }

    /// A look-up finds filter and index of an open table without asking the cache, and looks for a data block only.
    @Test func filterAndIndexArePinned() throws {
        let store = try Store(tables: 1)
        let cache = store.cache(capacity: 16)
        let table = try cache.table(store.files[0])
        _ = try table.newest([1, 1])
        let before = cache.blockCache.statistics
        #expect(before.pinnedBytes > 0)
        for low in 0..<UInt8(100) { #expect(try table.newest([1, low]) != nil) }
        let after = cache.blockCache.statistics
        #expect(after.hits == before.hits + 100 && after.misses == before.misses)
    }

    @Test func faultsSurfaceAsTypedErrors() throws {
        let store = try Store(tables: 1)
        let cache = store.cache(capacity: 16)
        store.storage.fail(.open, code: EMFILE)
        #expect(throws: EngineError.io(operation: "open", path: store.layout.table(1), code: EMFILE)) {
            try cache.table(store.files[0])
        }
        store.storage.fail(.read, code: EIO)
        #expect(throws: EngineError.io(operation: "read", path: store.layout.table(1), code: EIO)) {
            try cache.table(store.files[0])
        }
        store.storage.cutShort(.read)
        #expect(throws: EngineError.self) { try cache.table(store.files[0]) }
        let table = try cache.table(store.files[0])
        store.storage.fail(.read, times: .max)
        #expect(throws: EngineError.self) { try table.newest([1, 1]) }
        #expect(throws: EngineError.self) { try table.makeIterator().seekToFirst() }
        store.storage.heal()
        #expect(try table.newest([1, 1])?.value == [1])
    }

    /// A scan reads in large pieces, whatever the size of the blocks, and leaves the cache alone if told to.
    @Test func scansReadAhead() throws {
        let directory = try TemporaryDirectory()
        let storage = FaultyStorage()
        let file = try storage.create(directory.path + "/t")
        let builder = TableBuilder(file: file, number: 1, options: TableOptions())
        var generator = SeededRandom(6)
        for number in 0..<UInt64(8000) {
            let key = withUnsafeBytes(of: number.bigEndian, Array.init)
            let value = generator.bytes(1000)
            try builder.add(TableEntry(key: key, trailer: Trailer(sequence: 1, kind: .put), value: value))
        }
        _ = try builder.finish()
        try file.close()
        let cache = BlockCache(capacity: 64 << 20)
        let table = try Table.open(try storage.openForReading(directory.path + "/t"), number: 1, cache: cache)
        for isForward in [true, false] {
            for (readAhead, mostReads) in [(0, 22), (1 << 20, 14)] {
                let before = storage.calls(.read)
                let iterator = table.makeIterator(fillCache: false, readAhead: readAhead)
                var count = 0
                if isForward { try iterator.seekToFirst() } else { try iterator.seekToLast() }
                while iterator.isValid {
                    count += 1
                    if isForward { try iterator.next() } else { try iterator.previous() }
                }
                #expect(count == 8000)
                #expect(storage.calls(.read) - before <= mostReads, "forward \(isForward), from \(readAhead)")
            }
        }
        #expect(cache.statistics.blockCount == 1)
        let iterator = table.makeIterator()
        try iterator.seekToFirst()
        while iterator.isValid { try iterator.next() }
        #expect(UInt64(cache.statistics.blockCount) == table.properties.dataBlockCount + 1)
    }

    @Test func wrongSizeIsCorruption() throws {
        let store = try Store(tables: 1)
        let cache = store.cache(capacity: 16)
        let file = store.files[0]
        let other = FileMetadata(
            number: 1,
            size: file.size + 1,
            smallest: file.smallest,
            largest: file.largest,
            smallestSequence: 1,
            largestSequence: 1,
            entryCount: 100,
            deletionCount: 0,
            rangeTombstoneCount: 0
        )
        #expect(throws: EngineError.self) { try cache.table(other) }
    }

    /// A builder passes on what its file throws, wherever it happens.
    @Test func builderReportsEveryFailure() throws {
        let directory = try TemporaryDirectory()
        let storage = FaultyStorage()
        var call = 1
        var failures = 0
        while true {
            storage.heal()
            storage.fail(.append, at: call, code: ENOSPC)
            let file = try storage.create(directory.path + "/t")
            var generator = SeededRandom(5)
            let builder = TableBuilder(file: file, number: 1, options: TableOptions())
            do throws(EngineError) {
                for number in 0..<UInt64(40) {
                    let key = withUnsafeBytes(of: number.bigEndian, Array.init)
                    let entry = TableEntry(
                        key: key,
                        trailer: Trailer(sequence: 1, kind: .put),
                        value: generator.bytes(3000)
                    )
                    try builder.add(entry)
                }
                _ = try builder.finish()
                break
            } catch {
                #expect(error.posixCode == ENOSPC)
                failures += 1
            }
            call += 1
        }
        #expect(failures > 10)
        storage.heal()
        storage.fail(.sync)
        let builder = TableBuilder(file: try storage.create(directory.path + "/t"), number: 1, options: TableOptions())
        try builder.add(TableEntry(key: [1], trailer: Trailer(sequence: 1, kind: .put), value: []))
        #expect(throws: EngineError.self) { try builder.finish() }
    }

    @Test func concurrentReadersAgree() throws {
        let store = try Store(tables: 20)
        let cache = store.cache(capacity: 16)
        let wrong = Atomic<Int>(0)
        let files = store.files
        DispatchQueue.concurrentPerform(iterations: 4) { thread in
            var generator = SeededRandom(UInt64(thread))
            for _ in 0..<2000 {
                let file = files[Int.random(in: files.indices, using: &generator)]
                let low = UInt8.random(in: 0..<120, using: &generator)
                do throws(EngineError) {
                    let table = try cache.table(file)
                    let value = try table.newest([UInt8(file.number), low])?.value
                    if value != (low < 100 ? [UInt8(file.number)] : nil) { wrong.add(1, ordering: .relaxed) }
                    let iterator = table.makeIterator()
                    try iterator.seek(InternalKey(userKey: [UInt8(file.number), low], trailer: .first))
                    if iterator.isValid != (low < 100) { wrong.add(1, ordering: .relaxed) }
                } catch {
                    wrong.add(1, ordering: .relaxed)
                }
            }
        }
        #expect(wrong.load(ordering: .relaxed) == 0)
    }
}
