import Testing

@testable import O3LSM

/// What goes into a table comes out of it, by every way in.
@Suite struct TableRoundTripTests {
    static let shapes: [TableOptions] = {
        var shapes: [TableOptions] = []
        for compression in Compression.allCases {
            for (block, interval, index) in [(1024, 16, 1 << 20), (1024, 1, 256), (4096, 4, 128), (16384, 16, 1 << 20)]
            {
                var options = TableOptions()
                options.blockSize = block
                options.restartInterval = interval
                options.indexBlockSize = index
                options.compression = compression
                shapes.append(options)
            }
        }
        return shapes
    }()

    @Test(arguments: 0..<8) func everyWayIn(_ shape: Int) throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed), shape \(shape)")
        var generator = SeededRandom(seed)
        let model = TableModel.random(1500, using: &generator)
        let options = Self.shapes[shape]
        let (bytes, metadata) = try model.build(options)
        let stated = try #require(metadata)
        #expect(stated.size == UInt64(bytes.count))
        #expect(stated.smallest == model.entries.first?.internalKey)
        #expect(stated.largest == model.entries.last?.internalKey)
        #expect(stated.entryCount == UInt64(model.entries.count))

        for cache in [nil, BlockCache(capacity: 64 << 20), BlockCache(capacity: 16 << 10)] {
            let table = try Table.open(MemoryReadableFile(bytes), number: 7, cache: cache)
            if options.indexBlockSize < 1024 { #expect(table.footer.indexLevels == 2) }
            try table.verify()
            try checkScans(table, model, fillCache: Bool.random(using: &generator))
            try checkSeeks(table, model, &generator)
            try checkLookups(table, model, &generator)
        }
    }

    private func checkScans(_ table: Table, _ model: TableModel, fillCache: Bool) throws {
        for readAhead in [0, 1 << 20] {
            let iterator = table.makeIterator(fillCache: fillCache, readAhead: readAhead)
            try iterator.seekToFirst()
            for entry in model.entries {
                #expect(iterator.tableEntry == entry)
                try iterator.next()
            }
            #expect(!iterator.isValid)
            try iterator.seekToLast()
            for entry in model.entries.reversed() {
                #expect(iterator.tableEntry == entry)
                try iterator.previous()
            }
            #expect(!iterator.isValid)
        }
    }

    private func checkSeeks(_ table: Table, _ model: TableModel, _ generator: inout SeededRandom) throws {
        let iterator = table.makeIterator()
        for _ in 0..<1500 {
            let target = target(model, &generator)
            let index = model.firstIndex(atOrAfter: target)
            try iterator.seek(target)
            #expect(iterator.tableEntry == (index < model.entries.count ? model.entries[index] : nil))
            try walk(iterator, model, from: index, &generator)
            try iterator.seekBefore(target)
            #expect(iterator.tableEntry == (index > 0 ? model.entries[index - 1] : nil))
            try walk(iterator, model, from: index - 1, &generator)
        }
    }

    /// A few steps in random directions from the entry at `start`.
    private func walk(
        _ iterator: InternalIterator,
        _ model: TableModel,
        from start: Int,
        _ generator: inout SeededRandom
    ) throws {
        var index = start
        for _ in 0..<Int.random(in: 0...5, using: &generator) {
            guard model.entries.indices.contains(index) else { return }
            if Bool.random(using: &generator) {
                try iterator.next()
                index += 1
            } else {
                try iterator.previous()
                index -= 1
            }
            #expect(iterator.tableEntry == (model.entries.indices.contains(index) ? model.entries[index] : nil))
        }
    }

    private func checkLookups(_ table: Table, _ model: TableModel, _ generator: inout SeededRandom) throws {
        for entry in model.entries {
            #expect(try table.newest(entry.key, entry.trailer.sequence) == entry)
            #expect(try table.newest(entry.key) == model.newest(entry.key, maximumSequenceNumber))
        }
        for _ in 0..<1000 {
            let target = target(model, &generator)
            let sequence = target.trailer.sequence
            #expect(try table.newest(target.userKey, sequence) == model.newest(target.userKey, sequence))
        }
    }

    /// A key of the model or near one.
    private func target(_ model: TableModel, _ generator: inout SeededRandom) -> InternalKey {
        let index = Int.random(in: model.entries.indices, using: &generator)
        var key = model.entries[index].internalKey
        switch Int.random(in: 0..<8, using: &generator) {
        case 0: key.trailer = .first
        case 1: key.trailer = .last
        case 2: key.trailer = Trailer(rawValue: key.trailer.rawValue &+ 1)
        case 3: key.trailer = Trailer(rawValue: key.trailer.rawValue &- 1)
        case 4: key.userKey.append(UInt8.random(in: 0...255, using: &generator))
        case 5: key.userKey = Array(key.userKey.prefix(Int.random(in: 0...key.userKey.count, using: &generator)))
        case 6:
            let place = Int.random(in: key.userKey.indices, using: &generator)
            key.userKey[place] = key.userKey[place] &+ UInt8.random(in: 0...2, using: &generator) &- 1
        default: break
        }
        return key
    }

    @Test func tableOfOneEntry() throws {
        let entry = TableEntry(key: [1], trailer: Trailer(sequence: 9, kind: .put), value: [])
        let (bytes, metadata) = try TableModel(entries: [entry]).build(TableOptions())
        #expect(metadata?.smallestSequence == 9 && metadata?.largestSequence == 9)
        let table = try Table.open(MemoryReadableFile(bytes), number: 1, cache: nil)
        try table.verify()
        #expect(try table.newest([1]) == entry)
        #expect(try table.newest([1], 8) == nil)
        #expect(try table.newest([2]) == nil)
    }

    @Test func nothingMakesNoTable() throws {
        let (bytes, metadata) = try TableModel(entries: []).build(TableOptions())
        #expect(metadata == nil)
        #expect(bytes.isEmpty)
    }

    @Test func tombstonesWidenTheBounds() throws {
        let entry = TableEntry(key: [5], trailer: Trailer(sequence: 9, kind: .put), value: [1])
        let tombstones = [
            RangeTombstone(begin: [5], end: [8], sequence: 3), RangeTombstone(begin: [2], end: [4], sequence: 20),
            RangeTombstone(begin: [2], end: [3], sequence: 21), RangeTombstone(begin: [9], end: [9], sequence: 50),
        ]
        let (bytes, metadata) = try TableModel(entries: [entry], tombstones: tombstones).build(TableOptions())
        let stated = try #require(metadata)
        #expect(stated.smallest == InternalKey(userKey: [2], trailer: Trailer(sequence: 21, kind: .rangeDelete)))
        #expect(stated.largest == InternalKey(userKey: [8], trailer: .first))
        #expect(stated.smallestSequence == 3 && stated.largestSequence == 21)
        #expect(stated.rangeTombstoneCount == 3 && stated.entryCount == 1)
        let table = try Table.open(MemoryReadableFile(bytes), number: 1, cache: nil)
        try table.verify()
        #expect(table.metadata().largest == stated.largest)
        for (key, expected) in [([UInt8]([2]), UInt64(21)), ([3], 20), ([4], 0), ([5], 3), ([7, 9], 3), ([8], 0)] {
            #expect(key.withUnsafeBytes { table.rangeTombstones.newestCovering($0, upTo: 100) } == expected)
        }
    }

    @Test func tombstonesAloneMakeATable() throws {
        let model = TableModel(entries: [], tombstones: [RangeTombstone(begin: [1], end: [2], sequence: 4)])
        let (bytes, metadata) = try model.build(TableOptions())
        #expect(metadata?.entryCount == 0 && metadata?.rangeTombstoneCount == 1)
        let table = try Table.open(MemoryReadableFile(bytes), number: 1, cache: BlockCache(capacity: 1 << 20))
        try table.verify()
        #expect(try table.newest([1]) == nil)
        let iterator = table.makeIterator()
        try iterator.seekToFirst()
        #expect(!iterator.isValid)
        try iterator.seekBefore(InternalKey(userKey: [9], trailer: .last))
        #expect(!iterator.isValid)
        #expect([UInt8]([1]).withUnsafeBytes { table.approximateOffset($0) } == table.properties.dataEnd)
    }

    @Test func entriesOutOfOrderAreRefused() throws {
        func put(_ key: [UInt8], _ sequence: UInt64) -> TableEntry {
            TableEntry(key: key, trailer: Trailer(sequence: sequence, kind: .put), value: [])
        }
        for second in [put([5], 8), put([5], 9), put([4, 9], 7), put([], 7)] {
            #expect(throws: EngineError.self) { try TableModel(entries: [put([5], 8), second]).build(TableOptions()) }
        }
        #expect(throws: EngineError.self) {
            let entry = TableEntry(key: [1], trailer: Trailer(sequence: 1, kind: .rangeDelete), value: [2])
            return try TableModel(entries: [entry]).build(TableOptions())
        }
    }

    @Test func approximateOffsetsGrowWithKeys() throws {
        var generator = SeededRandom(3)
        let model = TableModel.random(2000, using: &generator)
        let (bytes, _) = try model.build(Self.shapes[1])
        let table = try Table.open(MemoryReadableFile(bytes), number: 1, cache: nil)
        var last: UInt64 = 0
        for entry in model.entries {
            let offset = entry.key.withUnsafeBytes { table.approximateOffset($0) }
            #expect(offset >= last)
            last = offset
        }
        #expect(last > table.properties.dataEnd / 2)
    }
}
