import Testing

@testable import O3LSM

/// Memtables that wait for slow storage are flushed together, and what is read does not change.
@Suite struct MergedFlushTests {
    private static let keys = 400

    private static func options(_ placement: Placement) -> Options {
        var options = TemporaryStore.smallOptions
        options.placement = placement
        options.localBuffer = 4 << 20
        options.dmSize = 64 << 20
        options.flushThreads = 1
        // Tables stay as they were flushed, so that what was dropped can be counted.
        options.disableAutomaticCompaction = true
        return options
    }

    private static func key(_ number: Int) -> [UInt8] { Array("key\(1000 + number)".utf8) }

    @Test(arguments: [Placement.direct, .staged]) func readsAreThoseOfADictionary(placement: Placement) throws {
        let seed = UInt64.random(in: 1...1_000_000)
        print("MergedFlushTests: seed \(seed)")
        var random = SeededRandom(seed)
        let store = TemporaryStore("merged\(placement.rawValue)")
        var model: [Int: [UInt8]] = [:]
        var snapshots: [(Snapshot, [Int: [UInt8]])] = []
        let slow = FaultyStorage()
        slow.delay(.create, path: "/sst/", milliseconds: 400)
        var database = try Database.open(store.path, options: Self.options(placement), storage: slow)
        func compare(_ what: String) throws {
            for number in 0..<Self.keys {
                #expect(try database.get(Self.key(number)) == model[number], "seed \(seed), \(what), key \(number)")
            }
            for (snapshot, old) in snapshots {
                for number in 0..<Self.keys {
                    #expect(
                        try database.get(Self.key(number), snapshot: snapshot) == old[number],
                        "seed \(seed), \(what), key \(number) of a snapshot")
                }
            }
        }
        for step in 0..<9_000 {
            let number = random.below(Self.keys)
            switch random.below(100) {
            case 0..<85:
                let value = [UInt8](repeating: UInt8(truncatingIfNeeded: random.next()), count: 500 + random.below(900))
                try database.put(Self.key(number), value)
                model[number] = value
            case 85..<98:
                try database.delete(Self.key(number))
                model[number] = nil
            default:
                let end = min(number + random.below(20), Self.keys)
                guard number < end else { continue }
                try database.deleteRange(Self.key(number), Self.key(end))
                for gone in number..<end { model[gone] = nil }
            }
            if step == 2000 || step == 5500 { snapshots.append((database.makeSnapshot(), model)) }
        }
        try compare("while flushes wait")
        try database.flush()
        try compare("in tables")
        let flush = database.statistics().flush
        #expect(flush.mergedMemtables >= 2)
        // Without a merge at most what is repeated within one memtable could be left out.
        #expect(flush.entriesDropped > 0)
        #expect(try database.verify().isEmpty)
        snapshots = []
        try database.close()
        database = try Database.open(store.path, options: Self.options(placement))
        try compare("opened again")
        try database.close()
    }

    /// The owner dies while merged flushes are under way: what follows is a prefix of history all the same.
    @Test func aDeathBetweenPlanAndCommitLosesNothing() throws {
        let store = TemporaryStore()
        for life in 0..<4 {
            let slow = FaultyStorage()
            slow.delay(.create, path: "/sst/", milliseconds: 400)
            let database = try Database.open(store.path, options: Self.options(.direct), storage: slow)
            for number in 0..<Self.keys where life > 0 {
                #expect(try database.get(Self.key(number))?.first == UInt8(life - 1), "life \(life), key \(number)")
            }
            for round in 0..<8 {
                for number in 0..<Self.keys {
                    try database.put(
                        Self.key(number), [UInt8(life)] + [UInt8](repeating: UInt8(round), count: 1000 + number))
                }
            }
            abandon(database)
        }
        let database = try store.open()
        for number in 0..<Self.keys { #expect(try database.get(Self.key(number))?.count == 1001 + number) }
        #expect(try database.verify().isEmpty)
        try database.close()
    }
}
