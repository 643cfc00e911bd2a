import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// Cursors at snapshots walk as over a plain sorted array of what was there, while others write, delete ranges, seal, flush
/// and compact, and a small cache turns over.
@Suite struct IteratorModelTests {
    private static let keys = 3000
    private static let rounds = 60
    private static let movesOfRound = 400

    private static func key(_ number: Int) -> [UInt8] { Array("key\(number + 1_000_000)".utf8) }

    /// A store and a dictionary that change together.
    private final class Twins: Sendable {
        let database: Database
        private let model = Mutex<[Int: [UInt8]]>([:])

        init(_ database: Database) { self.database = database }

        func write(_ random: inout SeededRandom) throws {
            let number = random.below(keys)
            let word = random.next()
            let length = random.below(4) == 0 ? 3000 : random.below(120)
            let kind = random.below(200)
            try model.withLock { model in
                if kind == 0 {
                    let end = number + random.below(200)
                    try database.deleteRange(key(number), key(end))
                    for covered in number..<max(number, end) { model[covered] = nil }
                } else if kind < 50 {
                    try database.delete(key(number))
                    model[number] = nil
                } else {
                    let value = withUnsafeBytes(of: word) { [UInt8]($0) } + [UInt8](repeating: 7, count: length)
                    try database.put(key(number), value)
                    model[number] = value
                }
            }
        }

        func snapshot() -> (Snapshot, [(number: Int, value: [UInt8])]) {
            model.withLock { model in
                (database.makeSnapshot(), model.sorted { $0.key < $1.key }.map { (number: $0.key, value: $0.value) })
            }
        }
    }

    private struct WrongPlace: Error, CustomStringConvertible { let description: String }

    private static func first(_ rows: [(number: Int, value: [UInt8])], from number: Int) -> Int {
        var (low, high) = (0, rows.count)
        while low < high {
            let middle = (low + high) / 2
            if rows[middle].number < number { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Random moves of one cursor between two bounds.
    private static func walk(_ twins: Twins, _ random: inout SeededRandom) throws {
        let (snapshot, all) = twins.snapshot()
        var options = ReadOptions()
        options.snapshot = snapshot
        options.fillCache = random.below(2) == 0
        let low = random.below(2) == 0 ? 0 : random.below(keys)
        let high = random.below(2) == 0 ? keys : low + random.below(500)
        if low > 0 { options.lowerBound = key(low) }
        if high < keys { options.upperBound = key(high) }
        let rows = Array(all[first(all, from: low)..<max(first(all, from: low), first(all, from: high))])
        let cursor = try twins.database.makeIterator(options)
        var place = -1
        for move in 0..<movesOfRound {
            let target = random.below(keys)
            switch random.below(20) {
            case 0:
                try cursor.seekToFirst()
                place = 0
            case 1:
                try cursor.seekToLast()
                place = rows.count - 1
            case 2:
                try cursor.seek(key(target))
                place = first(rows, from: max(low, target))
            case 3:
                try cursor.seekForPrevious(key(target))
                place = first(rows, from: target + 1) - 1
            case 4..<8:
                guard cursor.isValid else { continue }
                try cursor.previous()
                place -= 1
            default:
                guard cursor.isValid else { continue }
                try cursor.next()
                place += 1
            }
            let expected = rows.indices.contains(place) ? rows[place] : nil
            let isRight = cursor.isValid
                ? expected.map { key($0.number) == Array(cursor.key) && $0.value == Array(cursor.value) } ?? false
                : expected == nil
            guard isRight else {
                let found = cursor.isValid ? String(decoding: cursor.key, as: UTF8.self) : "nothing"
                throw WrongPlace(
                    description: "move \(move) in \(low)..<\(high): \(found) where \(expected?.number ?? -1) of \(rows.count) is")
            }
        }
    }

    @Test(arguments: [Placement.direct, .staged], ReadDelegationMode.allCases)
    func walkAsOverASortedArray(placement: Placement, delegation: ReadDelegationMode) throws {
        let seed = UInt64.random(in: 0 ... .max)
        let store = TemporaryStore("cursors\(placement)\(delegation)")
        var options = TemporaryStore.smallOptions
        options.readDelegation = delegation
        options.placement = placement
        options.localBuffer = 4 << 20
        options.l0CompactionTrigger = 2
        options.levelBaseSize = 1 << 20
        // Less than there is.
        options.cacheSize = 1 << 20
        let twins = Twins(try store.open(options))
        let servers = ReadServers(store.path)
        if delegation != .off { try servers.start() }
        let isOver = Atomic<Bool>(false)
        let problems = Mutex<[String]>([])
        @Sendable func run(_ name: String, _ body: @escaping @Sendable (inout SeededRandom) throws -> Void) throws
            -> BackgroundThread
        {
            try BackgroundThread(name) {
                var random = SeededRandom(seed &+ hashOf(name))
                do { try body(&random) } catch {
                    problems.withLock { $0.append("\(name): \(error)") }
                    isOver.store(true, ordering: .relaxed)
                }
            }
        }
        var random = SeededRandom(seed)
        for _ in 0..<2 * Self.keys { try twins.write(&random) }
        let background = [
            try run("writer") { random in
                while !isOver.load(ordering: .relaxed) { try twins.write(&random) }
            },
            try run("sealer") { random in
                while !isOver.load(ordering: .relaxed) {
                    switch random.below(10) {
                    case 0: try twins.database.compact()
                    case 1...3: try twins.database.flush()
                    default: twins.database.core.writes.sealIfRoom()
                    }
                    usleep(UInt32(2_000 + random.below(10_000)))
                }
            },
        ]
        let readers = try (0..<2).map { reader in
            try run("reader-\(reader)") { random in
                for _ in 0..<Self.rounds where !isOver.load(ordering: .relaxed) { try Self.walk(twins, &random) }
            }
        }
        for thread in readers { thread.join() }
        isOver.store(true, ordering: .relaxed)
        for thread in background { thread.join() }
        servers.stop()
        let found = problems.withLock { $0 }
        #expect(found.isEmpty, "seed \(seed): \(found.prefix(3))")
        let statistics = twins.database.statistics()
        #expect(statistics.flush.localJobs > 0 && statistics.compaction.localJobs > 0)
        let reads = statistics.delegation
        #expect(reads.damaged == 0, "\(reads)")
        if delegation == .on { #expect(reads.ranges > 0, "\(reads)") }
        try twins.database.close()
    }
}

private func hashOf(_ name: String) -> UInt64 { name.utf8.reduce(14_695_981_039_346_656_037) { ($0 ^ UInt64($1)) &* 1_099_511_628_211 } }
