import Foundation
import Testing

@testable import O3LSM

/// Every point at which power can be cut, not a sample of them: one life of a store is recorded from its creation
/// on, with flushes, compactions, switches of the manifest, rotations of the log and deletions of files, and a
/// store is made of what may be left after each of its storage operations, in several ways. Each of them must
/// open without its DM, hold what was synced (contract 2), and equal the history up to some batch (contract 3).
@Suite struct PowerCutTests {
    /// O3LSM_POWER_SEED makes another history and other losses, O3LSM_POWER_PATTERNS more random losses at each cut.
    private static let seed = PowerLossTests.seed
    private static let randomPatterns =
        ProcessInfo.processInfo.environment["O3LSM_POWER_PATTERNS"].flatMap { Int($0) } ?? 1

    private static let batches = 36

    private static func losses(_ cut: Int) -> [StorageMedium.Loss] {
        let fixed: [StorageMedium.Loss] = [.everything, .nothing, .bytes, .names]
        return fixed
            + (0..<randomPatterns).flatMap { pattern -> [StorageMedium.Loss] in
                let seed = seed &* 1_000_003 &+ UInt64(cut * 64 + pattern)
                return [.torn(seed), .shuffled(seed)]
            }
    }

    @Test func everyCutLeavesAPrefixThatHoldsWhatWasSynced() throws {
        let recorded = RecordedStorage()
        let history = NumberedHistory(seed: Self.seed, spread: 45_000) { recorded.note(begun: $0, synced: $1) }
        try recorded.createDirectory("/store")
        history.run(recorded, batches: Self.batches, restart: 3)
        let operations = recorded.history
        #expect(history.begun == Self.batches && history.synced == Self.batches, "the history must end when nothing fails")
        Self.expectVariety(operations)

        var medium = StorageMedium()
        var survivors = Survivors(history)
        var (points, states) = (0, 0)
        for (index, operation) in operations.enumerated() {
            guard medium.apply(operation) else { continue }
            points += 1
            for loss in Self.losses(index) {
                states += 1
                survivors.examine(medium, loss, "cut after operation \(index), \(operation.summary)")
            }
        }
        print(
            "PowerCutTests: seed \(Self.seed), \(points) crash points, \(states) states after them, \(survivors.count) different ones"
        )
    }

    /// Owners die with their memory in place, and the next one relies on what the logs of the last one hold.
    @Test func everyCutAfterDeaths() throws {
        let recorded = RecordedStorage()
        let history = NumberedHistory(seed: Self.seed &+ 2, spread: 45_000) { recorded.note(begun: $0, synced: $1) }
        try recorded.createDirectory("/store")
        // After a sync, shortly after one, and twice without one in between.
        history.run(recorded, batches: Self.batches, deaths: [6, 10, 16, 17, 23, 33])
        #expect(history.begun == Self.batches && history.synced == Self.batches, "the history must end when nothing fails")
        var medium = StorageMedium()
        var survivors = Survivors(history)
        var points = 0
        for (index, operation) in recorded.history.enumerated() where medium.apply(operation) {
            points += 1
            for loss in [StorageMedium.Loss.everything, .nothing, .torn(UInt64(index)), .shuffled(UInt64(index))] {
                survivors.examine(medium, loss, "cut after operation \(index), \(operation.summary)")
            }
        }
        print("PowerCutTests: \(points) crash points with deaths of owners, \(survivors.count) different states")
    }

    /// Power goes again while the store recovers from the first cut: at each storage operation of recoveries from
    /// some of the cuts.
    @Test func everyCutOfARecovery() throws {
        let recorded = RecordedStorage()
        let history = NumberedHistory(seed: Self.seed &+ 1, spread: 45_000) { recorded.note(begun: $0, synced: $1) }
        try recorded.createDirectory("/store")
        history.run(recorded, batches: Self.batches, restart: 3)
        let operations = recorded.history
        var medium = StorageMedium()
        var survivors = Survivors(history)
        var points = 0
        for (index, operation) in operations.enumerated() {
            guard medium.apply(operation), index % 151 == 150 else { continue }
            let second = RecordedStorage(medium.survivor(.torn(Self.seed &+ UInt64(index))))
            history.forgetRegion(second)
            if let database = try? Database.open("/store", options: NumberedHistory.options, storage: second) {
                try? database.flush()
                abandon(database)
            }
            var recovering = StorageMedium(second.start, begun: medium.begun, synced: medium.synced)
            for (step, operation) in second.history.enumerated() where recovering.apply(operation) {
                points += 1
                for loss in [StorageMedium.Loss.everything, .shuffled(UInt64(step))] {
                    survivors.examine(
                        recovering, loss,
                        "cut after operation \(index), then \(step) of the recovery, \(operation.summary)")
                }
            }
        }
        print("PowerCutTests: seed \(Self.seed), \(points) crash points of recoveries")
    }

    /// A history that lacks one of these tests less than it says.
    private static func expectVariety(_ operations: [RecordedStorage.Operation]) {
        func count(_ isMeant: (RecordedStorage.Operation) -> Bool) -> Int { operations.filter(isMeant).count }
        let logs = count { if case .create(let path, _) = $0 { path.hasSuffix(".log") } else { false } }
        let recycled = count { if case .rename(_, let path) = $0 { path.hasSuffix(".log") } else { false } }
        let manifests = count { if case .create(let path, _) = $0 { path.contains("MANIFEST") } else { false } }
        let deleted = count { if case .unlink(let path) = $0 { path.contains("/sst/") } else { false } }
        let tables = count { if case .create(let path, _) = $0 { path.contains("/sst/") } else { false } }
        print("PowerCutTests: \(logs) logs made, \(recycled) recycled, \(manifests) manifests, \(tables) tables made, \(deleted) deleted")
        #expect(logs > 1)
        #expect(recycled > 0)
        #expect(manifests > 1)
        #expect(deleted > 1)
        #expect(tables > 4)
    }
}

/// The stores that are left, each looked into once: most operations change little of what a loss leaves.
private struct Survivors {
    private let history: NumberedHistory
    /// The batches found in each store that was examined and is sound, by a hash of all its names and bytes.
    private var batches: [Int: Int] = [:]

    var count: Int { batches.count }

    init(_ history: NumberedHistory) { self.history = history }

    mutating func examine(_ medium: StorageMedium, _ loss: StorageMedium.Loss, _ place: String) {
        let survivor = medium.survivor(loss)
        var hasher = Hasher()
        for (path, bytes) in survivor.tree.sorted(by: { $0.key < $1.key }) {
            hasher.combine(path)
            bytes?.withUnsafeBytes { hasher.combine(bytes: $0) }
        }
        let identity = hasher.finalize()
        do {
            let last = try batches[identity] ?? batchesOf(survivor)
            batches[identity] = last
            if last < medium.synced || last > medium.begun {
                Issue.record("\(place), \(loss): \(last) batches, synced \(medium.synced), begun \(medium.begun)")
            }
        } catch {
            Issue.record("\(place), \(loss): \(error)")
        }
    }

    /// How many batches of the history a store holds; throws unless it holds these and nothing else.
    private func batchesOf(_ survivor: MemoryStorage) throws -> Int {
        history.forgetRegion(survivor)
        defer { history.forgetRegion(survivor) }
        let database = try Database.open("/store", options: NumberedHistory.options, storage: survivor)
        defer { abandon(database) }
        let found = try NumberedHistory.contents(database)
        let last = NumberedHistory.number(found[NumberedHistory.head])
        guard found == history.model(after: last) else { throw Unsound.noPrefix(last) }
        let problems = try database.verify()
        guard problems.isEmpty else { throw Unsound.problems("\(problems.prefix(2))") }
        return last
    }

    private enum Unsound: Error {
        /// It says that it holds so many batches.
        case noPrefix(Int)
        case problems(String)
    }
}

extension RecordedStorage.Operation {
    var summary: String {
        switch self {
        case .write(let file, let offset, let bytes): "write of \(bytes.count) bytes at \(offset) of file \(file)"
        default: "\(self)"
        }
    }
}
