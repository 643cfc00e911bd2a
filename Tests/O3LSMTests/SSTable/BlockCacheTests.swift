import Dispatch
import Synchronization
import Testing

@testable import O3LSM

@Suite struct BlockCacheTests {
    /// A block whose contents say which key it belongs to.
    private func block(_ file: UInt64, _ offset: UInt64, bytes: Int = 4096) throws -> Block {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: max(bytes, 16), alignment: Block.alignment(.raw))
        memory.storeBytes(of: file, as: UInt64.self)
        memory.storeBytes(of: offset, toByteOffset: 8, as: UInt64.self)
        return try Block(
            adopting: memory,
            count: bytes,
            allocated: bytes,
            kind: .raw,
            file: "memory",
            fileOffset: offset
        )
    }

    private func isRight(_ block: Block, _ file: UInt64, _ offset: UInt64) -> Bool {
        block.withBytes { $0.load(as: UInt64.self) == file && $0.load(fromByteOffset: 8, as: UInt64.self) == offset }
    }

    @Test func keepsWhatItIsGiven() throws {
        let cache = BlockCache(capacity: 8 << 20)
        for offset in 0..<500 { _ = cache.insert(try block(1, UInt64(offset)), file: 1, offset: UInt64(offset)) }
        for offset in 0..<UInt64(500) {
            let found = try #require(cache.lookup(file: 1, offset: offset))
            #expect(isRight(found, 1, offset))
            #expect(cache.lookup(file: 2, offset: offset) == nil)
        }
        let statistics = cache.statistics
        #expect(statistics.hits == 500 && statistics.misses == 500 && statistics.blockCount == 500)
        #expect(statistics.usedBytes == 500 * (4096 + Block.overheadBytes))
    }

    @Test func firstInsertWins() throws {
        let cache = BlockCache(capacity: 1 << 20)
        let first = try block(1, 1)
        #expect(cache.insert(first, file: 1, offset: 1) === first)
        #expect(cache.insert(try block(1, 1), file: 1, offset: 1) === first)
    }

    @Test func budgetIsNeverExceeded() throws {
        for capacity in [0, 1000, 1 << 20, 9 << 20] {
            let seed = UInt64.random(in: 0 ... .max)
            print("seed \(seed)")
            var generator = SeededRandom(seed)
            let cache = BlockCache(capacity: capacity)
            for _ in 0..<6000 {
                let offset = UInt64.random(in: 0..<3000, using: &generator)
                if let found = cache.lookup(file: 1, offset: offset) {
                    #expect(isRight(found, 1, offset))
                    continue
                }
                var size = Int.random(in: 16...20_000, using: &generator)
                if Int.random(in: 0..<100, using: &generator) == 0 {
                    size = Int.random(in: 16...(6 << 20), using: &generator)
                }
                let inserted = cache.insert(try block(1, offset, bytes: size), file: 1, offset: offset)
                #expect(isRight(inserted, 1, offset))
                #expect(cache.statistics.usedBytes <= capacity)
            }
        }
    }

    /// A working set that is read again and again survives a scan of ten times the budget.
    @Test func scansDoNotWashTheCache() throws {
        let cache = BlockCache(capacity: 4 << 20)
        func read(_ file: UInt64, _ offset: UInt64) throws -> Bool {
            if cache.lookup(file: file, offset: offset) != nil { return true }
            _ = cache.insert(try block(file, offset), file: file, offset: offset)
            return false
        }
        for _ in 0..<5 { for offset in 0..<UInt64(300) { _ = try read(1, offset) } }
        for offset in 0..<UInt64(10_000) {
            _ = try read(2, offset)
            if offset % 20 == 0 { _ = try read(1, offset / 20 % 300) }
        }
        var survivors = 0
        for offset in 0..<UInt64(300) where cache.lookup(file: 1, offset: offset) != nil { survivors += 1 }
        #expect(survivors > 270)
    }

    /// What is pinned outlives a stream of ten times the budget, until it is let go; a part of the budget can be pinned.
    @Test func pinnedBlocksStay() throws {
        let capacity = 4 << 20
        let cache = BlockCache(capacity: capacity)
        func pin(_ file: UInt64, _ count: Int, isTopLevel: Bool) throws -> Int {
            var pinned = 0
            for offset in 0..<UInt64(count) {
                if cache.pin(try block(file, offset), file: file, offset: offset, isTopLevel: isTopLevel) != nil { pinned += 1 }
            }
            return pinned
        }
        func stream(_ file: UInt64) throws {
            for offset in 0..<UInt64(10_000) { _ = cache.insert(try block(file, offset), file: file, offset: offset) }
        }
        let charge = 4096 + Block.overheadBytes
        let others = try pin(1, 1000, isTopLevel: false)
        #expect(others == capacity / 4 / charge)
        let top = try pin(2, 1000, isTopLevel: true)
        #expect(top + others == capacity / 2 / charge)
        #expect(try pin(3, 10, isTopLevel: false) == 0)
        #expect(cache.statistics.pinnedBytes == (top + others) * charge)
        try stream(4)
        #expect(cache.statistics.usedBytes <= capacity)
        for (file, count) in [(UInt64(1), others), (2, top)] {
            for offset in 0..<UInt64(count) { #expect(isRight(try #require(cache.lookup(file: file, offset: offset)), file, offset)) }
        }
        // Pinned twice, let go once.
        #expect(cache.pin(try block(1, 0), file: 1, offset: 0, isTopLevel: false) != nil)
        for offset in 0..<UInt64(others) { cache.unpin(file: 1, offset: offset) }
        cache.removeAll(file: 2)
        #expect(cache.statistics.pinnedBytes == charge)
        try stream(5)
        #expect(cache.lookup(file: 1, offset: 0) != nil)
        for offset in 1..<UInt64(others) { #expect(cache.lookup(file: 1, offset: offset) == nil) }
        for offset in 0..<UInt64(top) { #expect(cache.lookup(file: 2, offset: offset) == nil) }
        cache.unpin(file: 1, offset: 0)
        // Nobody has pinned these any more.
        cache.unpin(file: 1, offset: 0)
        cache.unpin(file: 2, offset: 0)
        #expect(cache.statistics.pinnedBytes == 0)
    }

    /// Pins and their ends, insertions, look-ups and removals at random: what is pinned is there, and the budget holds.
    @Test func pinsAtRandom() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededRandom(seed)
        let capacity = 1 << 20
        let cache = BlockCache(capacity: capacity)
        var pins: [UInt64: [UInt64: Int]] = [:]
        for _ in 0..<30_000 {
            let file = UInt64.random(in: 0..<4, using: &generator)
            let offset = UInt64.random(in: 0..<200, using: &generator)
            let size = 1000 + Int(offset) * 37
            switch Int.random(in: 0..<100, using: &generator) {
            case 0:
                cache.removeAll(file: file)
                pins[file] = nil
            case 1..<30:
                if cache.pin(try block(file, offset, bytes: size), file: file, offset: offset, isTopLevel: offset < 100) != nil {
                    pins[file, default: [:]][offset, default: 0] += 1
                }
            case 30..<55:
                guard let count = pins[file]?[offset] else { continue }
                cache.unpin(file: file, offset: offset)
                pins[file]?[offset] = count == 1 ? nil : count - 1
            case 55..<80: _ = cache.lookup(file: file, offset: offset)
            default: _ = cache.insert(try block(file, offset, bytes: size), file: file, offset: offset)
            }
            if let pinned = pins[file]?.randomElement(using: &generator)?.key {
                #expect(isRight(try #require(cache.lookup(file: file, offset: pinned)), file, pinned))
            }
            let statistics = cache.statistics
            #expect(statistics.usedBytes <= capacity && statistics.pinnedBytes <= capacity / 2)
        }
        let bytes = pins.values.joined().reduce(0) { $0 + 1000 + Int($1.key) * 37 + Block.overheadBytes }
        #expect(cache.statistics.pinnedBytes == bytes)
    }

    /// What leaves and comes back soon stays.
    @Test func returningBlocksEnterTheMainQueue() throws {
        let cache = BlockCache(capacity: 1 << 20)
        _ = cache.insert(try block(1, 0), file: 1, offset: 0)
        for offset in 0..<UInt64(300) { _ = cache.insert(try block(2, offset), file: 2, offset: offset) }
        #expect(cache.lookup(file: 1, offset: 0) == nil)
        _ = cache.insert(try block(1, 0), file: 1, offset: 0)
        for offset in 300..<UInt64(600) { _ = cache.insert(try block(2, offset), file: 2, offset: offset) }
        #expect(cache.lookup(file: 1, offset: 0) != nil)
    }

    @Test func removedFilesLeaveNothing() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededRandom(seed)
        let cache = BlockCache(capacity: 1 << 20)
        for round in 0..<20 {
            for _ in 0..<500 {
                let (file, offset) = (
                    UInt64.random(in: 0..<5, using: &generator), UInt64.random(in: 0..<100, using: &generator)
                )
                if cache.lookup(file: file, offset: offset) == nil {
                    _ = cache.insert(try block(file, offset), file: file, offset: offset)
                }
            }
            let gone = UInt64(round % 5)
            let before = (0..<500).filter { cache.lookup(file: UInt64($0 / 100), offset: UInt64($0 % 100)) != nil }
            cache.removeAll(file: gone)
            for number in before {
                let (file, offset) = (UInt64(number / 100), UInt64(number % 100))
                #expect((cache.lookup(file: file, offset: offset) == nil) == (file == gone))
            }
            let kept = before.filter { $0 / 100 != Int(gone) }.count
            #expect(cache.statistics.blockCount == kept)
            #expect(cache.statistics.usedBytes == kept * (4096 + Block.overheadBytes))
        }
    }

    @Test func threadsSeeOnlyTheirBlocks() throws {
        let cache = BlockCache(capacity: 2 << 20)
        let wrong = Atomic<Int>(0)
        DispatchQueue.concurrentPerform(iterations: 4) { thread in
            var generator = SeededRandom(UInt64(thread))
            for _ in 0..<10_000 {
                let offset = UInt64.random(in: 0..<1000, using: &generator)
                if let found = cache.lookup(file: 3, offset: offset) {
                    if !isRight(found, 3, offset) { wrong.add(1, ordering: .relaxed) }
                } else if let made = try? block(3, offset) {
                    if !isRight(cache.insert(made, file: 3, offset: offset), 3, offset) {
                        wrong.add(1, ordering: .relaxed)
                    }
                }
            }
        }
        #expect(wrong.load(ordering: .relaxed) == 0)
        #expect(cache.statistics.usedBytes <= 2 << 20)
    }
}
