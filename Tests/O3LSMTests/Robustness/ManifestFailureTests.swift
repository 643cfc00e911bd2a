import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// The manifest could not be written, and no retry can mend that: whoever asks for work that needs it is told so.
@Suite struct ManifestFailureTests {
    @Test func everyLaterFlushAndCloseIsAnswered() throws {
        let memory = MemoryStorage()
        let storage = FaultyStorage(memory)
        let history = NumberedHistory(seed: 3)
        defer { history.forgetRegion(memory) }
        let database = try Database.open("/store", options: NumberedHistory.options, storage: storage)
        try database.write(history.batch(1))
        storage.fail(.sync, path: "MANIFEST", code: EIO)
        #expect(throws: EngineError.self) { try database.flush() }
        // The control plane is to have met the failure more than once before it is asked again.
        usleep(500_000)

        let answers = Mutex<[String]>([])
        let thread = try BackgroundThread("asker") {
            func ask(_ name: String, _ body: () throws -> Void) {
                do { try body() } catch { answers.withLock { $0.append(name) } }
            }
            ask("flush") { try database.flush() }
            ask("compact") { try database.compact() }
            ask("close") { try database.close() }
        }
        waitUntil { answers.withLock { $0.count } == 3 }
        try #require(answers.withLock { $0 } == ["flush", "compact", "close"], "somebody was left waiting")
        thread.join()

        // DM was left for the next owner, who finds what was acknowledged.
        let reopened = try Database.open("/store", options: NumberedHistory.options, storage: storage)
        defer { abandon(reopened) }
        #expect(try NumberedHistory.contents(reopened) == history.model(after: 1))
    }

    /// A manifest whose sync failed may hold the edit of a compaction all the same: the next owner needs its tables.
    @Test(arguments: [EIO, ENOSPC]) func tablesThatTheManifestMayNameStay(code: Int32) throws {
        let memory = MemoryStorage()
        let storage = FaultyStorage(memory)
        let history = NumberedHistory(seed: 5)
        defer { history.forgetRegion(memory) }
        var options = NumberedHistory.options
        options.disableAutomaticCompaction = true
        let database = try Database.open("/store", options: options, storage: storage)
        for number in 1...12 {
            try database.write(history.batch(number))
            if number % 4 == 0 { try database.flush() }
        }
        storage.fail(.sync, path: "MANIFEST", times: .max, code: code)
        #expect(throws: EngineError.self) { try database.compact() }
        // The control plane meets the failure again, more than once.
        for _ in 0..<5 {
            usleep(100_000)
            _ = try? database.flush()
        }
        abandon(database)
        storage.heal()
        let reopened = try Database.open("/store", options: NumberedHistory.options, storage: storage)
        defer { abandon(reopened) }
        #expect(try NumberedHistory.contents(reopened) == history.model(after: 12))
        #expect(try reopened.verify().isEmpty)
    }
}
