import Glibc
import Testing

@testable import O3LSM

/// A sync fails, the process dies, and the next owner finds in the system's memory what the medium has not: its own
/// syncs of the same files succeed and mean nothing. Nothing may be removed, or called durable, because of them.
@Suite struct FailedSyncTests {
    private let memory = MemoryStorage()
    private let storage: FaultyStorage
    private let history = NumberedHistory(seed: 11)

    init() { storage = FaultyStorage(memory) }

    private func open(_ storage: any Storage, _ change: (inout Options) -> Void = { _ in }) throws -> Database {
        var options = NumberedHistory.options
        options.disableAutomaticCompaction = true
        change(&options)
        return try Database.open("/store", options: options, storage: storage)
    }

    /// Batches `first ... last`, with a flush after every fourth.
    private func write(_ batches: ClosedRange<Int>, to database: Database) throws {
        for number in batches {
            try database.write(history.batch(number))
            if number % 4 == 0 { try database.flush() }
        }
    }

    /// What is there when power has come back holds the first `batches` and verifies.
    private func expectAfterPowerLoss(_ batches: Int, _ comment: Comment) throws {
        for loss in [MemoryStorage.Loss.everything, .torn(1), .torn(2)] {
            let survivor = memory.afterPowerLoss(loss)
            history.forgetRegion(survivor)
            defer { history.forgetRegion(survivor) }
            let database = try open(survivor)
            defer { abandon(database) }
            #expect(try NumberedHistory.contents(database) == history.model(after: batches), comment)
            #expect(try database.verify().isEmpty, comment)
        }
    }

    /// The edit of a compaction is in the manifest that others read, and not in the one on the medium, which goes on
    /// naming the tables that were compacted.
    @Test func tablesOfTheManifestOnTheMediumStay() throws {
        defer { history.forgetRegion(memory) }
        let first = try open(storage)
        try write(1...12, to: first)
        storage.fail(.sync, path: "MANIFEST", code: EIO)
        #expect(throws: EngineError.self) { try first.compact() }
        abandon(first)
        storage.heal()
        let second = try open(storage)
        #expect(try NumberedHistory.contents(second) == history.model(after: 12))
        try expectAfterPowerLoss(12, "while the next owner works")
        abandon(second)
        try expectAfterPowerLoss(12, "after it")
    }

    /// An owner whose manifest is in doubt, and that has nothing to flush, removes no table when it closes.
    @Test func aCloseRemovesNoTableThatTheManifestMayName() throws {
        defer { history.forgetRegion(memory) }
        let first = try open(storage)
        try write(1...12, to: first)
        storage.fail(.sync, path: "MANIFEST", code: EIO)
        #expect(throws: EngineError.self) { try first.compact() }
        try? first.close()
        storage.heal()
        let second = try open(storage)
        #expect(try NumberedHistory.contents(second) == history.model(after: 12))
        #expect(try second.verify().isEmpty)
        abandon(second)
        try expectAfterPowerLoss(12, "after a close")
    }

    /// What a replay has read is durable once this owner's sync has returned, and no sooner.
    @Test func whatWasReplayedIsLoggedAgain() throws {
        defer { history.forgetRegion(memory) }
        let never: (inout Options) -> Void = { $0.commitIntervalMilliseconds = 3_600_000 }
        let first = try open(storage, never)
        for number in 1...3 { try first.write(history.batch(number)) }
        storage.fail(.sync, path: ".log", at: 2, code: EIO)
        #expect(throws: EngineError.self) { try first.sync() }
        abandon(first)
        storage.heal()
        history.forgetRegion(memory)
        let second = try open(storage, never)
        #expect(try NumberedHistory.contents(second) == history.model(after: 3), "others see what the sync dropped")
        try second.sync()
        try expectAfterPowerLoss(3, "after the next owner's sync")
        abandon(second)
    }

    /// A new log whose name the directory has lost is not written to.
    @Test(arguments: [EIO, ENOSPC]) func aLogWhoseNameMayBeLostIsGivenUp(code: Int32) throws {
        defer { history.forgetRegion(memory) }
        let database = try open(storage) { $0.commitIntervalMilliseconds = 3_600_000 }
        for number in 1...3 { try database.write(history.batch(number)) }
        storage.fail(.syncDirectory, path: "/wal", code: code)
        #expect(throws: EngineError.self) { try database.sync() }
        try database.sync()
        try expectAfterPowerLoss(3, "after the second sync")
        abandon(database)
    }

    /// The identity of a store whose making failed is made again: the name of the first may be lost.
    @Test func anIdentityWhoseNameMayBeLostIsMadeAgain() throws {
        for call in 1...3 {
            let memory = MemoryStorage()
            let storage = FaultyStorage(memory)
            storage.fail(.syncDirectory, path: "/store", at: call, code: EIO)
            try? open(storage).close()
            storage.heal()
            let database = try open(storage)
            try database.write(history.batch(1), sync: true)
            abandon(database)
            history.forgetRegion(memory)
            let survivor = memory.afterPowerLoss(.everything)
            let again = try open(survivor)
            #expect(try NumberedHistory.contents(again) == history.model(after: 1), "call \(call)")
            abandon(again)
            history.forgetRegion(survivor)
        }
    }

    /// Opens what an owner has left whose manifest could not be synced after three batches, on a disk without room for
    /// another manifest.
    private func openWithManifestInDoubt(beforeFlush: (Database) throws -> Void) throws -> Database {
        let first = try open(storage) { $0.commitIntervalMilliseconds = 3_600_000 }
        for number in 1...3 { try first.write(history.batch(number)) }
        try beforeFlush(first)
        storage.fail(.sync, path: "MANIFEST", code: EIO)
        #expect(throws: EngineError.self) { try first.flush() }
        abandon(first)
        storage.heal()
        storage.fail(.create, path: "MANIFEST", times: .max, code: ENOSPC)
        let second = try open(storage) { $0.commitIntervalMilliseconds = 3_600_000 }
        #expect(second.core.versions.flushedSequence > 0, "the edit must be what others see")
        return second
    }

    /// Nor is a manifest made durable by being read: on a full disk, where the next owner cannot write its own, a sync
    /// that would rely on it says so.
    @Test func aManifestInDoubtIsNoGroundForASync() throws {
        defer { history.forgetRegion(memory) }
        let second = try openWithManifestInDoubt { _ in }
        #expect(try NumberedHistory.contents(second) == history.model(after: 3))
        for _ in 1...3 {
            let error = #expect(throws: EngineError.self) { try second.sync() }
            #expect(error?.posixCode == ENOSPC)
        }
        storage.heal()
        try second.sync()
        try second.write(history.batch(4), sync: true)
        try expectAfterPowerLoss(4, "after the next owner's sync")
        abandon(second)
    }

    /// Nor is it a ground for a close to let go of the logs, of which it would be the successor.
    @Test func aCloseKeepsWhatAManifestInDoubtNeeds() throws {
        defer { history.forgetRegion(memory) }
        let second = try openWithManifestInDoubt { try $0.sync() }
        try second.close()
        try expectAfterPowerLoss(3, "after a close without room for a manifest")
        storage.heal()
        let third = try open(storage)
        #expect(try NumberedHistory.contents(third) == history.model(after: 3))
        try third.close()
    }

    /// What a full disk holds can be read, though nobody may write more: also without the memory of the last owner.
    @Test func aFullDiskIsReadWithoutTheRegion() throws {
        defer { history.forgetRegion(memory) }
        let first = try open(storage)
        try write(1...7, to: first)
        try first.sync()
        abandon(first)
        history.forgetRegion(memory)
        storage.leave(freeBytes: 0)
        let second = try open(storage)
        #expect(second.statistics().recovery.replayedEntries > 0)
        #expect(try NumberedHistory.contents(second) == history.model(after: 7))
        let error = #expect(throws: EngineError.self) { for number in 8...40 { try second.write(history.batch(number)) } }
        #expect(error?.posixCode == ENOSPC)
        abandon(second)
    }

    /// A store on a disk without room for a manifest opens, removes nothing but attempts, and goes on when there is room.
    @Test func aFullDiskIsNoReasonNotToOpen() throws {
        defer { history.forgetRegion(memory) }
        let first = try open(storage)
        try write(1...8, to: first)
        abandon(first)
        let layout = StoreLayout(root: "/store")
        memory.set(layout.table(90_000), to: [1])
        memory.set(layout.table(90_001, attempt: 7), to: [1])
        storage.fail(.create, path: "MANIFEST", times: .max, code: ENOSPC)
        let second = try open(storage)
        #expect(memory.exists(layout.table(90_000)) && !memory.exists(layout.table(90_001, attempt: 7)))
        #expect(try NumberedHistory.contents(second) == history.model(after: 8))
        storage.heal()
        try second.write(history.batch(9))
        try second.close()
        #expect(!memory.exists(layout.table(90_000)))
        try expectAfterPowerLoss(9, "after the close")
    }
}
