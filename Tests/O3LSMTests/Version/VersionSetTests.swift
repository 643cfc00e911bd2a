import Glibc
import Synchronization
import Testing

@testable import O3LSM

@Suite struct VersionSetTests {
    private let layout = StoreLayout(root: "store")

    private func emptyStore() throws -> MemoryStorage {
        let storage = MemoryStorage()
        for directory in [layout.root, layout.tableDirectory] { try storage.createDirectory(directory) }
        return storage
    }

    private func create(_ storage: any Storage, limit: UInt64 = 4 << 20) throws(EngineError) -> VersionSet {
        try VersionSet.create(layout: layout, storage: storage, manifestLimit: limit) { _ in }
    }

    private func recover(_ storage: any Storage, limit: UInt64 = 4 << 20) throws(EngineError) -> VersionSet {
        try VersionSet.recover(layout: layout, storage: storage, manifestLimit: limit) { _ in }
    }

    /// What a version set holds, to compare.
    private struct Shape: Equatable {
        var tables: [[String]]
        var flushed: SequenceNumber
        var last: SequenceNumber

        init(_ set: VersionSet) {
            tables = set.current.descriptions
            flushed = set.flushedSequence
            last = set.lastSequence
        }
    }

    /// Flushes, a move and merges. Each works on whatever the set holds.
    private func step(_ index: Int, _ set: VersionSet) throws(EngineError) {
        let version = set.current
        if index % 4 == 3, let file = version.levels[0].last {
            try set.logAndApply(.moving([(0, file.number)], to: [(index % 8 == 3 ? 1 : 2, file)]))
        } else if index % 7 == 6, let file = version.levels[1].first {
            let merged = FileMetadata.table(
                set.newFileNumber(),
                String(decoding: file.smallest.userKey, as: UTF8.self),
                String(decoding: file.largest.userKey, as: UTF8.self),
                sequences: file.smallestSequence...file.largestSequence
            )
            try set.logAndApply(.moving([(1, file.number)], to: [(3 + index % 3, merged)]))
        } else {
            let first = UInt64(index) * 10 + 1
            let file = FileMetadata.table(
                set.newFileNumber(),
                "\(100 + index)",
                "\(100 + index)z",
                sequences: first...first + 9
            )
            try set.logAndApply(.adding([(0, file)], flushed: first + 9))
        }
    }

    @Test func editsSurviveRecovery() throws {
        let storage = try emptyStore()
        let set = try create(storage)
        for index in 0..<20 { try step(index, set) }
        let again = try recover(storage)
        #expect(Shape(again) == Shape(set))
        #expect(again.newFileNumber() > set.newFileNumber())
        for index in 20..<30 { try step(index, again) }
        #expect(Shape(try recover(storage)) == Shape(again))
        // One manifest: the recovered one was replaced.
        #expect(try storage.list(layout.root).filter { $0.hasPrefix("MANIFEST-") }.count == 1)
    }

    @Test func manifestIsWrittenAnewWhenItHasGrown() throws {
        let storage = try emptyStore()
        let set = try create(storage, limit: 300)
        var manifests: Set<String> = []
        for index in 0..<40 {
            try step(index, set)
            let names = try storage.list(layout.root).filter { $0.hasPrefix("MANIFEST-") }
            #expect(names.count == 1)
            manifests.formUnion(names)
            #expect(Shape(try recover(storage)) == Shape(set))
        }
        #expect(manifests.count > 2)
    }

    @Test func largeSnapshotsTakeSeveralRecords() throws {
        let storage = try emptyStore()
        let set = try create(storage, limit: 0)
        let files = (0..<2500).map { FileMetadata.table(set.newFileNumber(), "\(10000 + $0)", "\(10000 + $0)z") }
        try set.logAndApply(.adding(files.map { (4, $0) }))
        try set.logAndApply(.adding([], flushed: 5))
        let again = try recover(storage)
        #expect(Shape(again) == Shape(set))
        try again.logAndApply(.adding([], flushed: 6))
        #expect(try recover(storage).current.levels[4].count == 2500)
    }

    @Test func misfitChangesNothing() throws {
        let storage = try emptyStore()
        let set = try create(storage)
        try step(0, set)
        let before = Shape(set)
        #expect(throws: EngineError.self) { try set.logAndApply(.moving([(3, 17)], to: [])) }
        #expect(Shape(set) == before)
        try step(1, set)
        #expect(Shape(try recover(storage)) == Shape(set))
    }

    @Test func tablesAreReclaimedWhenTheirLastVersionIsGone() throws {
        let storage = try emptyStore()
        let reclaimed = Reclaimed()
        let set = try VersionSet.create(layout: layout, storage: storage) { reclaimed.add($0) }
        let moving = FileMetadata.table(set.newFileNumber(), "a", "b")
        let leaving = set.newFileNumber()
        try set.logAndApply(.adding([(0, moving), (0, .table(leaving, "c", "d"))]))
        var reader: Version? = set.current
        try set.logAndApply(.moving([(0, moving.number)], to: [(1, moving)]))
        try set.logAndApply(.moving([(0, leaving)], to: []))
        #expect(reclaimed.numbers.isEmpty && reader != nil)
        reader = nil
        #expect(reclaimed.numbers == [leaving])
        #expect(set.liveFileNumbers() == [moving.number])
        // Also for a table that a recovery has found.
        let again = try VersionSet.recover(layout: layout, storage: storage) { reclaimed.add($0) }
        try again.logAndApply(.moving([(1, moving.number)], to: []))
        #expect(reclaimed.numbers == [leaving, moving.number])
    }

    @Test func orphansAreRemovedAndTheirNumbersNotGivenOutAgain() throws {
        let storage = try emptyStore()
        let set = try create(storage)
        try step(0, set)
        let live = set.current.levels[0][0].number
        for path in [
            layout.table(live), layout.table(90_000), layout.manifest(80_000), layout.current + ".tmp",
            layout.identity + ".tmp", layout.identity, layout.tableDirectory + "/7.sst", layout.root + "/notes.tmp",
        ] { storage.set(path, to: [1]) }
        let again = try recover(storage)
        try again.removeOrphans()
        let manifest = try #require(try storage.list(layout.root).first { $0.hasPrefix("MANIFEST-") })
        #expect(try storage.list(layout.root) == ["CURRENT", "IDENTITY", manifest, "notes.tmp", "sst"])
        #expect(Set(try storage.list(layout.tableDirectory)) == ["7.sst", String(layout.table(live).dropFirst(10))])
        #expect(again.newFileNumber() > 90_000)
    }

    /// The owner goes on to its work, and gives out no number of a file that is still to be removed.
    @Test func orphansCanBeLeftToOthers() throws {
        let storage = try emptyStore()
        let set = try create(storage)
        try step(0, set)
        let orphans = [layout.table(70_000), layout.table(95_000, attempt: 7)]
        for path in orphans + [layout.manifest(80_000)] { storage.set(path, to: [1]) }
        let again = try recover(storage)
        var later: [String] = []
        try again.removeOrphans { later.append($0) }
        #expect(Set(later) == Set(orphans))
        for path in orphans { #expect(storage.exists(path)) }
        // Numbers of manifests are given out at once, so these go at once.
        #expect(!storage.exists(layout.manifest(80_000)))
        #expect(again.newFileNumber() > 95_000)
    }

    /// What unfinished jobs have left may be all that fills the disk.
    @Test func attemptsMakeRoomForTheManifest() throws {
        let memory = try emptyStore()
        let storage = FaultyStorage(memory)
        let set = try create(storage)
        try step(0, set)
        let attempt = layout.table(50, attempt: 7)
        memory.set(attempt, to: [1])
        let again = try recover(storage)
        storage.fail(.create, path: "MANIFEST", code: ENOSPC)
        try again.removeOrphans { path in Issue.record("\(path) is left, though the disk is full") }
        #expect(!memory.exists(attempt))
        #expect(Shape(try recover(memory.afterPowerLoss())) == Shape(set))
    }

    @Test func orphansAreRemovedAFewAtATime() throws {
        let storage = try emptyStore()
        let paths = (1...3).map { layout.table($0) }
        for path in paths { storage.set(path, to: [1]) }
        let obsolete = ObsoleteFiles(
            layout: layout, storage: storage,
            tables: TableCache(storage: storage, layout: layout, capacity: 10, blockCache: BlockCache(capacity: 1 << 20)))
        obsolete.add(3)
        for path in paths.prefix(2) { obsolete.add(orphan: path) }
        #expect(obsolete.remove(orphanLimit: 1))
        #expect(try storage.list(layout.tableDirectory).count == 1)
        #expect(!obsolete.remove(orphanLimit: 1))
        #expect(try storage.list(layout.tableDirectory).isEmpty)
    }

    // MARK: Damage

    @Test func everyFlippedByteOfTheManifestIsFoundOrDoesNotMatter() throws {
        let storage = try emptyStore()
        let set = try create(storage)
        var states = [Shape(set)]
        for index in 0..<5 {
            try step(index, set)
            states.append(Shape(set))
        }
        let path = layout.manifest(1)
        let bytes = try #require(storage.bytes(of: path))
        for index in bytes.indices {
            var damaged = bytes
            damaged[index] ^= 0x10
            storage.set(path, to: damaged)
            do throws(EngineError) {
                #expect(Shape(try recover(storage)) == states[5], "byte \(index)")
            } catch { #expect(error.isDamage, "byte \(index)") }
        }
        for length in bytes.indices {
            storage.set(path, to: Array(bytes.prefix(length)))
            do throws(EngineError) {
                #expect(states.contains(Shape(try recover(storage))), "length \(length)")
            } catch { #expect(error.isDamage, "length \(length)") }
        }
    }

    @Test func everyDamageToCurrentIsFound() throws {
        let storage = try emptyStore()
        try step(0, try create(storage))
        let bytes = try #require(storage.bytes(of: layout.current))
        try expectDamageFound(bytes) { damaged in
            storage.set(layout.current, to: damaged)
            _ = try recover(storage)
        }
        // Intact, but naming a manifest that is not there.
        try CurrentFile.write(manifest: 77, layout, storage)
        let error = #expect(throws: EngineError.self) { try recover(storage) }
        #expect(error?.isCorruption == true)
    }

    @Test func everyDamageToIdentityIsFound() throws {
        let storage = try emptyStore()
        let identity = try StoreIdentity.create(at: layout.identity, storage: storage)
        #expect(try StoreIdentity.load(from: layout.identity, storage: storage) == identity)
        #expect(identity.name.count == 32 && identity.created > 0)
        let bytes = try #require(storage.bytes(of: layout.identity))
        try expectDamageFound(bytes) { damaged in
            storage.set(layout.identity, to: damaged)
            _ = try StoreIdentity.load(from: layout.identity, storage: storage)
        }
    }

    /// Every flipped bit, every truncation and a longer file throw corruption.
    private func expectDamageFound(_ bytes: [UInt8], _ load: ([UInt8]) throws -> Void) throws {
        var cases = bytes.indices.map { Array(bytes.prefix($0)) } + [bytes + [0], bytes + bytes]
        for index in bytes.indices {
            for bit in 0..<8 as Range<UInt8> {
                var damaged = bytes
                damaged[index] ^= 1 << bit
                cases.append(damaged)
            }
        }
        for damaged in cases {
            let error = #expect(throws: EngineError.self, "\(damaged)") { try load(damaged) }
            #expect(error?.isCorruption == true)
        }
        try load(bytes)
    }

    @Test func otherVersionsAreNamed() throws {
        let storage = try emptyStore()
        _ = try create(storage)
        let text = Array("O3CURRENT 2 1 ".utf8)
        let checksum = text.withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) }
        storage.set(layout.current, to: text + Array("\(checksum)\n".utf8))
        #expect(throws: EngineError.unsupportedFormat(file: layout.current, found: 2, supported: 1)) {
            try recover(storage)
        }
    }

    // MARK: Storage that fails

    @Test func fullDiskCanBeWaitedOut() throws {
        for operation in [FaultyStorage.Operation.create, .append, .sync, .close, .rename, .syncDirectory] {
            for call in 1...30 {
                let memory = try emptyStore()
                let storage = FaultyStorage(memory)
                let set = try create(storage, limit: 300)
                storage.fail(operation, at: call, code: ENOSPC)
                var failures = 0
                for index in 0..<12 {
                    do throws(EngineError) {
                        try step(index, set)
                    } catch {
                        #expect(error.posixCode == ENOSPC)
                        failures += 1
                    }
                }
                #expect(failures <= 1)
                #expect(Shape(try recover(memory.afterPowerLoss())) == Shape(set), "\(operation) \(call)")
            }
        }
    }

    /// Nor do the tries take what little room comes free meanwhile.
    @Test(arguments: [FaultyStorage.Operation.append, .sync]) func triesOnAFullDiskLeaveNothing(
        operation: FaultyStorage.Operation
    ) throws {
        let memory = try emptyStore()
        let storage = FaultyStorage(memory)
        let set = try create(storage)
        try step(0, set)
        storage.fail(operation, path: "MANIFEST", times: .max, code: ENOSPC)
        for _ in 0..<10 { #expect(throws: EngineError.self) { try step(1, set) } }
        #expect(try memory.list(layout.root).count { $0.hasPrefix("MANIFEST") } <= 2)
        storage.heal()
        try step(1, set)
        #expect(try memory.list(layout.root).count { $0.hasPrefix("MANIFEST") } == 1)
        #expect(Shape(try recover(memory.afterPowerLoss())) == Shape(set))
    }

    @Test func otherFailuresMakeTheSetReadOnly() throws {
        for operation in [FaultyStorage.Operation.append, .sync] {
            let storage = FaultyStorage(try emptyStore())
            let set = try create(storage)
            try step(0, set)
            let before = Shape(set)
            storage.fail(operation, path: "MANIFEST")
            #expect(throws: EngineError.io(operation: "\(operation)", path: layout.manifest(1), code: EIO)) {
                try step(1, set)
            }
            let error = #expect(throws: EngineError.self) { try step(1, set) }
            guard case .readOnly = error else {
                Issue.record("\(String(describing: error))")
                continue
            }
            #expect(Shape(set) == before)
        }
    }

    // MARK: Power loss

    private static let steps = 16

    @Test func powerLossAnywhereLeavesAPrefixWithAllThatWasCommitted() throws {
        var states: [Shape] = []
        let complete = try emptyStore()
        let begin = complete.changes
        let set = try create(complete, limit: 200)
        states.append(Shape(set))
        for index in 0..<VersionSetTests.steps {
            try step(index, set)
            states.append(Shape(set))
        }
        for crash in 0...complete.changes - begin {
            let storage = try emptyStore()
            storage.stop(after: crash)
            // −1: not even `create` has returned.
            var committed = -1
            if let set = try? create(storage, limit: 200) {
                committed = 0
                while committed < VersionSetTests.steps, (try? step(committed, set)) != nil { committed += 1 }
            }
            for loss in [MemoryStorage.Loss.everything, .nothing] + (0..<5).map({ .torn(UInt64(crash * 5 + $0)) }) {
                let survivor = storage.afterPowerLoss(loss)
                let found: VersionSet
                do throws(EngineError) { found = try recover(survivor, limit: 200) } catch {
                    #expect(committed < 0, "crash \(crash), \(loss): \(error)")
                    continue
                }
                let allowed = states[max(committed, 0)...min(committed + 1, VersionSetTests.steps)]
                #expect(allowed.contains(Shape(found)), "crash \(crash), \(loss)")
                // What a recovery has found and acted upon stays, and the store goes on.
                try found.removeOrphans()
                let kept = try recover(survivor.afterPowerLoss())
                #expect(Shape(kept) == Shape(found), "crash \(crash), \(loss)")
                try found.logAndApply(.adding([], flushed: 10_000))
                #expect(try recover(survivor.afterPowerLoss()).flushedSequence == 10_000)
            }
        }
    }

    @Test func identityIsThereWholeOrNotAtAll() throws {
        let complete = try emptyStore()
        let begin = complete.changes
        _ = try StoreIdentity.create(at: layout.identity, storage: complete)
        for crash in 0...complete.changes - begin {
            let storage = try emptyStore()
            storage.stop(after: crash)
            let created = try? StoreIdentity.create(at: layout.identity, storage: storage)
            for loss in [MemoryStorage.Loss.everything, .nothing] + (0..<20).map({ .torn(UInt64($0)) }) {
                let survivor = storage.afterPowerLoss(loss)
                guard survivor.exists(layout.identity) else {
                    #expect(created == nil)
                    continue
                }
                let loaded = try StoreIdentity.load(from: layout.identity, storage: survivor)
                if let created { #expect(loaded == created) }
            }
        }
    }
}

/// Numbers that a version set has handed to its hook, in order.
private final class Reclaimed: Sendable {
    private let state = Mutex<[UInt64]>([])
    var numbers: [UInt64] { state.withLock { $0 } }
    func add(_ number: UInt64) { state.withLock { $0.append(number) } }
}
