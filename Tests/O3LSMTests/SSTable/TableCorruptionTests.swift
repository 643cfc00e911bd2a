import Testing

@testable import O3LSM

/// Whatever happens to the bytes of a table, a reader reports it or is right.
@Suite struct TableCorruptionTests {
    /// A small table with everything a table can have.
    private func sample(_ compression: Compression) throws -> (model: TableModel, bytes: [UInt8]) {
        var generator = SeededRandom(11)
        var model = TableModel(entries: [])
        for number in 0..<30 {
            let key = Array("directory/\(number / 7)/file \(number)".utf8)
            for version in 0..<(number % 10 == 0 ? 3 : 1) {
                let trailer = Trailer(sequence: UInt64(900 - version), kind: number % 6 == 5 ? .delete : .put)
                let value = trailer.kind == .put ? generator.bytes(number, alphabet: 0...1) : []
                model.entries.append(TableEntry(key: key, trailer: trailer, value: value))
            }
        }
        model.entries.sort { $0.internalKey < $1.internalKey }
        model.tombstones = [
            RangeTombstone(begin: Array("directory/3".utf8), end: Array("directory/5".utf8), sequence: 77),
            RangeTombstone(begin: Array("e".utf8), end: Array("f".utf8), sequence: 78),
        ]
        var options = TableOptions()
        options.blockSize = 256
        options.indexBlockSize = 64
        options.compression = compression
        let bytes = try model.build(options).bytes
        #expect(try Table.open(MemoryReadableFile(bytes), number: 1, cache: nil).footer.indexLevels == 2)
        return (model, bytes)
    }

    /// Reads the table in every way. False when some read was refused; wrong data is recorded.
    private func readsAreRight(_ bytes: [UInt8], _ model: TableModel, cache: BlockCache?) -> Bool {
        do throws(EngineError) {
            let table = try Table.open(MemoryReadableFile(bytes), number: 1, cache: cache)
            #expect(table.rangeTombstones.tombstones().count == 2)
            var isRight = true
            let iterator = table.makeIterator(fillCache: cache != nil)
            isRight = scanIsRight(iterator, model.entries) && isRight
            isRight = scanIsRight(iterator, model.entries, backward: true) && isRight
            for entry in model.entries { isRight = lookupIsRight(table, entry, model) && isRight }
            do throws(EngineError) { try table.verify() } catch { isRight = isExpected(error) }
            return isRight
        } catch {
            return isExpected(error)
        }
    }

    private func scanIsRight(_ iterator: InternalIterator, _ entries: [TableEntry], backward: Bool = false) -> Bool {
        do throws(EngineError) {
            if backward { try iterator.seekToLast() } else { try iterator.seekToFirst() }
            for index in entries.indices {
                let expected = entries[backward ? entries.count - 1 - index : index]
                // Cheaper than an expectation, of which there would be millions.
                if iterator.tableEntry != expected { Issue.record("wrong data instead of \(expected)") }
                if backward { try iterator.previous() } else { try iterator.next() }
            }
            #expect(!iterator.isValid)
            return true
        } catch {
            #expect(!iterator.isValid)
            return isExpected(error)
        }
    }

    private func lookupIsRight(_ table: Table, _ entry: TableEntry, _ model: TableModel) -> Bool {
        do throws(EngineError) {
            let found = try table.newest(entry.key)
            if found != model.newest(entry.key, maximumSequenceNumber) { Issue.record("wrong data for \(entry)") }
            return true
        } catch {
            return isExpected(error)
        }
    }

    /// Always false: the read was refused.
    private func isExpected(_ error: EngineError) -> Bool {
        switch error {
        case .corruption, .unsupportedFormat: break
        default: Issue.record("unexpected error: \(error)")
        }
        return false
    }

    @Test(arguments: Compression.allCases) func everyFlippedByteIsDetected(_ compression: Compression) throws {
        let (model, bytes) = try sample(compression)
        #expect(readsAreRight(bytes, model, cache: nil))
        for offset in bytes.indices {
            for mask in [UInt8(1) << UInt8(offset % 8), 0xff] {
                var damaged = bytes
                damaged[offset] ^= mask
                let cache = offset % 2 == 0 ? nil : BlockCache(capacity: 1 << 20)
                #expect(!readsAreRight(damaged, model, cache: cache), "the flip at \(offset) went unseen")
            }
        }
    }

    @Test(arguments: Compression.allCases) func everyTruncationIsDetected(_ compression: Compression) throws {
        let (_, bytes) = try sample(compression)
        for length in bytes.indices {
            #expect(throws: EngineError.self, "length \(length)") {
                try Table.open(MemoryReadableFile(Array(bytes.prefix(length))), number: 1, cache: nil)
            }
        }
    }

    /// The damage is in one block: the others stay readable.
    @Test func damageIsContained() throws {
        let (model, bytes) = try sample(.none)
        var damaged = bytes
        damaged[TableFormat.headerBytes + 3] ^= 1
        let table = try Table.open(MemoryReadableFile(damaged), number: 1, cache: nil)
        let iterator = table.makeIterator()
        #expect(throws: EngineError.self) { try iterator.seekToFirst() }
        try iterator.seekToLast()
        #expect(iterator.tableEntry == model.entries.last)
        #expect(throws: EngineError.self) { try table.newest(model.entries[0].key) }
        #expect(try table.newest(model.entries[31].key) == model.newest(model.entries[31].key, maximumSequenceNumber))
    }

    /// A filter that cannot be read costs time, not answers; `verify` tells.
    @Test func damagedFilterIsIgnored() throws {
        let (model, bytes) = try sample(.none)
        let intact = try Table.open(MemoryReadableFile(bytes), number: 1, cache: nil)
        var damaged = bytes
        damaged[Int(intact.footer.filter.offset) + 5] ^= 1
        let table = try Table.open(MemoryReadableFile(damaged), number: 1, cache: BlockCache(capacity: 1 << 20))
        for entry in model.entries {
            #expect(try table.newest(entry.key) == model.newest(entry.key, maximumSequenceNumber))
        }
        #expect(throws: EngineError.self) { try table.verify() }
    }

    /// Blocks whose checksums are right and whose contents are not: a reader may refuse or answer
    /// nonsense, but it stays within its memory (what an address sanitizer watches).
    @Test func forgedBlocksStayWithinBounds() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededRandom(seed)
        let (model, bytes) = try sample(.none)
        let intact = try Table.open(MemoryReadableFile(bytes), number: 1, cache: nil)
        let footer = intact.footer
        var handles = [footer.filter, footer.tombstones, footer.properties, footer.index]
        let index = intact.makeIterator()
        try index.seekToFirst()
        var cursor = IndexCursor()
        try cursor.seekToFirst(in: intact, fillCache: false)
        while cursor.isValid {
            handles.append(try cursor.handle(in: intact))
            try cursor.next(in: intact, fillCache: false)
        }
        for _ in 0..<1500 {
            let handle = handles.randomElement(using: &generator) ?? footer.index
            var forged = bytes
            for _ in 0..<Int.random(in: 1...3, using: &generator) {
                let place = Int(handle.offset) + Int.random(in: 0..<Int(handle.size), using: &generator)
                forged[place] =
                    [0, 1, 0x7f, 0x80, 0xff, UInt8.random(in: 0...255, using: &generator)]
                    .randomElement(using: &generator) ?? 0
            }
            let end = Int(handle.offset + handle.size)
            let sum = forged.withUnsafeBytes {
                blockChecksum(UnsafeRawBufferPointer(rebasing: $0[Int(handle.offset)..<end]), forged[end])
            }
            withUnsafeBytes(of: sum.littleEndian) { forged.replaceSubrange(end + 1..<end + 5, with: $0) }
            touchEverything(forged, model)
        }
    }

    private func touchEverything(_ bytes: [UInt8], _ model: TableModel) {
        guard let table = try? Table.open(MemoryReadableFile(bytes), number: 1, cache: BlockCache(capacity: 1 << 20))
        else { return }
        try? table.verify()
        let iterator = table.makeIterator()
        for entry in model.entries {
            _ = try? table.newest(entry.key)
            try? iterator.seek(entry.internalKey)
            if iterator.isValid { try? iterator.previous() }
            try? iterator.seekBefore(entry.internalKey)
            if iterator.isValid { try? iterator.next() }
        }
        var steps = 0
        try? iterator.seekToLast()
        while iterator.isValid, steps < 500 {
            steps += 1
            guard (try? iterator.previous()) != nil else { break }
        }
    }

    @Test func laterVersionIsRefused() throws {
        let (_, bytes) = try sample(.none)
        var later = bytes
        later[8] = 2
        let sum = later.withUnsafeBytes { CRC32C.masked(CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[0..<12]))) }
        withUnsafeBytes(of: sum.littleEndian) { later.replaceSubrange(12..<16, with: $0) }
        #expect(throws: EngineError.unsupportedFormat(file: "memory", found: 2, supported: 1)) {
            try Table.open(MemoryReadableFile(later), number: 1, cache: nil)
        }
    }
}
