import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// Reads that a worker answers say what the owner's own say; and when it cannot, the owner reads by itself.
@Suite(.serialized) struct DelegatedReadsTests {
    private static func key(_ number: Int) -> [UInt8] { Array("key\(number + 1_000_000)".utf8) }
    private static func value(_ number: Int, _ version: Int) -> [UInt8] {
        // Each 50th is too long for an answer.
        [UInt8](repeating: UInt8(truncatingIfNeeded: number &+ version), count: number % 50 == 49 ? 9000 : 20 + number % 80)
    }

    /// A store with several sealed memtables whose flushes take a while.
    private static func open(_ store: TemporaryStore, _ mode: ReadDelegationMode, offsetCache: Int = 0) throws -> Database {
        var options = TemporaryStore.smallOptions
        options.readDelegation = mode
        options.offsetCache = offsetCache
        options.flushThreads = 1
        return try Database.open(
            store.path, options: options,
            storage: DistantStorage(POSIXStorage(), latencyNanoseconds: 20_000_000, bytesPerSecond: 2 << 20))
    }

    /// Writes memtables 1…4 of 300 keys, over each other; what must be found, by key.
    private static func fill(_ database: Database) throws -> [[UInt8]?] {
        var expected: [[UInt8]?] = Array(repeating: nil, count: 1000)
        for version in 1...4 {
            for number in stride(from: version * 7 % 5, to: 900, by: version + 1) {
                try database.put(key(number), value(number, version))
                expected[number] = value(number, version)
            }
            for number in stride(from: version, to: 900, by: 31) {
                try database.delete(key(number))
                expected[number] = nil
            }
            try database.deleteRange(key(version * 200), key(version * 200 + 20))
            for number in version * 200..<version * 200 + 20 { expected[number] = nil }
            database.core.writes.sealIfRoom()
        }
        return expected
    }

    private static func withServer(_ store: TemporaryStore, _ database: Database, _ body: () throws -> Void) throws {
        var configuration = Worker.Configuration()
        configuration.roles = [.reads]
        let worker = try Worker(store.path, configuration)
        let thread = try BackgroundThread("server") { try? worker.run() }
        defer {
            worker.stop()
            thread.join()
        }
        let deadline = monotonicNanoseconds() + 20_000_000_000
        while database.statistics().delegation.servers == 0, monotonicNanoseconds() < deadline { usleep(5_000) }
        try body()
    }

    @Test(arguments: [0, 1 << 20]) func aWorkerAnswersAsTheOwnerWould(offsetCache: Int) throws {
        let store = TemporaryStore("delegated\(offsetCache)")
        let database = try Self.open(store, .on, offsetCache: offsetCache)
        try Self.withServer(store, database) {
            let expected = try Self.fill(database)
            let snapshot = database.makeSnapshot()
            for number in expected.indices where number % 3 == 0 { try database.put(Self.key(number), [1]) }
            for number in expected.indices {
                let newest = number % 3 == 0 ? [1] : expected[number]
                #expect(try database.get(Self.key(number)) == newest)
                #expect(try database.get(Self.key(number), snapshot: snapshot) == expected[number])
            }
            let long = [UInt8](repeating: 1, count: 3000)
            #expect(try database.get(long) == nil)
            let found = database.statistics().delegation
            #expect(found.answered > 0 && found.damaged == 0, "\(found)")
        }
        abandon(database)
    }

    @Test(arguments: [0, 1 << 20]) func severalKeysAtOnce(offsetCache: Int) throws {
        let store = TemporaryStore("multi\(offsetCache)")
        let database = try Self.open(store, .on, offsetCache: offsetCache)
        try Self.withServer(store, database) {
            let expected = try Self.fill(database)
            // Up to more than one request holds, a key that none holds, and one twice.
            for count in [2, 7, 40, 1000] {
                for first in stride(from: 0, to: 1000, by: 250) {
                    var numbers = (first..<first + count).map { $0 % 1000 }
                    numbers[1] = numbers[0]
                    var keys = numbers.map(Self.key)
                    keys.append([UInt8](repeating: 1, count: 3000))
                    #expect(try database.multiGet(keys) == numbers.map { expected[$0] } + [nil])
                }
            }
            let found = database.statistics().delegation
            #expect(found.answered > 0 && found.damaged == 0, "\(found)")
        }
        abandon(database)
    }

    /// Seeks, steps and turns of a cursor, against the owner's own over the same state.
    @Test func scansAreTheOwners() throws {
        let store = TemporaryStore("ranges")
        let database = try Self.open(store, .on)
        let seed = UInt64.random(in: 0 ... .max)
        try Self.withServer(store, database) {
            _ = try Self.fill(database)
            let state = database.core.holder.current
            let delegation = try #require(database.core.delegation)
            var random = SeededRandom(seed)
            for memtable in state.memtables where memtable.isDelegable {
                let own = memtable.makeIterator()
                let delegated = DelegatedIterator(memtable, delegation, DelegationChoice.Way(isDelegated: true, isTimed: true))
                for step in 0..<3000 {
                    switch random.below(40) {
                    case 0:
                        try own.seekToFirst()
                        try delegated.seekToFirst()
                    case 1:
                        try own.seekToLast()
                        try delegated.seekToLast()
                    case 2...4:
                        let target = random.below(8) == 0 ? [] : Self.key(random.below(1000) - 20)
                        try target.withUnsafeBytes { try own.seek($0, .first) }
                        try target.withUnsafeBytes { try delegated.seek($0, .first) }
                    case 5:
                        let target = Self.key(random.below(1000))
                        try target.withUnsafeBytes { try own.seekBefore($0, .first) }
                        try target.withUnsafeBytes { try delegated.seekBefore($0, .first) }
                    case 6, 7:
                        if own.isValid { try own.previous() }
                        if delegated.isValid { try delegated.previous() }
                    default:
                        if own.isValid { try own.next() }
                        if delegated.isValid { try delegated.next() }
                    }
                    try #require(own.isValid == delegated.isValid, "seed \(seed), step \(step)")
                    guard own.isValid else { continue }
                    try #require(
                        Array(own.userKey) == Array(delegated.userKey) && own.trailer == delegated.trailer
                            && Array(own.value) == Array(delegated.value), "seed \(seed), step \(step)")
                }
            }
            // And through the whole of the read path.
            let scan = try database.makeIterator()
            var found: [[UInt8]: [UInt8]] = [:]
            try scan.seekToFirst()
            while scan.isValid {
                found[Array(scan.key)] = Array(scan.value)
                try scan.next()
            }
            for number in 0..<1000 { #expect(try found[Self.key(number)] == database.get(Self.key(number))) }
            #expect(database.statistics().delegation.ranges > 0)
        }
        abandon(database)
    }

    @Test func aServerThatDiesOrHangsIsNotWaitedFor() throws {
        let store = TemporaryStore("deadserver")
        let database = try Self.open(store, .on)
        let expected = try Self.fill(database)
        // A process that never answers.
        var child = pid_t()
        var arguments: [UnsafeMutablePointer<CChar>?] = [strdup("sleep"), strdup("100"), nil]
        defer { for argument in arguments { free(argument) } }
        #expect(posix_spawnp(&child, "sleep", nil, nil, &arguments, nil) == 0)
        let word = sharedWord64(database.core.region.base + RegionLayout.Ring.offset + RegionLayout.Ring.server)
        word.pointee.store(ReadRing.identity(of: child), ordering: .releasing)
        let deadline = monotonicNanoseconds() + 20_000_000_000
        while database.statistics().delegation.servers == 0, monotonicNanoseconds() < deadline { usleep(5_000) }
        let delegation = try #require(database.core.delegation)
        #expect(delegation.hasServers)
        for number in expected.indices { #expect(try database.get(Self.key(number)) == expected[number]) }
        // Left alone after each time-out: hardly any read waited.
        #expect((1...100).contains(database.statistics().delegation.timeouts), "\(database.statistics().delegation)")
        kill(child, SIGKILL)
        var status: Int32 = 0
        waitpid(child, &status, 0)
        for number in expected.indices { #expect(try database.get(Self.key(number)) == expected[number]) }
        usleep(50_000)
        #expect(!delegation.hasServers)
        abandon(database)
    }

    @Test func aRingThatIsScribbledOnHarmsNobody() throws {
        let store = TemporaryStore("vandal")
        let database = try Self.open(store, .on, offsetCache: 1 << 20)
        let seed = UInt64.random(in: 0 ... .max)
        try Self.withServer(store, database) {
            let expected = try Self.fill(database)
            let isOver = Stop()
            let region = database.core.region
            let vandal = try BackgroundThread("vandal") {
                var random = SeededRandom(seed)
                let slots = region.base + RegionLayout.Ring.offset + RegionLayout.Ring.slots
                while !isOver.isSet {
                    // Anything but the words' states: those come by themselves.
                    let offset = random.below(RegionLayout.Ring.slotBytes / 8) * 8
                    slots.storeBytes(of: random.next() | (offset == 0 ? 2 : 0), toByteOffset: offset, as: UInt64.self)
                }
            }
            for number in expected.indices {
                #expect(try database.get(Self.key(number)) == expected[number], "seed \(seed)")
            }
            isOver.set()
            vandal.join()
        }
        abandon(database)
    }
}

private final class Stop: Sendable {
    private let value = Atomic<Bool>(false)
    var isSet: Bool { value.load(ordering: .acquiring) }
    func set() { value.store(true, ordering: .releasing) }
}
