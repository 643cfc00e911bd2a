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
    private static func open(
        _ store: TemporaryStore, _ mode: ReadDelegationMode, offsetCache: Int = 0, latencyMilliseconds: UInt64 = 20
    ) throws -> Database {
        var options = TemporaryStore.smallOptions
        options.readDelegation = mode
        options.offsetCache = offsetCache
        options.flushThreads = 1
        return try Database.open(
            store.path, options: options,
            storage: DistantStorage(POSIXStorage(), latencyNanoseconds: latencyMilliseconds * 1_000_000, bytesPerSecond: 2 << 20))
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

    private static func withServer(
        _ store: TemporaryStore, _ database: Database, isExpected: Bool = true, _ body: () throws -> Void
    ) throws {
        var configuration = Worker.Configuration()
        configuration.roles = [.reads]
        let worker = try Worker(store.path, configuration)
        let thread = try BackgroundThread("server") { try? worker.run() }
        defer {
            worker.stop()
            thread.join()
        }
        let deadline = monotonicNanoseconds() + 20_000_000_000
        while isExpected, database.statistics().delegation.servers == 0, monotonicNanoseconds() < deadline { usleep(5_000) }
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

    @Test func pausedReadsAskNobody() throws {
        let store = TemporaryStore("paused")
        let database = try Self.open(store, .on)
        try Self.withServer(store, database) {
            let expected = try Self.fill(database)
            let numbers = Array(0..<900)
            func readPoints() throws {
                for number in numbers { #expect(try database.get(Self.key(number)) == expected[number]) }
                #expect(try database.multiGet(numbers.map(Self.key)) == numbers.map { expected[$0] })
            }
            func scan() throws {
                let iterator = try database.makeIterator()
                try iterator.seekToFirst()
                for number in numbers where expected[number] != nil {
                    #expect(iterator.isValid && iterator.key.elementsEqual(Self.key(number)))
                    try iterator.next()
                }
            }
            database.pausesReadDelegation = true
            try readPoints()
            try scan()
            let paused = database.statistics().delegation
            #expect(paused.keys == 0 && paused.ranges == 0, "\(paused)")
            database.pausesReadDelegation = false
            // A server that a busy machine makes late is left alone for a while: each kind of read needs chances of its own,
            // and hundreds of late points leave a scan none.
            func repeatUntil(_ isDone: (Statistics.Delegation) -> Bool, _ read: () throws -> Void) throws {
                let deadline = monotonicNanoseconds() + 30_000_000_000
                repeat { try read() } while !isDone(database.statistics().delegation) && monotonicNanoseconds() < deadline
            }
            try repeatUntil({ $0.ranges > 0 }, scan)
            try repeatUntil({ $0.answered > 0 && $0.keys > 0 }, readPoints)
            let found = database.statistics().delegation
            #expect(found.answered > 0 && found.keys > 0 && found.ranges > 0, "\(found)")
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
                let choice = delegation.choices[.scan, ReadClass(isFar: false, memtables: 1)]
                let scan = DelegatedScan(delegation, choice, DelegationChoice.Way(isDelegated: true, isTimed: true))
                let delegated = DelegatedIterator(memtable, scan)
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

    /// A seek over several memtables has its requests on their way at once, and leaves none behind.
    @Test func aSeekAsksAllMemtablesAtOnce() throws {
        let store = TemporaryStore("seekall")
        let database = try Self.open(store, .on, latencyMilliseconds: 500)
        let expected = try Self.fill(database)
        let delegation = try #require(database.core.delegation)
        let region = database.core.region
        // Served by this thread, when it likes.
        let ring = ReadRing(region, index: 0)
        #expect(ring.take())
        let deadline = monotonicNanoseconds() + 20_000_000_000
        while !delegation.hasServers, monotonicNanoseconds() < deadline { usleep(5_000) }
        let state = database.core.holder.current
        let memtables = state.memtables.filter(\.isDelegable)
        try #require(memtables.count >= 3)
        let choice = delegation.choices[.scan, ReadClass(isFar: false, memtables: memtables.count)]
        let way = DelegationChoice.Way(isDelegated: true, isTimed: true)
        let posted = { (0..<RegionLayout.Ring.slotCount).filter { slot in
            let word = region.base + RegionLayout.Ring.offset + RegionLayout.Ring.slots + slot * RegionLayout.Ring.slotBytes
            return sharedWord64(word).pointee.load(ordering: .acquiring) & 0xff == 1
        }.count }
        let target = Self.key(100)
        do {
            let scan = DelegatedScan(delegation, choice, way)
            let cursors = memtables.map { DelegatedIterator($0, scan) }
            target.withUnsafeBytes { for cursor in cursors { cursor.announceSeek($0, .first) } }
            #expect(posted() == min(memtables.count, ReadDelegation.mostInFlight))
            // Another seek than the announced one, and cursors that go: what is on its way is withdrawn.
            try Self.key(500).withUnsafeBytes { try cursors[0].seek($0, .first) }
            #expect(cursors[0].isValid && compareKeys(Array(cursors[0].userKey), Self.key(500)) >= 0)
            target.withUnsafeBytes { for cursor in cursors { cursor.announceSeek($0, .first) } }
            withExtendedLifetime(cursors) {}
        }
        #expect(posted() == 0)
        ring.leave()
        for number in expected.indices { #expect(try database.get(Self.key(number)) == expected[number]) }
        abandon(database)
    }

    /// A place in an older memtable is an answer only when no newer one has the key.
    @Test(arguments: ReadDelegationMode.allCases) func aPlaceInAnOlderMemtable(mode: ReadDelegationMode) throws {
        let store = TemporaryStore("olderplace\(mode)")
        let database = try Self.open(store, mode, offsetCache: 1 << 20)
        try Self.withServer(store, database, isExpected: mode != .off) {
            let core = database.core
            // States are held: their memtables stay, whatever is flushed.
            func read(_ state: ReadState, _ number: Int) throws -> [UInt8]? {
                try Self.key(number).withUnsafeBytes { try core.lookup($0, state, core.region.visibleSequence)?.copy() }
            }
            for number in 0..<300 { try database.put(Self.key(number), [1]) }
            core.writes.sealIfRoom()
            let older = core.holder.current
            for number in 0..<300 { #expect(try read(older, number) == [1]) }
            // Their places are known now, and out of date for some.
            for number in 0..<300 where number % 3 == 0 { try database.put(Self.key(number), [2]) }
            for number in 0..<300 where number % 5 == 0 { try database.delete(Self.key(number)) }
            core.writes.sealIfRoom()
            try database.put(Self.key(1000), [3])
            core.writes.sealIfRoom()
            let state = core.holder.current
            for _ in 0..<20 {
                for number in 0..<300 {
                    let expected: [UInt8]? = number % 5 == 0 ? nil : number % 3 == 0 ? [2] : [1]
                    #expect(try read(state, number) == expected, "\(number)")
                }
            }
            withExtendedLifetime(older) {}
            let found = database.statistics().delegation
            guard mode != .off else { return }
            #expect(found.damaged == 0)
            #expect(found.classes.contains { $0.kind == "cached" } , "\(found)")
            #expect(found.directReads + found.cachedReads + found.delegatedReads > 0)
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
            var random = SeededRandom(seed &+ 1)
            for number in expected.indices {
                #expect(try database.get(Self.key(number)) == expected[number], "seed \(seed)")
                switch number % 8 {
                case 0:
                    let numbers = (0..<150).map { _ in random.below(1000) }
                    #expect(try database.multiGet(numbers.map(Self.key)) == numbers.map { expected[$0] }, "seed \(seed)")
                case 1:
                    let scan = try database.makeIterator()
                    try scan.seek(Self.key(number))
                    for row in number..<min(1000, number + 40) where expected[row] != nil {
                        try #require(scan.isValid && Array(scan.key) == Self.key(row), "seed \(seed), row \(row)")
                        #expect(Array(scan.value) == expected[row], "seed \(seed)")
                        try scan.next()
                    }
                default: break
                }
            }
            isOver.set()
            vandal.join()
        }
        abandon(database)
    }

    /// A server that sends damaged answers with right sums: reads end, with whatever it said, and the next one's are right.
    @Test func answersThatLieHarmNobody() throws {
        let store = TemporaryStore("liar")
        let database = try Self.open(store, .on)
        let expected = try Self.fill(database)
        let seed = UInt64.random(in: 0 ... .max)
        let region = database.core.region
        let delegation = try #require(database.core.delegation)
        let ring = ReadRing(region, index: 0)
        #expect(ring.take())
        let isOver = Stop()
        let liar = try BackgroundThread("liar") {
            var random = SeededRandom(seed)
            let server = ReadServer(region, ring)
            while !isOver.isSet {
                let found = ring.serve { request, room in
                    guard let count = server.answer(request, room), count > 0 else { return nil }
                    for _ in 0..<random.below(4) {
                        room[random.below(count)] = UInt8(truncatingIfNeeded: random.next())
                    }
                    return random.below(8) == 0 ? random.below(count) : count
                }
                if !found { ring.sleep(milliseconds: 5) }
            }
        }
        let deadline = monotonicNanoseconds() + 20_000_000_000
        while !delegation.hasServers, monotonicNanoseconds() < deadline { usleep(5_000) }
        var random = SeededRandom(seed &+ 1)
        for round in 0..<400 {
            // A refused answer puts the server to rest; here it is asked on.
            delegation.endRests()
            _ = try database.get(Self.key(random.below(1000)))
            if round % 4 == 0 { _ = try database.multiGet((0..<100).map { _ in Self.key(random.below(1000)) }) }
            let scan = try database.makeIterator()
            try scan.seek(Self.key(random.below(1000)))
            for _ in 0..<60 where scan.isValid { try scan.next() }
            if scan.isValid { try scan.previous() }
        }
        #expect(database.statistics().delegation.damaged > 0, "seed \(seed)")
        isOver.set()
        ring.wakeServer()
        liar.join()
        ring.leave()
        try Self.withServer(store, database) {
            delegation.endRests()
            for number in expected.indices {
                let found = try database.get(Self.key(number))
                #expect(found == expected[number], "seed \(seed)")
            }
        }
        abandon(database)
    }
}

private final class Stop: Sendable {
    private let value = Atomic<Bool>(false)
    var isSet: Bool { value.load(ordering: .acquiring) }
    func set() { value.store(true, ordering: .releasing) }
}
