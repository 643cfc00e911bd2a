import Testing

@testable import O3LSM

/// Cursors that jump over deleted ranges stop at whatever is alive in them, both ways and at every snapshot.
///
/// Random writes of which many delete ranges, on one thread, hence the same for the same seed; tables are flushed and
/// compacted, memtables sealed, and the owner dies and comes back, when chance says so.
@Suite struct RangeSkipTests {
    private static let keys = 2000
    private static func key(_ number: Int) -> [UInt8] { Array("key\(number + 1_000_000)".utf8) }

    private struct Disagreement: Error, CustomStringConvertible { let description: String }

    @Test(arguments: 0..<8 as Range<UInt64>) func cursorsAgreeWithASortedArray(seed: UInt64) throws {
        var random = SeededRandom(seed &+ 9000)
        let store = TemporaryStore("rangeskip\(seed)")
        var options = TemporaryStore.smallOptions
        options.shards = 1 + Int(seed % 4)
        options.blockSize = 1024
        options.l0CompactionTrigger = 3
        options.levelBaseSize = 1 << 20
        options.disableAutomaticCompaction = seed % 2 == 0
        options.placement = seed % 4 == 3 ? .staged : .direct
        options.localBuffer = 4 << 20
        var database = try store.open(options)
        var model: [Int: [UInt8]] = [:]
        var snapshots: [(snapshot: Snapshot, rows: [(Int, [UInt8])])] = []
        func rows() -> [(Int, [UInt8])] { model.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }
        do {
            for round in 0..<60 {
                for _ in 0..<random.below(400) {
                    let number = random.below(Self.keys)
                    if random.below(3) > 0 {
                        let value = withUnsafeBytes(of: random.next()) { [UInt8]($0) }
                        try database.put(Self.key(number), value)
                        model[number] = value
                    } else {
                        try database.delete(Self.key(number))
                        model[number] = nil
                    }
                }
                for _ in 0..<random.below(4) {
                    let begin = random.below(Self.keys)
                    let end = min(Self.keys, begin + 1 + random.below(700))
                    try database.deleteRange(Self.key(begin), Self.key(end))
                    for number in begin..<end { model[number] = nil }
                    // A few of them come back, on the bounds too.
                    for number in [begin, end - 1, begin + random.below(end - begin)] where random.below(3) == 0 {
                        try database.put(Self.key(number), [UInt8(round)])
                        model[number] = [UInt8(round)]
                    }
                }
                switch random.below(10) {
                case 0...2: try database.flush()
                case 3: try database.compact()
                case 4...5: database.core.writes.sealIfRoom()
                case 6 where snapshots.isEmpty:
                    abandon(database)
                    database = try store.open(options)
                default: break
                }
                if random.below(3) == 0 { snapshots.append((database.makeSnapshot(), rows())) }
                if snapshots.count > 3 { snapshots.remove(at: random.below(snapshots.count)) }
                if random.below(8) == 0 { snapshots = [] }
                try Self.walk(database, nil, rows(), &random)
                for (snapshot, rows) in snapshots { try Self.walk(database, snapshot, rows, &random) }
            }
            snapshots = []
            try database.close()
        } catch {
            Issue.record("seed \(seed): \(error)")
        }
    }

    /// The whole way forth and back, then a random walk that often turns round; within bounds, now and then.
    private static func walk(
        _ database: Database, _ snapshot: Snapshot?, _ all: [(Int, [UInt8])], _ random: inout SeededRandom
    ) throws {
        var options = ReadOptions()
        options.snapshot = snapshot
        let low = random.below(2) == 0 ? 0 : random.below(keys)
        let high = random.below(2) == 0 ? keys : low + random.below(keys - low)
        if low > 0 { options.lowerBound = key(low) }
        if high < keys { options.upperBound = key(high) }
        let rows = all.filter { $0.0 >= low && $0.0 < high }
        let cursor = try database.makeIterator(options)
        func check(_ place: Int, _ move: String) throws {
            let expected = rows.indices.contains(place) ? rows[place] : nil
            let found = cursor.isValid ? (Array(cursor.key), Array(cursor.value)) : nil
            guard found?.0 == expected.map({ key($0.0) }), found?.1 == expected?.1 else {
                throw Disagreement(
                    description: "\(move) in \(low)..<\(high): \(found.map { String(decoding: $0.0, as: UTF8.self) } ?? "nothing")"
                        + " where \(expected?.0 ?? -1) is")
            }
        }
        try cursor.seekToFirst()
        for place in 0...rows.count {
            try check(place, "forth")
            try cursor.next()
        }
        try cursor.seekToLast()
        for place in (-1..<rows.count).reversed() {
            try check(place, "back")
            try cursor.previous()
        }
        var place = rows.count
        for _ in 0..<200 {
            switch random.below(12) {
            case 0:
                let target = random.below(keys)
                try cursor.seek(key(target))
                place = rows.firstIndex { $0.0 >= max(low, target) } ?? rows.count
                try check(place, "seek \(target)")
            case 1:
                let target = random.below(keys)
                try cursor.seekForPrevious(key(target))
                place = rows.lastIndex { $0.0 <= target } ?? -1
                try check(place, "seek for previous \(target)")
            case 2:
                try cursor.seekToLast()
                place = rows.count - 1
                try check(place, "seek to last")
            case 3..<8:
                guard cursor.isValid else { continue }
                try cursor.previous()
                place -= 1
                try check(place, "previous")
            default:
                guard cursor.isValid else { continue }
                try cursor.next()
                place += 1
                try check(place, "next")
            }
        }
    }
}
