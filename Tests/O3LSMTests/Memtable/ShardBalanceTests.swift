import Glibc
import Testing

@testable import O3LSM

/// Whatever the load, the shards of a memtable are balanced once two memtables have been learned from.
@Suite struct ShardBalanceTests {
    enum Load: String, CaseIterable, Sendable {
        case sequential, uniform, zipfian, fileSystem
    }

    private static let shards = 4

    @Test(arguments: Load.allCases) func shardsAreBalancedAfterTwoMemtables(load: Load) throws {
        let store = TemporaryStore("balance\(load.rawValue)")
        let database = try Self.open(store, memtableSize: 4 << 20)
        defer { try? database.close() }
        var keys = KeyStream(seed: 11)
        for memtable in 0..<4 { try Self.fillMemtable(database, load, &keys, isMeasured: memtable >= 2, "\(load)") }
    }

    /// What was learned from one load is wrong for the next, and must be so for two memtables at most.
    @Test(arguments: Load.allCases, Load.allCases) func balanceComesBackAfterAChangeOfLoad(from: Load, to: Load) throws {
        guard from != to else { return }
        let store = TemporaryStore("balance\(from.rawValue)\(to.rawValue)")
        let database = try Self.open(store, memtableSize: 1 << 20)
        defer { try? database.close() }
        var keys = KeyStream(seed: 12)
        for _ in 0..<3 { try Self.fillMemtable(database, from, &keys, isMeasured: false, "") }
        for memtable in 0..<4 {
            try Self.fillMemtable(database, to, &keys, isMeasured: memtable >= 2, "\(from) to \(to), memtable \(memtable)")
        }
    }

    /// A bit of memory that has flipped may make a key seem empty: boundaries are learned from the others.
    @Test func damagedLengthsAreNoBoundaries() throws {
        let source = try PrivateMemtable(count: 3000, valueBytes: 20)
        let shard = source.memtable.map.shards[0]
        var node = shard.successor(0, 0)
        var number = 0
        while node != 0, let entry = shard.entry(node) {
            let length = RegionLayout.Entry.keyLength
            if number % 4 == 3 { entry.pointer.storeBytes(of: 0, toByteOffset: length, as: UInt16.self) }
            number += 1
            node = shard.successor(node, 0)
        }
        let samples = ShardBoundaries.sample([shard])
        #expect(!samples.isEmpty && samples.allSatisfy { !$0.key.isEmpty })
        #expect(!ShardBoundaries.cut(samples, into: 4).isEmpty)
        let rows = ["a", "", "b"].map { ShardBoundaries.Sample(key: Array($0.utf8), weight: 1) }
        #expect(ShardBoundaries.cut(rows, into: 2).allSatisfy { !$0.isEmpty })
    }

    private static func open(_ store: TemporaryStore, memtableSize: Int) throws -> Database {
        var options = TemporaryStore.smallOptions
        options.dmSize = 64 << 20
        options.memtableSize = memtableSize
        options.shards = shards
        return try store.open(options)
    }

    /// Writes until the active memtable is full, and looks at the shards it has then.
    private static func fillMemtable(
        _ database: Database, _ load: Load, _ keys: inout KeyStream, isMeasured: Bool, _ what: String
    ) throws {
        let memtable = database.core.writes.active
        while database.core.writes.active === memtable {
            let (key, value) = keys.next(load)
            try database.put(key, value)
        }
        guard isMeasured else { return }
        let sizes = memtable.map.shards.filter { !$0.isEmpty }.map(\.reservedBytes)
        let largest = try #require(sizes.max())
        #expect(largest <= 2 * memtable.reservedBytes / shards, "\(what): \(sizes)")
        #expect(sizes.count >= 2, "\(what): \(sizes)")
    }
}

/// Keys and values of each load.
private struct KeyStream {
    private var random: SeededRandom
    private var number = 0

    init(seed: UInt64) { random = SeededRandom(seed) }

    mutating func next(_ load: ShardBalanceTests.Load) -> ([UInt8], [UInt8]) {
        number += 1
        let small = [UInt8](repeating: 1, count: 100)
        switch load {
        case .sequential: return (key("", UInt64(number)), small)
        case .uniform: return (key("", random.next()), small)
        case .zipfian: return (key("", zipfian(of: 1_000_000)), small)
        case .fileSystem:
            // A file that is written from front to back, and the rows of many small ones.
            switch number % 4 {
            case 0: return (key("i", UInt64(number)), small)
            case 1: return (key("d", random.next() % 50) + Array("name\(number)".utf8), [1, 2, 3])
            default: return (key("b", 7) + key("", UInt64(number)), [UInt8](repeating: 2, count: 4096))
            }
        }
    }

    /// A rank with probability about 1 / rank^0.99, as YCSB has it; popular keys lie side by side.
    private mutating func zipfian(of count: Double) -> UInt64 {
        let exponent = 0.01
        let uniform = Double(random.next() >> 11) / Double(1 << 53)
        return UInt64(pow(uniform * (pow(count, exponent) - 1) + 1, 1 / exponent))
    }

    private func key(_ prefix: String, _ value: UInt64) -> [UInt8] {
        Array(prefix.utf8) + withUnsafeBytes(of: value.bigEndian) { Array($0) }
    }
}
