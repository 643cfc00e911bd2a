import Foundation
import Synchronization
import Testing

@testable import O3LSM

/// Readers check every answer against what writers have begun and finished, while memtables are sealed, moved
/// and flushed and a small offset cache turns over: no read is older than what had returned before it began,
/// newer than what had begun when it ended, or of another key.
///
/// O3LSM_CHECKED_READS makes it a soak (`tools/soak/reads.sh`).
@Suite(.serialized) struct CheckedReadsTests {
    static let reads = ProcessInfo.processInfo.environment["O3LSM_CHECKED_READS"].flatMap { Int($0) } ?? 1_000_000
    private static let keys = 6000
    private static let writers = 2
    private static let readers = 2

    @Test(arguments: Placement.allCases, ReadDelegationMode.allCases)
    func areNeverStaleNorForeign(placement: Placement, delegation: ReadDelegationMode) throws {
        let store = TemporaryStore("checked\(placement)\(delegation)")
        var options = TemporaryStore.smallOptions
        options.readDelegation = delegation
        options.placement = placement
        options.localBuffer = 4 << 20
        options.l0CompactionTrigger = 2
        // A tenth of the keys.
        options.offsetCache = Self.keys / 10 * OffsetCache.slotBytes
        let database = try store.open(options)
        let seed = UInt64.random(in: 0 ... .max)
        let versions = Versions(Self.keys)
        let problems = Mutex<[String]>([])
        let isOver = Atomic<Bool>(false)
        // Readers go on until they have met a compaction, however few their reads are.
        let hasCompacted = Atomic<Bool>(false)
        // Workers that come and go.
        let servers = ReadServers(store.path)
        if delegation != .off { try servers.start() }
        @Sendable func guarded(_ what: String, _ body: () throws -> Void) {
            do { try body() } catch {
                problems.withLock { $0.append("\(what): \(error)") }
                isOver.store(true, ordering: .relaxed)
            }
        }
        var background: [BackgroundThread] = []
        for writer in 0..<Self.writers {
            background.append(
                try BackgroundThread("writer-\(writer)") {
                    guarded("writer \(writer)") {
                        var random = SeededRandom(seed &+ UInt64(writer))
                        while !isOver.load(ordering: .relaxed) {
                            let key = random.below(Self.keys / Self.writers) * Self.writers + writer
                            try versions.write(key, to: database)
                            // Processors are for the readers.
                            if random.below(16) == 0 { usleep(500) }
                        }
                    }
                })
        }
        background.append(
            try BackgroundThread("sealer") {
                guarded("sealer") {
                    var random = SeededRandom(seed &+ 100)
                    var rounds = 0
                    while !isOver.load(ordering: .relaxed) {
                        rounds += 1
                        if rounds % 16 == 0 {
                            try database.compact()
                            let hasMerged = database.statistics().compaction.localJobs > 0
                            hasCompacted.store(hasMerged, ordering: .relaxed)
                        } else if random.below(8) == 0 {
                            try database.flush()
                        } else {
                            database.core.writes.sealIfRoom()
                        }
                        usleep(UInt32(5_000 + random.below(30_000)))
                    }
                }
            })
        var readers: [BackgroundThread] = []
        for reader in 0..<Self.readers {
            readers.append(
                try BackgroundThread("reader-\(reader)") {
                    guarded("reader \(reader)") {
                        var random = SeededRandom(seed &+ 200 &+ UInt64(reader))
                        var left = Self.reads / Self.readers / (Placement.allCases.count * ReadDelegationMode.allCases.count)
                        while left > 0 || !hasCompacted.load(ordering: .relaxed), !isOver.load(ordering: .relaxed) {
                            left -= try versions.checkSome(database, &random)
                        }
                    }
                })
        }
        for thread in readers { thread.join() }
        isOver.store(true, ordering: .relaxed)
        for thread in background { thread.join() }
        servers.stop()
        let found = problems.withLock { $0 }
        #expect(found.isEmpty, "seed \(seed): \(found.prefix(3))")
        let statistics = database.statistics()
        if delegation == .on {
            #expect(statistics.delegation.answered > 0 && statistics.delegation.damaged == 0)
        } else {
            #expect(statistics.offsetCache.hits > 0 && statistics.offsetCache.misses > 0)
        }
        #expect(statistics.flush.localJobs > 0 && statistics.compaction.localJobs > 0)
        #expect(versions.checkedRows > 0)
        try database.close()
    }
}

private struct WrongAnswer: Error, CustomStringConvertible { let description: String }

/// What writers have begun and finished, by key. Version 0: never written. A key has one writer.
private final class Versions: @unchecked Sendable {
    // @unchecked: what the pointer leads to is atomic.
    private struct Row: ~Copyable {
        let begun = Atomic<UInt64>(0)
        let finished = Atomic<UInt64>(0)
    }
    private let rows: UnsafeMutablePointer<Row>
    private let count: Int
    /// Keys by the order of their names.
    private let order: [Int]
    private let storedRows = Atomic<Int>(0)

    /// Rows of scans that were checked.
    var checkedRows: Int { storedRows.load(ordering: .relaxed) }

    init(_ count: Int) {
        self.count = count
        order = (0..<count).sorted { Versions.name($0).lexicographicallyPrecedes(Versions.name($1)) }
        rows = .allocate(capacity: count)
        for index in 0..<count { (rows + index).initialize(to: Row()) }
    }

    deinit { rows.deallocate() }

    private static func value(_ key: Int, _ version: UInt64) -> [UInt8] {
        withUnsafeBytes(of: (UInt64(key), version)) { [UInt8]($0) }
            + [UInt8](repeating: UInt8(truncatingIfNeeded: version), count: Int(version % 100))
    }
    private static func name(_ key: Int) -> [UInt8] { Array("key\(key)".utf8) }
    /// Versions that are deletions, of the key and of a range with only the key in it.
    private static func isDeletion(_ version: UInt64) -> Bool { version % 8 == 7 || version % 32 == 20 || version == 0 }

    func write(_ key: Int, to database: Database) throws {
        let version = rows[key].begun.wrappingAdd(1, ordering: .sequentiallyConsistent).newValue
        let name = Self.name(key)
        if version % 32 == 20 {
            try database.deleteRange(name, name + [0])
        } else if version % 8 == 7 {
            try database.delete(name)
        } else {
            try database.put(name, Self.value(key, version))
        }
        rows[key].finished.store(version, ordering: .sequentiallyConsistent)
    }

    /// A read, several at once, or several at a snapshot that has aged a little.
    ///
    /// - Returns: how many answers were checked.
    func checkSome(_ database: Database, _ random: inout SeededRandom) throws -> Int {
        // Some keys are read often, so that a small cache has hits.
        let keys = (0..<8).map { _ in random.below(random.below(2) == 0 ? 200 : 6000) }
        let names = keys.map(Self.name)
        let least = keys.map { rows[$0].finished.load(ordering: .sequentiallyConsistent) }
        if random.below(16) == 0 { return try checkScan(database, &random) }
        switch random.below(4) {
        case 0:
            let values = try database.multiGet(names)
            let most = keys.map { rows[$0].begun.load(ordering: .sequentiallyConsistent) }
            for index in keys.indices { try check(values[index], keys[index], least[index], most[index], "multiGet") }
        case 1:
            let snapshot = database.makeSnapshot()
            let most = keys.map { rows[$0].begun.load(ordering: .sequentiallyConsistent) }
            if random.below(20) == 0 { usleep(2000) }
            // The newest first: it must not get in the way of the older one.
            for index in keys.indices {
                let newest = try database.get(names[index])
                let begun = rows[keys[index]].begun.load(ordering: .sequentiallyConsistent)
                try check(newest, keys[index], least[index], begun, "get before a snapshot's")
                let value = try database.get(names[index], snapshot: snapshot)
                try check(value, keys[index], least[index], most[index], "snapshot")
            }
            return 2 * keys.count
        default:
            for index in keys.indices {
                let value = try database.get(names[index])
                let most = rows[keys[index]].begun.load(ordering: .sequentiallyConsistent)
                try check(value, keys[index], least[index], most, "get")
            }
        }
        return keys.count
    }

    /// A scan from anywhere over some keys: each is there, or was deleted, and there is none between them.
    ///
    /// - Returns: how many answers were checked.
    private func checkScan(_ database: Database, _ random: inout SeededRandom) throws -> Int {
        let first = random.below(count)
        let wanted = order[first..<min(count, first + 5 + random.below(random.below(8) == 0 ? 600 : 40))]
        let least = wanted.map { rows[$0].finished.load(ordering: .sequentiallyConsistent) }
        let scan = try database.makeIterator()
        let most = wanted.map { rows[$0].begun.load(ordering: .sequentiallyConsistent) }
        if random.below(20) == 0 { usleep(2000) }
        // Twice: the second seek meets a cursor that has moved.
        for _ in 0..<2 {
            try scan.seek(Self.name(order[first]))
            for (index, key) in wanted.enumerated() {
                let isThere = scan.isValid && Array(scan.key) == Self.name(key)
                try check(isThere ? Array(scan.value) : nil, key, least[index], most[index], "scan")
                if isThere { try scan.next() }
            }
        }
        storedRows.wrappingAdd(2 * wanted.count, ordering: .relaxed)
        return 2 * wanted.count
    }

    private func check(_ value: [UInt8]?, _ key: Int, _ least: UInt64, _ most: UInt64, _ how: String) throws {
        guard let value else {
            if (least...most).contains(where: Self.isDeletion) { return }
            throw WrongAnswer(description: "\(how) of \(key): nothing, of versions \(least)...\(most)")
        }
        let (owner, version) = value.count >= 16 ? value.withUnsafeBytes { $0.loadUnaligned(as: (UInt64, UInt64).self) } : (.max, 0)
        guard owner == UInt64(key), least <= version, version <= most, !Self.isDeletion(version),
            value == Self.value(key, version)
        else {
            throw WrongAnswer(
                description: "\(how) of \(key): version \(version) of \(owner) in \(value.count) bytes, of versions \(least)...\(most)")
        }
    }
}
