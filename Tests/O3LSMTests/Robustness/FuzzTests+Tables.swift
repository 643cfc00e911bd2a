import Testing

@testable import O3LSM

/// Tables of somebody who computes the checksums of what he has made up: what is behind them is refused, or read as
/// something else, and nobody reads past a block, or for ever.
extension FuzzTests {
    /// A table and the places of its blocks; each can be given other contents of the same length.
    private struct Forgery {
        let bytes: [UInt8]
        private(set) var blocks: [BlockHandle] = []

        init(_ bytes: [UInt8]) throws {
            self.bytes = bytes
            let file = MemoryReadableFile(bytes)
            let footer = try TableOpener(file).footer
            blocks = [footer.filter, footer.tombstones, footer.properties, footer.index].filter { !$0.isNone }
            try add(footer.index, levels: footer.indexLevels, of: file)
        }

        private mutating func add(_ index: BlockHandle, levels: UInt32, of file: MemoryReadableFile) throws {
            var cursor = BlockCursor()
            cursor.reset(try BlockDecoder.read(index, kind: .entries, from: file))
            try cursor.seekToFirst()
            while cursor.isValid {
                let handle = try #require(BlockHandle.decode(cursor.value))
                blocks.append(handle)
                if levels == 2 { try add(handle, levels: 1, of: file) }
                try cursor.next()
            }
        }

        /// The table with other contents in some of its blocks, or another footer, and sums that hold.
        func mutated(_ mutator: inout Mutator) -> [UInt8] {
            var bytes = self.bytes
            for _ in 0...mutator.below(2) {
                let choice = mutator.below(blocks.count + 1)
                guard choice < blocks.count else {
                    let start = bytes.count - TableFormat.footerBytes
                    // The version, the sum and the magic stay.
                    replace(start..<start + TableFormat.footerBytes - 16, in: &bytes, &mutator)
                    let sum = bytes[start...].withUnsafeBytes {
                        CRC32C.masked(CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0.prefix(TableFormat.footerBytes - 12))))
                    }
                    store(sum, at: start + TableFormat.footerBytes - 12, in: &bytes)
                    continue
                }
                let start = Int(blocks[choice].offset)
                let end = start + Int(blocks[choice].size)
                replace(start..<end, in: &bytes, &mutator)
                // Now and then what was packed is said to be plain, or the other way round.
                if mutator.below(50) == 0 { bytes[end] ^= 1 }
                let sum = bytes[start..<end].withUnsafeBytes { blockChecksum($0, bytes[end]) }
                store(sum, at: end + 1, in: &bytes)
            }
            return bytes
        }

        private func replace(_ range: Range<Int>, in bytes: inout [UInt8], _ mutator: inout Mutator) {
            var contents = mutator.mutation(of: [Array(bytes[range])])
            while contents.count < range.count { contents.append(UInt8(mutator.below(256))) }
            bytes.replaceSubrange(range, with: contents.prefix(range.count))
        }

        private func store(_ sum: UInt32, at offset: Int, in bytes: inout [UInt8]) {
            for byte in 0..<4 { bytes[offset + byte] = UInt8(truncatingIfNeeded: sum >> UInt32(8 * byte)) }
        }
    }

    @Test func tablesWhoseSumsHold() throws {
        var random = SeededRandom(3)
        var model = TableModel.random(300, using: &random)
        model.tombstones = [RangeTombstone(begin: Array("b".utf8), end: Array("bb".utf8), sequence: 78)]
        let forgeries = try Compression.allCases.flatMap { compression in
            try [256, 1 << 20].map { indexBlockSize in
                var options = TableOptions()
                options.blockSize = 512
                options.indexBlockSize = indexBlockSize
                options.compression = compression
                return try Forgery(model.build(options).bytes)
            }
        }
        let entries = model.entries
        var reached = 0
        fuzz("tables whose sums hold", [[0]]) { mutator, _ in
            let bytes = forgeries[mutator.below(forgeries.count)].mutated(&mutator)
            let cache = mutator.below(2) == 0 ? nil : BlockCache(capacity: 1 << 20)
            let table = try Table.open(MemoryReadableFile(bytes), number: 1, cache: cache)
            reached += 1
            /// Each way of reading is tried, whatever another one has met.
            func attempt(_ read: () throws(EngineError) -> Void) throws {
                do throws(EngineError) { try read() } catch {
                    guard case .corruption = error else { throw error }
                }
            }
            for _ in 0..<8 {
                let entry = entries[mutator.below(entries.count)]
                try attempt { () throws(EngineError) in
                    _ = try table.newest(entry.key, entry.trailer.sequence)
                    _ = try table.newest(entry.key + [0])
                }
            }
            let iterator = table.makeIterator()
            var steps = 0
            var sum = 0
            func walk(_ step: () throws(EngineError) -> Void) throws(EngineError) {
                while iterator.isValid, steps < 100_000 {
                    for byte in iterator.userKey { sum &+= Int(byte) }
                    for byte in iterator.value { sum &+= Int(byte) }
                    steps += 1
                    try step()
                }
            }
            let target = entries[mutator.below(entries.count)].internalKey
            try attempt { () throws(EngineError) in
                try iterator.seekToFirst()
                try walk { () throws(EngineError) in try iterator.next() }
            }
            try attempt { () throws(EngineError) in
                try iterator.seekToLast()
                try walk { () throws(EngineError) in try iterator.previous() }
            }
            try attempt { () throws(EngineError) in
                try iterator.seek(target)
                try walk { () throws(EngineError) in try iterator.next() }
            }
            try attempt { () throws(EngineError) in
                try iterator.seekBefore(target)
                try walk { () throws(EngineError) in try iterator.previous() }
            }
            guard steps < 100_000 else { throw Wrong(description: "it has no end") }
            if sum < 0 { print(sum) }
            try table.verify()
        }
        print("FuzzTests: \(reached) of the tables whose sums hold were opened")
        #expect(reached > 0)
    }
}
