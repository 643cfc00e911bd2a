import Foundation
import Testing

@testable import O3LSM

/// Every point at which power can be cut while directories change: snapshots that are made and deleted, a store that is
/// imported or brought up to date, one that is repaired. What is left is the state before or the state after, and who
/// begins again gets to the end.
@Suite struct PowerCutBackupTests {
    private static let store = "/store"
    private static let seed = PowerLossTests.seed

    private static var options: Options {
        var options = NumberedHistory.options
        options.disableAutomaticCompaction = true
        options.commitIntervalMilliseconds = 3_600_000
        return options
    }

    private static func losses(_ cut: Int) -> [StorageMedium.Loss] {
        [.everything, .nothing, .bytes, .names, .torn(seed &* 1_000_003 &+ UInt64(cut)), .shuffled(UInt64(cut))]
    }

    /// Calls `look` with what each loss at each cut may leave, with each different storage once, and `judge` with each of
    /// its findings and how far the work was.
    private static func atEveryCut<Finding>(
        _ name: String, _ recorded: RecordedStorage, _ look: (MemoryStorage) throws -> Finding,
        _ judge: (Finding, StorageMedium) -> String?
    ) {
        var medium = StorageMedium(recorded.start, begun: 0, synced: 0)
        var found: [Int: Finding] = [:]
        var (points, wrong) = (0, 0)
        for (index, operation) in recorded.history.enumerated() where medium.apply(operation) {
            points += 1
            for loss in losses(index) {
                let survivor = medium.survivor(loss)
                var hasher = Hasher()
                for (path, bytes) in survivor.tree.sorted(by: { $0.key < $1.key }) {
                    hasher.combine(path)
                    hasher.combine(bytes)
                }
                let identity = hasher.finalize()
                let problem: String?
                do {
                    let finding = try found[identity] ?? look(survivor)
                    found[identity] = finding
                    problem = judge(finding, medium)
                } catch { problem = "\(error)" }
                guard let problem else { continue }
                wrong += 1
                guard wrong < 5 else { continue }
                Issue.record("\(name): cut after operation \(index), \(operation.summary), \(loss): \(problem)")
            }
        }
        print("PowerCutBackupTests: \(name): seed \(seed), \(points) crash points, \(found.count) different states")
        #expect(points > 10 && wrong == 0)
    }

    /// What a store or a snapshot holds, by a reader that changes nothing.
    private static func contents(_ path: String, _ storage: any Storage) throws -> [[UInt8]: [UInt8]] {
        var reading = options
        reading.readOnly = true
        reading.createIfMissing = false
        let database = try Database.open(path, options: reading, storage: storage)
        defer { abandon(database) }
        let problems = try database.verify()
        guard problems.isEmpty else { throw Unsound.problems("\(problems.prefix(2))") }
        return try NumberedHistory.contents(database)
    }

    /// How many batches of the history these are.
    private static func count(_ contents: [[UInt8]: [UInt8]], _ history: NumberedHistory) throws -> Int {
        let last = NumberedHistory.number(contents[NumberedHistory.head])
        guard contents == history.model(after: last) else { throw Unsound.noPrefix(last) }
        return last
    }

    private enum Unsound: Error {
        case noPrefix(Int)
        case problems(String)
    }

    // MARK: Snapshots

    private struct Snapshots {
        var batches: Int
        /// Of each snapshot, by its name.
        var kept: [String: Int]
    }

    @Test func snapshotsAreThereWholeOrNotAtAll() throws {
        let recorded = RecordedStorage()
        let history = NumberedHistory(seed: Self.seed, spread: 3000)
        try recorded.createDirectory(Self.store)
        let database = try Database.open(Self.store, options: Self.options, storage: recorded)
        var synced = 0
        func write(_ batches: ClosedRange<Int>) throws {
            for number in batches {
                recorded.note(begun: number, synced: synced)
                try database.write(history.batch(number))
            }
        }
        func make(_ name: String, after batches: Int) throws {
            recorded.mark("making \(name)")
            try database.createSnapshot(name)
            synced = batches
            recorded.note(begun: batches, synced: batches)
            recorded.mark("made \(name)")
        }
        try write(1...3)
        try make("a", after: 3)
        try write(4...6)
        try make("b", after: 6)
        try database.compact()
        try write(7...8)
        recorded.mark("deleting a")
        try SnapshotDirectory(store: Self.store, storage: recorded).delete("a")
        recorded.mark("deleted a")
        try write(9...10)
        try make("c", after: 10)
        abandon(database)
        history.forgetRegion(recorded)

        let last = ["a": 3, "b": 6, "c": 10]
        Self.atEveryCut("snapshots", recorded) { survivor in
            defer { history.forgetRegion(survivor) }
            let reopened = try Database.open(Self.store, options: Self.options, storage: survivor)
            defer { abandon(reopened) }
            let batches = try Self.count(try NumberedHistory.contents(reopened), history)
            let problems = try reopened.verify()
            guard problems.isEmpty else { throw Unsound.problems("\(problems.prefix(2))") }
            var kept: [String: Int] = [:]
            for snapshot in try SnapshotDirectory(store: Self.store, storage: survivor).list() {
                kept[snapshot.name] = try Self.count(try Self.contents(snapshot.path, survivor), history)
            }
            let hidden = (try? survivor.list(Self.store + "/snapshots"))?.filter { $0.hasPrefix(".") } ?? []
            guard hidden.isEmpty else { throw Unsound.problems("left behind: \(hidden)") }
            return Snapshots(batches: batches, kept: kept)
        } _: { found, medium in
            guard (medium.synced...medium.begun).contains(found.batches) else {
                return "\(found.batches) batches, synced \(medium.synced), begun \(medium.begun)"
            }
            for (name, batches) in last {
                let mayBe = medium.marks.contains("making \(name)") && !medium.marks.contains("deleted \(name)")
                let mustBe = medium.marks.contains("made \(name)") && !medium.marks.contains("deleting \(name)")
                let there = found.kept[name]
                if there != (mustBe ? batches : mayBe && there != nil ? batches : nil) {
                    return "snapshot \(name) with \(there.map { "\($0)" } ?? "no") batches"
                }
            }
            return nil
        }
    }

    // MARK: Imports

    /// A stream of the first 5 batches, and one of what batches 6 … 9 change.
    private static func streams(_ history: NumberedHistory) throws -> (whole: [UInt8], changes: [UInt8]) {
        final class Sink { var bytes: [UInt8] = [] }
        let source = TemporaryStore("powercutimport")
        let database = try source.open(options)
        for number in 1...5 { try database.write(history.batch(number)) }
        let first = try database.createSnapshot("first")
        for number in 6...9 { try database.write(history.batch(number)) }
        let second = try database.createSnapshot("second")
        let (whole, changes) = (Sink(), Sink())
        _ = try Export.run(first) { whole.bytes += Array($0) }
        _ = try Export.run(second, since: first) { changes.bytes += Array($0) }
        try database.close()
        return (whole.bytes, changes.bytes)
    }

    private static func run(_ stream: [UInt8], _ storage: any Storage) throws {
        final class Source { var offset = 0 }
        let source = Source()
        let imported = try Import(to: store, name: "the stream", storage: storage) { buffer in
            let count = min(buffer.count, stream.count - source.offset)
            buffer.copyBytes(from: stream[source.offset..<source.offset + count])
            source.offset += count
            return count
        }
        _ = try imported.run()
    }

    @Test func anImportedStoreIsThereWholeOrNotAtAll() throws {
        let history = NumberedHistory(seed: Self.seed, spread: 3000)
        let stream = try Self.streams(history).whole
        let recorded = RecordedStorage()
        try Self.run(stream, recorded)
        recorded.mark("imported")
        Self.atEveryCut("import", recorded) { survivor -> Int? in
            guard survivor.exists(Self.store) else {
                try Self.run(stream, survivor)
                guard try Self.count(try Self.contents(Self.store, survivor), history) == 5 else { throw Unsound.noPrefix(0) }
                return nil
            }
            return try Self.count(try Self.contents(Self.store, survivor), history)
        } _: { found, medium in
            found == 5 || found == nil && !medium.marks.contains("imported") ? nil : "\(found ?? 0) batches"
        }
    }

    @Test func anImportOfChangesIsThereWholeOrNotAtAll() throws {
        let history = NumberedHistory(seed: Self.seed, spread: 3000)
        let (whole, changes) = try Self.streams(history)
        let base = MemoryStorage()
        try Self.run(whole, base)
        let database = try Database.open(Self.store, options: Self.options, storage: base)
        try database.createSnapshot("kept")
        try database.close()
        let recorded = RecordedStorage(base.afterPowerLoss(.nothing))
        try Self.run(changes, recorded)
        recorded.mark("imported")
        Self.atEveryCut("import of changes", recorded) { survivor in
            defer { history.forgetRegion(survivor) }
            let found = try Self.count(try Self.contents(Self.store, survivor), history)
            // Again, which a store that has the changes refuses, but brings the rest of it to an end.
            do { try Self.run(changes, survivor) } catch EngineError.invalidArgument where found == 9 {}
            guard try Self.count(try Self.contents(Self.store, survivor), history) == 9 else { throw Unsound.noPrefix(found) }
            let snapshots = try SnapshotDirectory(store: Self.store, storage: survivor).list()
            guard snapshots.map(\.name) == ["kept"],
                try Self.count(try Self.contents(snapshots[0].path, survivor), history) == 5
            else { throw Unsound.problems("snapshots: \(snapshots.map(\.name))") }
            guard !survivor.exists(Self.store + ".o3fs-import") else { throw Unsound.problems("something is left behind") }
            return found
        } _: { found, medium in
            found == 9 || found == 5 && !medium.marks.contains("imported") ? nil : "\(found) batches"
        }
    }

    // MARK: Repairs

    /// A closed store of three tables and a snapshot.
    private static func closedStore(_ history: NumberedHistory) throws -> MemoryStorage {
        let storage = MemoryStorage()
        let database = try Database.open(store, options: options, storage: storage)
        for number in 1...9 {
            try database.write(history.batch(number))
            if number % 3 == 0 { try database.flush() }
            if number == 6 { try database.createSnapshot("kept") }
        }
        try database.close()
        return storage.afterPowerLoss(.nothing)
    }

    private static func repairAtEveryCut(_ name: String, _ damaged: MemoryStorage, _ history: NumberedHistory) throws
        -> [[UInt8]: [UInt8]]
    {
        let recorded = RecordedStorage(damaged)
        let report = try StoreRepair(store, storage: recorded).run(dryRun: false)
        #expect(!report.isSound)
        let repaired = try contents(store, recorded)
        atEveryCut(name, recorded) { survivor -> Bool in
            _ = try StoreRepair(store, storage: survivor).run(dryRun: false)
            guard try contents(store, survivor) == repaired else { throw Unsound.noPrefix(0) }
            let snapshots = try SnapshotDirectory(store: store, storage: survivor).list()
            guard snapshots.map(\.name) == ["kept"],
                try count(try contents(snapshots[0].path, survivor), history) == 6
            else { throw Unsound.problems("snapshots: \(snapshots.map(\.name))") }
            return true
        } _: { _, _ in nil }
        return repaired
    }

    @Test func anInterruptedRebuildIsBroughtToItsEnd() throws {
        let history = NumberedHistory(seed: Self.seed, spread: 3000)
        let storage = try Self.closedStore(history)
        for name in try storage.list(Self.store) where name == "CURRENT" || name.hasPrefix("MANIFEST-") {
            try storage.delete(Self.store + "/" + name)
        }
        let repaired = try Self.repairAtEveryCut("rebuild", storage, history)
        #expect(repaired == history.model(after: 9))
    }

    @Test func anInterruptedReplacementOfATableIsBroughtToItsEnd() throws {
        let history = NumberedHistory(seed: Self.seed, spread: 3000)
        let storage = try Self.closedStore(history)
        let layout = StoreLayout(root: Self.store)
        // One that no snapshot has, and the largest of those: the flip is in the middle of its entries.
        let snapshot = StoreLayout(root: Self.store + "/snapshots/kept").tableDirectory
        let candidates = try Set(storage.list(layout.tableDirectory)).subtracting(storage.list(snapshot))
            .map { layout.tableDirectory + "/" + $0 }
        let path = try #require(candidates.max { storage.bytes(of: $0)?.count ?? 0 < storage.bytes(of: $1)?.count ?? 0 })
        var bytes = try #require(storage.bytes(of: path))
        bytes[bytes.count / 3] ^= 1
        storage.set(path, to: bytes)
        _ = try Self.repairAtEveryCut("replacement of a table", storage, history)
    }
}
