import Foundation
import Testing

@testable import O3LSM

/// Random operations on a database and on a plain dictionary: whatever the database goes through in between
/// (flushes, compactions, re-opens, crashes), both must always say the same.
@Suite struct DatabaseModelTests {
    /// O3LSM_MODEL_STEPS and O3LSM_MODEL_SEED make the same test a soak.
    static let steps = ProcessInfo.processInfo.environment["O3LSM_MODEL_STEPS"].flatMap { Int($0) } ?? 100_000
    static let seeds: [UInt64] =
        ProcessInfo.processInfo.environment["O3LSM_MODEL_SEED"].flatMap { UInt64($0) }.map { [$0] }
        ?? Array(1...10)

    @Test(arguments: seeds) func agreesWithDictionary(seed: UInt64) throws {
        var run = try ModelRun(seed: seed)
        do {
            for _ in 0..<DatabaseModelTests.steps { try run.step() }
            try run.finish()
        } catch {
            Issue.record("seed \(seed), step \(run.stepNumber): \(error)")
        }
    }
}

private struct Disagreement: Error, CustomStringConvertible {
    let description: String
}

private struct ModelRun {
    private var random: SeededRandom
    private let store: TemporaryStore
    private var options: Options
    private var database: Database
    /// Key index → value.
    private var model: [Int: [UInt8]] = [:]
    private var snapshots: [(snapshot: Snapshot, model: [Int: [UInt8]])] = []
    private(set) var stepNumber = 0

    private static let keys = 3000

    init(seed: UInt64) throws {
        random = SeededRandom(seed)
        store = TemporaryStore("model\(seed)")
        var options = TemporaryStore.smallOptions
        options.shards = Int(seed % 4) + 1
        options.compression = seed % 2 == 0 ? .lz4 : .none
        options.bloomBitsPerKey = seed % 3 == 0 ? 0 : 10
        options.l0CompactionTrigger = 2 + Int(seed % 3)
        options.tableFileSize = 1 << 20
        options.levelBaseSize = 1 << 20
        options.levelSizeMultiplier = 2 + Int(seed % 5)
        options.localBuffer = seed % 2 == 0 ? 2 << 20 : 4 << 20
        options.placement = seed % 3 == 1 ? .staged : .direct
        // None, one that is always full, one that holds everything.
        options.offsetCache = [0, 1 << 10, 1 << 20][Int(seed % 3)]
        self.options = options
        database = try store.open(options)
    }

    /// Keys of several lengths whose order is the order of their index.
    private static func key(_ index: Int) -> [UInt8] {
        let digits = String(index)
        let text = String(repeating: "0", count: 5 - digits.count) + digits
        return Array(text.utf8) + Array(repeating: UInt8(ascii: "x"), count: index % 7 * (index % 31))
    }

    private mutating func randomValue() -> [UInt8] {
        // Mostly small, sometimes large enough that slabs and memtables fill.
        let length = random.below(20) == 0 ? random.below(20_000) : random.below(200)
        let byte = UInt8(truncatingIfNeeded: random.next())
        var value = [UInt8](repeating: byte, count: length)
        if length >= 8 { withUnsafeBytes(of: random.next()) { value.replaceSubrange(0..<8, with: $0) } }
        return value
    }

    mutating func step() throws {
        stepNumber += 1
        switch random.below(1000) {
        case 0..<550: try write()
        case 550..<850: try read()
        case 850..<930: try scan(database, model, nil)
        case 930..<950: try takeOrDropSnapshot()
        case 950..<980: try readSnapshot()
        case 980..<995: try database.sync()
        case 995..<997: try database.flush()
        case 997: if random.below(10) == 0 { try database.compact() }
        default: if random.below(40) == 0 { try reopen() }
        }
    }

    mutating func finish() throws {
        try database.compact()
        try checkAll()
        snapshots = []
        try database.compact()
        try checkAll()
        guard try database.verify().isEmpty else { throw Disagreement(description: "verify found problems") }
        try database.close()
    }

    private mutating func write() throws {
        let batch = WriteBatch()
        for _ in 0..<(1 + random.below(random.below(10) == 0 ? 30 : 3)) {
            let index = random.below(ModelRun.keys)
            switch random.below(100) {
            case 0..<70:
                let value = randomValue()
                batch.put(ModelRun.key(index), value)
                model[index] = value
            case 70..<97:
                batch.delete(ModelRun.key(index))
                model[index] = nil
            default:
                let end = min(index + random.below(200), ModelRun.keys)
                batch.deleteRange(ModelRun.key(index), ModelRun.key(end))
                for deleted in index..<end { model[deleted] = nil }
            }
        }
        try database.write(batch)
    }

    private mutating func read() throws {
        let index = random.below(ModelRun.keys)
        try expect(try database.get(ModelRun.key(index)), model[index], "get \(index)")
    }

    private mutating func takeOrDropSnapshot() throws {
        if snapshots.count < 4, random.below(2) == 0 {
            snapshots.append((database.makeSnapshot(), model))
        } else if !snapshots.isEmpty {
            snapshots.remove(at: random.below(snapshots.count))
        }
    }

    private mutating func readSnapshot() throws {
        guard !snapshots.isEmpty else { return }
        let chosen = snapshots[random.below(snapshots.count)]
        if random.below(4) == 0 { return try scan(database, chosen.model, chosen.snapshot) }
        let index = random.below(ModelRun.keys)
        try expect(
            try database.get(ModelRun.key(index), snapshot: chosen.snapshot), chosen.model[index],
            "get \(index) at a snapshot")
    }

    /// A random walk of an iterator within random bounds, checked at every step.
    private mutating func scan(_ database: Database, _ model: [Int: [UInt8]], _ snapshot: Snapshot?) throws {
        let lower = random.below(3) == 0 ? nil : random.below(ModelRun.keys)
        let upper = random.below(3) == 0 ? nil : (lower ?? 0) + random.below(300)
        var options = ReadOptions()
        options.snapshot = snapshot
        options.lowerBound = lower.map(ModelRun.key)
        options.upperBound = upper.flatMap { $0 < ModelRun.keys ? ModelRun.key($0) : nil }
        let iterator = try database.makeIterator(options)
        let from = lower ?? 0
        let to = min(upper ?? ModelRun.keys, ModelRun.keys)

        func nextIndex(_ start: Int) -> Int? { start < to ? (max(start, from)..<max(to, from)).first { model[$0] != nil } : nil }
        func previousIndex(_ start: Int) -> Int? {
            let last = min(start, to - 1)
            return last >= from ? (from...last).last { model[$0] != nil } : nil
        }
        var current: Int?
        switch random.below(4) {
        case 0:
            try iterator.seekToFirst()
            current = nextIndex(from)
        case 1:
            try iterator.seekToLast()
            current = previousIndex(to - 1)
        case 2:
            let target = random.below(ModelRun.keys)
            try iterator.seek(ModelRun.key(target))
            current = nextIndex(target)
        default:
            let target = random.below(ModelRun.keys)
            try iterator.seekForPrevious(ModelRun.key(target))
            current = previousIndex(target)
        }
        try check(iterator, current, model)
        for _ in 0..<random.below(20) {
            guard let index = current else { break }
            if random.below(3) > 0 {
                try iterator.next()
                current = nextIndex(index + 1)
            } else {
                try iterator.previous()
                current = previousIndex(index - 1)
            }
            try check(iterator, current, model)
        }
    }

    private func check(_ iterator: DatabaseIterator, _ index: Int?, _ model: [Int: [UInt8]]) throws {
        guard let index else {
            guard !iterator.isValid else {
                throw Disagreement(description: "the iterator stands on \([UInt8](iterator.key)), the model on nothing")
            }
            return
        }
        guard iterator.isValid else { throw Disagreement(description: "the iterator ended before key \(index)") }
        guard [UInt8](iterator.key) == ModelRun.key(index) else {
            throw Disagreement(
                description: "the iterator stands on \(String(decoding: iterator.key, as: UTF8.self)), the model on \(index)")
        }
        try expect([UInt8](iterator.value), model[index], "iterator at \(index)")
    }

    /// Closes, or drops everything as a crash would, with or without the region.
    private mutating func reopen() throws {
        snapshots = []
        switch random.below(3) {
        case 0: try database.close()
        case 1: abandon(database)
        default:
            try database.sync()
            abandon(database)
            Region.unlink(
                storeID: try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage()).storeID)
        }
        // Some stores change their placement with each life.
        if options.shards > 2 { options.placement = random.below(2) == 0 ? .staged : .direct }
        database = try store.open(options)
        try checkAll()
    }

    private func checkAll() throws {
        for index in 0..<ModelRun.keys {
            try expect(try database.get(ModelRun.key(index)), model[index], "get \(index) of all")
        }
        let iterator = try database.makeIterator()
        try iterator.seekToFirst()
        for index in 0..<ModelRun.keys where model[index] != nil {
            try check(iterator, index, model)
            try iterator.next()
        }
        try check(iterator, nil, model)
    }

    private func expect(_ found: [UInt8]?, _ wanted: [UInt8]?, _ what: String) throws {
        guard found != wanted else { return }
        func brief(_ value: [UInt8]?) -> String { value.map { "\($0.count) bytes \($0.prefix(10))" } ?? "nothing" }
        throw Disagreement(description: "\(what): found \(brief(found)), expected \(brief(wanted))")
    }
}
