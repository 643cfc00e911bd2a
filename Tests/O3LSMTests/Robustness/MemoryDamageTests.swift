import Foundation
import Glibc
import Testing

@testable import O3LSM

/// Damage in disaggregated memory: recovered from, or named in one sentence; never data, never a crash.
@Suite struct MemoryDamageTests {
    private static let count = 3000
    private static func key(_ number: Int) -> [UInt8] { Array("key\(100_000 + number)".utf8) }
    private static func value(_ number: Int) -> [UInt8] { [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 300) }

    /// A store whose memtable holds everything, and whose log holds it, too, if `isSynced`.
    private static func filled(_ store: TemporaryStore, isSynced: Bool) throws -> Database {
        var options = TemporaryStore.smallOptions
        options.memtableSize = 4 << 20
        options.commitIntervalMilliseconds = 60_000
        let database = try store.open(options)
        for number in 0..<count {
            try database.put(key(number), value(number))
            if number % 500 == 499 { try database.deleteRange(key(number - 10), key(number - 5)) }
        }
        if isSynced { try database.sync() }
        return database
    }

    private static func isDeleted(_ number: Int) -> Bool { (489..<494).contains(number % 500) }

    private static func expectEverything(_ database: Database) throws {
        for number in 0..<count {
            #expect(try database.get(key(number)) == (isDeleted(number) ? nil : value(number)), "key \(number)")
        }
    }

    enum Damage: CaseIterable, Sendable {
        case value, link, circle, allocation, entryCount, tombstoneCount, rootSlabCount
    }

    private static func damage(_ damage: Damage, _ database: Database) throws {
        typealias Root = RegionLayout.ShardRoot
        typealias Entry = RegionLayout.Entry
        let shard = try #require(database.core.writes.active.map.shards.first { !$0.isEmpty })
        let root = shard.root
        // An entry in the middle of the shard, which is not a range tombstone: the flush does not read those again.
        var scan = ShardScan(shard)
        for _ in 0..<(shard.entryCount / 2 + 7) { _ = try scan.next() }
        let entry = try #require(scan.current).pointer
        switch damage {
        case .value: entry.storeBytes(of: 0xee, toByteOffset: Int(EntryView(pointer: entry).headerAndKeyBytes) + 5, as: UInt8.self)
        case .link: entry.storeBytes(of: 0x7777_7770, toByteOffset: Entry.links, as: UInt32.self)
        case .circle: entry.storeBytes(of: scan.currentOffset, toByteOffset: Entry.links, as: UInt32.self)
        case .allocation: entry.storeBytes(of: 12, toByteOffset: Entry.allocation, as: UInt32.self)
        case .entryCount: root.storeBytes(of: 77, toByteOffset: Root.entryCount, as: UInt64.self)
        case .tombstoneCount: root.storeBytes(of: 999_999, toByteOffset: Root.tombstoneCount, as: UInt32.self)
        case .rootSlabCount: root.storeBytes(of: 0xffff_ffff, toByteOffset: Root.slabCount, as: UInt32.self)
        }
    }

    /// What the log has heals everything; links and counts heal of themselves.
    @Test(arguments: Damage.allCases) func aDamagedMemtableIsMadeAgain(_ kind: Damage) throws {
        let store = TemporaryStore("damage\(kind)")
        let isIndexOnly = [.link, .circle, .entryCount, .tombstoneCount, .rootSlabCount].contains(kind)
        let database = try Self.filled(store, isSynced: !isIndexOnly)
        try Self.damage(kind, database)
        try database.flush()
        #expect(database.statistics().flush.repairedMemtables == (kind == .rootSlabCount ? 0 : 1))
        try Self.expectEverything(database)
        #expect(try database.leaks() == [])
        try database.close()
        let again = try store.open()
        try Self.expectEverything(again)
        #expect(try again.verify() == [])
        try again.close()
    }

    /// The log holds what precedes the damage, and trying again writes nothing again.
    @Test func theLogEndsBeforeTheDamage() throws {
        let store = TemporaryStore("logdamage")
        let database = try Self.filled(store, isSynced: false)
        try Self.damage(.value, database)
        var logged: Set<UInt64> = []
        for _ in 0..<5 {
            let error = #expect(throws: EngineError.self) { try database.sync() }
            let isCorruption = if case .corruption = error { true } else { false }
            #expect(isCorruption, "\(String(describing: error))")
            logged.insert(database.statistics().wal.bytesWritten)
        }
        #expect(logged.count == 1)
        #expect(try FileManager.default.contentsOfDirectory(atPath: store.path + "/wal").count == 1)
        let region = database.core.region
        abandon(database)
        region.unlink()
        let again = try store.open()
        let first = try #require((0..<Self.count).first { try again.get(Self.key($0)) == nil && !Self.isDeleted($0) })
        #expect(first > 100 && first < Self.count)
        for number in first..<Self.count { #expect(try again.get(Self.key(number)) == nil) }
        abandon(again)
    }

    /// Neither DM nor the log has it: no more writes, reads go on, and there is a way out.
    @Test func whatIsLostIsSaidInOneSentence() throws {
        let store = TemporaryStore()
        let database = try Self.filled(store, isSynced: false)
        try Self.damage(.value, database)
        let error = #expect(throws: EngineError.self) { try database.flush() }
        let text = error?.description ?? ""
        #expect(text.contains("read-only") && text.contains("memtable") && text.contains("shard") && text.contains("offset"))
        #expect(throws: EngineError.self) { try database.put([1], [2]) }
        #expect(try database.get(Self.key(0)) == Self.value(0))
        #expect(database.statistics().writeError?.contains("remove /dev/shm/") == true)
        #expect(throws: EngineError.self) { try database.close() }
        // The way out.
        let identity = try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage())
        Region.unlink(storeID: identity.storeID)
        let again = try store.open()
        try again.put([1], [2])
        try again.close()
    }

    /// A region that is not what its store left behind: the log is read instead, and what was synced is there.
    @Test func regionsThatCannotBeTrusted() throws {
        typealias Header = RegionLayout.Header
        let slot = RegionLayout.MemtableSlot.offset
        let changes: [(String, (UnsafeMutableRawPointer) -> Void)] = [
            ("magic", { $0.storeBytes(of: 1, toByteOffset: Header.magic, as: UInt64.self) }),
            ("version", { $0.storeBytes(of: 99, toByteOffset: Header.version, as: UInt32.self) }),
            ("size", { $0.storeBytes(of: 99, toByteOffset: Header.regionBytes, as: UInt64.self) }),
            ("store", { $0.storeBytes(of: ~$0.load(fromByteOffset: Header.storeID, as: UInt8.self), toByteOffset: Header.storeID, as: UInt8.self) }),
            ("boot", { $0.storeBytes(of: ~$0.load(fromByteOffset: Header.bootID, as: UInt8.self), toByteOffset: Header.bootID, as: UInt8.self) }),
            ("ready", { $0.storeBytes(of: 7, toByteOffset: Header.ready, as: UInt32.self) }),
            ("visible", {
                $0.storeBytes(of: .max, toByteOffset: Header.visibleSequence, as: UInt64.self)
                $0.storeBytes(of: 0, toByteOffset: Header.visibleComplement, as: UInt64.self)
            }),
            ("state", { $0.storeBytes(of: 99, toByteOffset: slot, as: UInt32.self) }),
            ("shards", { $0.storeBytes(of: 99, toByteOffset: slot + 4, as: UInt32.self) }),
            ("first", { $0.storeBytes(of: 99, toByteOffset: slot + 16, as: UInt64.self) }),
            ("filter", { $0.storeBytes(of: 99_999, toByteOffset: slot + 32, as: UInt32.self) }),
            ("root", { $0.storeBytes(of: 99_999, toByteOffset: slot + 128, as: UInt32.self) }),
            ("boundary", { $0.storeBytes(of: 99_999, toByteOffset: slot + 132, as: UInt32.self) }),
        ]
        for (name, change) in changes {
            let store = TemporaryStore("untrusted\(name)")
            let database = try Self.filled(store, isSynced: true)
            change(database.core.region.base)
            abandon(database)
            let again = try store.open()
            #expect(again.statistics().recovery.source == "log" && again.statistics().recovery.note != nil, "\(name)")
            try Self.expectEverything(again)
            try again.close()
        }
    }

    /// Any bit of the visible sequence or of its complement: nothing is published or taken back by it, though none
    /// of it is in the log.
    @Test func everyBitOfTheVisibleSequence() throws {
        let store = TemporaryStore()
        var options = TemporaryStore.smallOptions
        options.dmSize = 16 << 20
        options.commitIntervalMilliseconds = 60_000
        var count = 0
        for bit in 0..<128 {
            let database = try store.open(options)
            #expect(count == 0 || database.statistics().recovery.source == "region", "bit \(bit - 1)")
            for number in 0..<count where try database.get(Self.key(number)) != Self.value(number) {
                Issue.record("bit \(bit - 1): key \(number) of \(count) is gone")
                return
            }
            // A batch of two, so that neither of its halves is taken for all of it.
            let batch = WriteBatch()
            for number in count..<count + 2 { batch.put(Self.key(number), Self.value(number)) }
            try database.write(batch)
            count += 2
            let place = database.core.region.base + RegionLayout.Header.visibleSequence + bit / 8
            place.storeBytes(of: place.load(as: UInt8.self) ^ UInt8(1 << (bit % 8)), as: UInt8.self)
            abandon(database)
        }
        let last = try store.open(options)
        for number in 0..<count { #expect(try last.get(Self.key(number)) == Self.value(number)) }
        try last.close()
    }

    @Test func aTruncatedRegionAndOneThatOthersCanReach() throws {
        let store = TemporaryStore()
        let database = try Self.filled(store, isSynced: true)
        let name = "/dev/shm" + database.core.region.name
        abandon(database)
        chmod(name, 0o644)
        let error = #expect(throws: EngineError.self) { try store.open() }
        #expect(error?.description.contains("another user can reach") == true)
        chmod(name, 0o600)
        truncate(name, 20 << 20)
        let again = try store.open()
        #expect(again.statistics().recovery.source == "log")
        try Self.expectEverything(again)
        try again.close()
    }

    /// Bits of everything but entries, at random: the store opens, and says nothing that is wrong.
    @Test func flippedBitsOfTheTables() throws {
        let seed = UInt64.random(in: 1...1_000_000)
        print("MemoryDamageTests: seed \(seed)")
        var random = SeededRandom(seed)
        for round in 0..<20 {
            let store = TemporaryStore("flips\(round)")
            let database = try Self.filled(store, isSynced: true)
            let region = database.core.region
            let root = try #require(database.core.writes.active.map.shards.first { !$0.isEmpty }).root
            for _ in 0..<3 {
                let places: [UnsafeMutableRawPointer] = [
                    region.base + random.below(256), region.base + RegionLayout.MemtableSlot.offset + random.below(1024),
                    root + random.below(160),
                ]
                let place = places[random.below(places.count)]
                place.storeBytes(of: place.load(as: UInt8.self) ^ UInt8(1 << random.below(8)), as: UInt8.self)
            }
            abandon(database)
            do throws(EngineError) {
                let again = try Database.open(store.path, options: TemporaryStore.smallOptions)
                for number in 0..<Self.count {
                    // A link that leads past entries hides them until the flush: absence is not looked at here.
                    guard let found = try? again.get(Self.key(number)) else { continue }
                    #expect(Self.isDeleted(number) || found == Self.value(number), "seed \(seed), round \(round), key \(number)")
                }
                do throws(EngineError) {
                    try again.flush()
                    for number in 0..<Self.count {
                        let found = try again.get(Self.key(number))
                        // One failure says it all.
                        let expected = Self.isDeleted(number) ? nil : Self.value(number)
                        if found != expected { throw .corruption(file: "key \(number)", offset: 0, expected: "its value", found: "another") }
                    }
                    try again.close()
                } catch {
                    if error.description.hasPrefix("key ") { Issue.record("seed \(seed), round \(round): \(error)") }
                    abandon(again)
                }
            } catch { print("round \(round): \(error)") }
        }
    }

    /// Recovery is a matter of milliseconds: the issue asks for 1 GiB in one second.
    @Test func recoveryIsFast() throws {
        let store = TemporaryStore()
        var options = TemporaryStore.smallOptions
        options.dmSize = 128 << 20
        options.memtableSize = 16 << 20
        options.commitIntervalMilliseconds = 60_000
        let database = try store.open(options)
        let value = [UInt8](repeating: 1, count: 4000)
        for number in 0..<(15 << 20) / 4100 { try database.put(Self.key(number), value) }
        abandon(database)
        let again = try store.open(options)
        #expect(again.statistics().recovery.source == "region")
        // A debug build on a busy machine, and all of it must be read.
        #expect(again.statistics().recovery.seconds < 2)
        #expect(try again.get(Self.key(1)) == value)
        try again.close()
    }
}
