import Testing

@testable import O3LSM

/// Ranges that are deleted again and again, each within the one before, as by a file that grows and is cut: they take
/// memory and storage by their number, not its square.
@Suite struct NestedTombstoneTests {
    private static func key(_ number: Int) -> [UInt8] { Array("key\(number + 1_000_000)".utf8) }

    @Test func nestedRangesStaySmall() throws {
        let store = TemporaryStore()
        let database = try store.open()
        let count = 7000
        for number in 0..<count {
            try database.put(Self.key(number), [1])
            try database.put(Self.key(count + 100), [UInt8(truncatingIfNeeded: number)])
            try database.deleteRange(Self.key(number + 1), Self.key(count + 1000))
        }
        #expect(database.statistics().writeError == nil)
        for round in 0...1 {
            for number in [0, 1, count / 2, count - 1] { #expect(try database.get(Self.key(number)) == [1]) }
            #expect(try database.get(Self.key(count + 100)) == nil)
            let cursor = try database.makeIterator()
            try cursor.seekToFirst()
            var found = 0
            while cursor.isValid {
                found += 1
                try cursor.next()
            }
            #expect(found == count)
            if round == 0 { try database.flush() }
        }
        let tombstones = database.core.versions.current.levels.joined().reduce(0) { $0 + $1.rangeTombstoneCount }
        #expect(tombstones <= UInt64(2 * count))
        #expect(database.statistics().flush.failedJobs == 0)
        #expect(try database.verify().isEmpty)
        try database.close()
    }

    @Test func memtablesWithManyAreSealed() {
        let tombstones = MemtableTombstones()
        var number = 0
        while !tombstones.isCrowded, number < 10_000 {
            number += 1
            tombstones.add(
                RangeTombstone(begin: Self.key(number), end: Self.key(100_000), sequence: SequenceNumber(number)))
        }
        #expect((100...2000).contains(number))
        let all = tombstones.tombstones(from: nil, to: nil)
        #expect(all.count == number * (number + 1) / 2)
        let seen = tombstones.tombstones(from: nil, to: nil, newestUpTo: 50)
        #expect(seen.map(\.sequence).max() == 50)
        for probe in [1, 49, 50, number] {
            let key = Self.key(probe)
            let expected = key.withUnsafeBytes { tombstones.newestCovering($0, upTo: 50) }
            let found = seen.filter { compareKeys($0.begin, key) <= 0 && compareKeys(key, $0.end) < 0 }.map(\.sequence).max() ?? 0
            #expect(found == expected)
        }
    }
}
