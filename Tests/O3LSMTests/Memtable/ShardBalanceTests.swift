import Testing

@testable import O3LSM

/// Whatever the load, the shards of a memtable are balanced once two memtables have been learned from.
@Suite struct ShardBalanceTests {
    enum Load: String, CaseIterable, Sendable {
        case sequential, random, skewed, fileSystem
    }

    @Test(arguments: Load.allCases) func shardsAreBalancedAfterTwoMemtables(load: Load) throws {
        let store = TemporaryStore("balance\(load.rawValue)")
        var options = TemporaryStore.smallOptions
        options.dmSize = 64 << 20
        options.memtableSize = 4 << 20
        options.shards = 4
        let database = try store.open(options)
        defer { try? database.close() }
        var random = SeededRandom(11)
        var number = 0
        var measured = 0
        // Four memtables: the shards of the last two are looked at while they are full.
        for _ in 0..<4 {
            let first = database.core.writes.active
            while database.core.writes.active === first {
                let (key, value) = entry(load, number, &random)
                try database.put(key, value)
                number += 1
            }
            let sizes = first.map.shards.filter { !$0.isEmpty }.map(\.reservedBytes)
            measured += 1
            guard measured > 2 else { continue }
            let largest = try #require(sizes.max())
            #expect(largest <= 2 * options.memtableSize / options.shards, "\(load): \(sizes)")
            #expect(sizes.count >= 2, "\(load): \(sizes)")
        }
    }

    private func entry(_ load: Load, _ number: Int, _ random: inout SeededRandom) -> ([UInt8], [UInt8]) {
        func key(_ prefix: String, _ value: UInt64) -> [UInt8] {
            Array(prefix.utf8) + withUnsafeBytes(of: value.bigEndian) { Array($0) }
        }
        let small = [UInt8](repeating: 1, count: 100)
        switch load {
        case .sequential: return (key("", UInt64(number)), small)
        case .random: return (key("", random.next()), small)
        case .skewed:
            // Most of the writes go to a small part of the keys.
            let spread: UInt64 = random.below(10) < 8 ? 5_000 : 1_000_000
            return (key("", random.next() % spread), small)
        case .fileSystem:
            // A file that is written from front to back, and the rows of many small ones.
            switch number % 4 {
            case 0: return (key("i", UInt64(number)), small)
            case 1: return (key("d", random.next() % 50) + Array("name\(number)".utf8), [1, 2, 3])
            default: return (key("b", 7) + key("", UInt64(number)), [UInt8](repeating: 2, count: 4096))
            }
        }
    }
}
