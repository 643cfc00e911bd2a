import Foundation
import Testing

@testable import O3LSM

/// Stores damaged in every kind of file: what a repair brings back, what it says is lost, and that it changes nothing
/// when asked to.
@Suite struct StoreRepairTests {
    private typealias Contents = [[UInt8]: [UInt8]]

    private static let seeds = ProcessInfo.processInfo.environment["O3LSM_REPAIR_SEEDS"].flatMap(UInt64.init) ?? 16

    private static func key(_ number: Int) -> [UInt8] { Array("key \(String(number + 100_000))".utf8) }

    /// A store with tables in several levels, a deleted range, overwritten and deleted keys. With `open`, its owner dies
    /// with entries in the log, and its memory goes.
    private static func make(_ store: TemporaryStore, seed: UInt64, dies: Bool = false) throws -> Contents {
        var random = SeededRandom(seed)
        var options = TemporaryStore.smallOptions
        options.blockSize = 1024
        options.tableFileSize = 1 << 20
        let database = try store.open(options)
        var contents: Contents = [:]
        func put(_ number: Int) throws {
            let value = Array("value \(number) \(UInt64.random(in: 0 ... .max, using: &random))".utf8)
                + random.bytes(Int.random(in: 0...1500, using: &random))
            contents[key(number)] = value
            try database.put(key(number), value)
        }
        for number in 0..<3000 { try put(number) }
        try database.flush()
        for _ in 0..<1500 { try put(Int.random(in: 0..<3000, using: &random)) }
        try database.deleteRange(key(700), key(800))
        for number in 700..<800 { contents[key(number)] = nil }
        try database.flush()
        try database.compact()
        for _ in 0..<500 { try put(Int.random(in: 0..<3000, using: &random)) }
        try database.deleteRange(key(1500), key(1550))
        for number in 1500..<1550 { contents[key(number)] = nil }
        for _ in 0..<100 {
            let number = Int.random(in: 0..<3000, using: &random)
            contents[key(number)] = nil
            try database.delete(key(number))
        }
        try database.flush()
        for _ in 0..<400 { try put(Int.random(in: 0..<3000, using: &random)) }
        if dies {
            // What follows stays in the log, however slow the machine is: no memtable is full before the end.
            try database.flush()
            for _ in 0..<10 {
                for _ in 0..<30 { try put(Int.random(in: 0..<3000, using: &random)) }
                try database.sync()
            }
            abandon(database)
            let identity = try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage())
            Region.unlink(storeID: identity.storeID)
        } else {
            try database.close()
        }
        return contents
    }

    private static func contents(of store: TemporaryStore) throws -> Contents {
        let database = try store.open()
        defer { try? database.close() }
        #expect(try database.verify().map(\.description) == [])
        var found: Contents = [:]
        let cursor = try database.makeIterator()
        try cursor.seekToFirst()
        while cursor.isValid {
            found[Array(cursor.key)] = Array(cursor.value)
            try cursor.next()
        }
        return found
    }

    /// The keys of which something else is found than what was written last.
    private static func differences(_ found: Contents, _ expected: Contents) -> [[UInt8]] {
        Set(found.keys).union(expected.keys).filter { found[$0] != expected[$0] }
    }

    private static func isCovered(_ key: [UInt8], _ report: StoreRepairReport) -> Bool {
        report.losses.contains { loss in
            loss.note != nil
                || (loss.after.map { compareKeys($0, key) <= 0 } ?? true) && (loss.before.map { compareKeys(key, $0) <= 0 } ?? true)
        }
    }

    private static func files(_ store: TemporaryStore) throws -> [String: Data] {
        var result: [String: Data] = [:]
        for name in try FileManager.default.subpathsOfDirectory(atPath: store.path) {
            // The owner's number is in it.
            guard name != "LOCK" else { continue }
            result[name] = FileManager.default.contents(atPath: store.path + "/" + name)
        }
        return result
    }

    private static func tables(_ store: TemporaryStore) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: store.path + "/sst").sorted().map { store.path + "/sst/" + $0 }
    }

    private static func change(_ path: String, _ body: (inout Data) -> Void) throws {
        var bytes = try #require(FileManager.default.contents(atPath: path))
        body(&bytes)
        try bytes.write(to: URL(fileURLWithPath: path))
    }

    /// Dry first, which must change nothing and say the same.
    private static func repair(_ store: TemporaryStore) throws -> StoreRepairReport {
        let before = try files(store)
        let planned = try StoreRepair(store.path).run(dryRun: true)
        #expect(try files(store) == before, "a dry run has changed something")
        let report = try StoreRepair(store.path).run(dryRun: false)
        #expect(report.losses == planned.losses)
        #expect(report.changes.count == planned.changes.count, "\(planned.changes) \(report.changes)")
        let after = try StoreRepair(store.path).run(dryRun: true)
        #expect(after.isSound, "\(after)")
        return report
    }

    private static func remove(_ suffix: String, of store: TemporaryStore) {
        try? FileManager.default.removeItem(atPath: store.path + suffix)
    }

    @Test func aSoundStoreIsLeftAlone() throws {
        let store = TemporaryStore()
        let contents = try Self.make(store, seed: 1)
        #expect(try Self.repair(store).isSound)
        #expect(try Self.contents(of: store) == contents)
    }

    /// Everything of a table but its data is made again from the data.
    @Test(arguments: ["header", "filter", "index", "properties", "footer", "end"]) func whatIsNotDataCostsNothing(part: String)
        throws
    {
        let store = TemporaryStore("\(#function)\(part)")
        let contents = try Self.make(store, seed: 2)
        for path in try Self.tables(store) {
            let footer = try TableOpener(try POSIXStorage().openForReading(path)).footer
            try Self.change(path) { bytes in
                switch part {
                case "header": bytes[3] ^= 4
                case "filter": bytes[Int(footer.filter.offset) + 5] ^= 1
                case "index": bytes[Int(footer.index.offset) + 9] ^= 8
                case "properties": bytes[Int(footer.properties.offset) + 2] ^= 64
                case "footer": bytes[bytes.count - 50] ^= 2
                default: bytes.removeLast(20)
                }
            }
        }
        let report = try Self.repair(store)
        #expect(!report.changes.isEmpty)
        #expect(report.losses == [])
        #expect(try Self.contents(of: store) == contents)
        #expect(!(try FileManager.default.contentsOfDirectory(atPath: store.path + "/damaged")).isEmpty)
    }

    /// A block of data is lost, and what is lost is said; nothing else is.
    @Test(arguments: 0..<6) func aBlockCostsItsEntries(seed: UInt64) throws {
        var random = SeededRandom(seed)
        let store = TemporaryStore("\(#function)\(seed)")
        let contents = try Self.make(store, seed: seed)
        let path = try #require(try Self.tables(store).randomElement(using: &random))
        let properties = try TableOpener(try POSIXStorage().openForReading(path)).properties()
        let place = Int.random(in: TableFormat.headerBytes..<Int(properties.dataEnd), using: &random)
        try Self.change(path) { $0[place] ^= 1 << UInt8.random(in: 0..<8, using: &random) }
        let report = try Self.repair(store)
        #expect(report.losses.count == 1)
        let loss = try #require(report.losses.first)
        #expect(loss.file == path && Int(loss.offset) <= place && place < Int(loss.offset + loss.bytes) && loss.bytes < 4096)
        let different = Self.differences(try Self.contents(of: store), contents)
        #expect(different.allSatisfy { Self.isCovered($0, report) }, "\(different) \(report)")
        #expect(different.count < 60)
    }

    @Test(arguments: ["gone", "emptied", "one bit"]) func currentAndIdentity(damage: String) throws {
        let store = TemporaryStore("\(#function)\(damage)")
        let contents = try Self.make(store, seed: 3)
        for name in ["/CURRENT", "/IDENTITY"] {
            switch damage {
            case "gone": Self.remove(name, of: store)
            case "emptied": try Self.change(store.path + name) { $0 = Data() }
            default: try Self.change(store.path + name) { $0[11] ^= 1 }
            }
        }
        let report = try Self.repair(store)
        #expect(report.changes.count == 2 && report.losses == [])
        #expect(try Self.contents(of: store) == contents)
    }

    /// Also with damaged tables, and with snapshots, which stay with the store.
    @Test(arguments: ["gone", "cut", "one bit"]) func withoutManifest(damage: String) throws {
        let store = TemporaryStore("\(#function)\(damage)")
        let contents = try Self.make(store, seed: 4)
        var opened: Database? = try store.open()
        _ = try opened?.createSnapshot("kept")
        try opened?.close()
        opened = nil
        let manifest = try #require(
            try FileManager.default.contentsOfDirectory(atPath: store.path).first { $0.hasPrefix("MANIFEST-") })
        switch damage {
        case "gone": Self.remove("/" + manifest, of: store)
        case "cut": try Self.change(store.path + "/" + manifest) { $0.removeLast($0.count - 40) }
        default: try Self.change(store.path + "/" + manifest) { $0[45] ^= 16 }
        }
        let report = try Self.repair(store)
        #expect(report.losses == [] && report.changes.count == 2, "\(report)")
        #expect(try Self.contents(of: store) == contents)
        #expect(FileManager.default.fileExists(atPath: store.path + ".damaged/sst"))
        #expect(try SnapshotDirectory(store: store.path).list().map(\.name) == ["kept"])
        // The next one must not write over what this one has kept.
        Self.remove("/CURRENT", of: store)
        for name in try FileManager.default.contentsOfDirectory(atPath: store.path) where name.hasPrefix("MANIFEST-") {
            Self.remove("/" + name, of: store)
        }
        #expect(throws: EngineError.self) { try StoreRepair(store.path).run(dryRun: false) }
        Self.remove(".damaged", of: store)
        _ = try StoreRepair(store.path).run(dryRun: false)
        #expect(try Self.contents(of: store) == contents)
        Self.remove(".damaged", of: store)
    }

    /// The log of an owner that died, damaged in the middle: what lies before and after it is there.
    @Test(arguments: 0..<3, [true, false]) func aDamagedLog(seed: UInt64, hasManifest: Bool) throws {
        var random = SeededRandom(seed)
        let store = TemporaryStore("\(#function)\(seed)\(hasManifest)")
        let contents = try Self.make(store, seed: seed, dies: true)
        // A flush at a bad moment may have the last file of the log begin anew: the one with the most records is damaged.
        var path = ""
        var offsets: [UInt64] = []
        for log in try FileManager.default.contentsOfDirectory(atPath: store.path + "/wal") where log.hasSuffix(".log") {
            var found: [UInt64] = []
            try LogReader.forEach(
                storage: POSIXStorage(), path: store.path + "/wal/" + log, logNumber: try #require(StoreLayout.number(in: log)),
                kind: .writeAhead) { _, offset in found.append(offset) }
            if found.count > offsets.count { (path, offsets) = (store.path + "/wal/" + log, found) }
        }
        try #require(offsets.count > 3)
        let record = Int.random(in: 1..<offsets.count - 1, using: &random)
        let place = Int(offsets[record]) + Int.random(in: 0..<40, using: &random)
        try Self.change(path) { $0[place] ^= 1 << UInt8.random(in: 0..<8, using: &random) }
        if !hasManifest { Self.remove("/CURRENT", of: store) }
        if !hasManifest {
            for name in try FileManager.default.contentsOfDirectory(atPath: store.path) where name.hasPrefix("MANIFEST-") {
                Self.remove("/" + name, of: store)
            }
        } else {
            #expect(throws: EngineError.self) { try store.open() }
        }
        let report = try Self.repair(store)
        #expect(report.losses.map(\.offset) == [offsets[record]] && report.losses.map(\.file) == [path])
        // Without a manifest, tables that were no longer needed, and whose deletions are nowhere any more, count again.
        let different = Self.differences(try Self.contents(of: store), contents).filter { hasManifest || contents[$0] != nil }
        #expect(different.count <= 40, "more is lost than a record holds: \(different.count)")
        Self.remove(".damaged", of: store)
    }

    /// An interruption after the old store has gone and before the new one has its name.
    @Test func anInterruptedExchangeIsEnded() throws {
        let store = TemporaryStore()
        let contents = try Self.make(store, seed: 5)
        let files = FileManager.default
        try files.copyItem(atPath: store.path, toPath: store.path + ".damaged")
        try files.moveItem(atPath: store.path, toPath: store.path + ".o3fs-repair")
        #expect(StoreRepair.isCandidate(store.path))
        #expect(try StoreRepair(store.path).run(dryRun: false).isSound)
        #expect(try Self.contents(of: store) == contents)
        // What was begun beside a store that is there is not a store.
        try files.createDirectory(atPath: store.path + ".o3fs-repair/sst", withIntermediateDirectories: true)
        #expect(try StoreRepair(store.path).run(dryRun: false).isSound)
        #expect(!files.fileExists(atPath: store.path + ".o3fs-repair"))
        Self.remove(".damaged", of: store)
    }

    /// Somebody has put a link where a repair makes its new store, or where it has left the old one.
    @Test(arguments: [".o3fs-repair", ".damaged"]) func aLinkBesideTheStoreIsNotFollowed(suffix: String) throws {
        let store = TemporaryStore("\(#function)\(suffix)")
        let contents = try Self.make(store, seed: 5)
        let files = FileManager.default
        let elsewhere = store.path + "-elsewhere"
        try files.createDirectory(atPath: elsewhere + "/snapshots", withIntermediateDirectories: true)
        try Data("kept".utf8).write(to: URL(fileURLWithPath: elsewhere + "/f"))
        try files.createSymbolicLink(atPath: store.path + suffix, withDestinationPath: elsewhere)
        defer { for path in [elsewhere, store.path + suffix] { try? files.removeItem(atPath: path) } }
        #expect(throws: EngineError.self) { try StoreRepair(store.path).run(dryRun: false) }
        #expect(try files.contentsOfDirectory(atPath: elsewhere).sorted() == ["f", "snapshots"])
        #expect(try Self.contents(of: store) == contents)
    }

    @Test func aStoreInUseIsRefused() throws {
        let store = TemporaryStore()
        let database = try store.open()
        #expect(throws: EngineError.self) { try StoreRepair(store.path).run(dryRun: true) }
        #expect(throws: EngineError.self) { try StoreRepair(store.path).run(dryRun: false) }
        try database.close()
        #expect(throws: EngineError.self) { try StoreRepair(store.path + "-none").run(dryRun: true) }
    }

    /// Any few files damaged anyhow: the store opens again, is sound, and whatever is not as it was is said to be lost.
    @Test(arguments: 0..<seeds) func anyDamage(seed: UInt64) throws {
        var random = SeededRandom(seed)
        let store = TemporaryStore("\(#function)\(seed)")
        let contents = try Self.make(store, seed: seed, dies: Bool.random(using: &random))
        let names = try Self.files(store).keys.sorted()
        var manifestIsHit = false
        for _ in 0..<Int.random(in: 1...5, using: &random) {
            let name = try #require(names.randomElement(using: &random))
            manifestIsHit = manifestIsHit || name.hasPrefix("MANIFEST")
            let path = store.path + "/" + name
            guard let count = FileManager.default.contents(atPath: path)?.count, count > 0 else { continue }
            switch Int.random(in: 0..<4, using: &random) {
            case 0: try FileManager.default.removeItem(atPath: path)
            case 1: try Self.change(path) { $0.removeLast(Int.random(in: 1...count, using: &random)) }
            case 2:
                let place = Int.random(in: 0..<count, using: &random)
                try Self.change(path) { $0[place] ^= 1 << UInt8.random(in: 0..<8, using: &random) }
            default:
                let place = Int.random(in: 0..<count, using: &random)
                let end = min(count, place + Int.random(in: 1...3000, using: &random))
                try Self.change(path) { bytes in for index in place..<end { bytes[index] = UInt8.random(in: 0...255, using: &random) } }
            }
        }
        let report = try Self.repair(store)
        let different = Self.differences(try Self.contents(of: store), contents)
        // A log that is gone, or cut off, leaves no trace; nor does a manifest whose last edits are.
        let logs = names.filter { $0.hasPrefix("wal/") }
        if logs.isEmpty, !manifestIsHit {
            #expect(different.allSatisfy { Self.isCovered($0, report) }, "\(different.count) \(report)")
        }
        Self.remove(".damaged", of: store)
    }
}
