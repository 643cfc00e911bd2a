import Foundation
import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// Each call of storage fails in turn while a whole database works: with EIO, ENOSPC or EDQUOT, once or until it is
/// mended; appends are also cut short, and store half of what they were given before they fail; and calls that work take
/// long. Nothing may crash, hang or answer wrongly meanwhile; what was acknowledged is there when the fault is
/// gone and after a crash, and what was synced is there after power loss.
///
/// A sync that fails loses what it should have written, as on Linux: asking again cannot bring it back.
@Suite struct StorageFaultTests {
    /// O3LSM_FAULT_STRIDE 1 fails every call in all ways; by default every fourth (of syncs every one) fails in one of them.
    static let stride = ProcessInfo.processInfo.environment["O3LSM_FAULT_STRIDE"].flatMap { Int($0) } ?? 4
    static let operations: [FaultyStorage.Operation] = [
        .create, .reuse, .open, .rename, .link, .delete, .list, .createDirectory, .syncDirectory, .fileSize, .lock,
        .space, .append, .flush, .sync, .close, .read,
    ]

    @Test(arguments: operations) func losesNothing(operation: FaultyStorage.Operation) throws {
        let created = MemoryStorage()
        let seed = NumberedHistory(seed: 7)
        let database = try Database.open("/store", options: NumberedHistory.options, storage: created)
        for number in 1...4 { try database.write(seed.batch(number)) }
        try database.close()

        let calls = FaultRun(created).run { _ in }.calls(operation)
        // Syncs are few, and a failed one is what is easiest to get wrong: none is left out.
        let step = operation == .sync ? 1 : max(1, StorageFaultTests.stride)
        for call in Swift.stride(from: 1, through: calls, by: step) {
            let kinds = [
                (EIO, 1), (ENOSPC, 1), (EIO, Int.max), (ENOSPC, Int.max), (EDQUOT, 1), (EDQUOT, Int.max),
            ]
            // A sweep that leaves calls out takes the kinds in turn.
            let chosen = StorageFaultTests.stride > 1 ? [kinds[call / step % kinds.count]] : kinds
            for (code, times) in chosen {
                let run = FaultRun(created)
                run.run { $0.fail(operation, at: call, times: times, code: code) }
                let problems = run.problems.withLock { $0 }
                #expect(
                    problems.isEmpty,
                    "\(operation) \(call) of \(calls), code \(code), \(times == 1 ? "once" : "until mended"): \(problems.prefix(3))"
                )
            }
        }
    }

    /// The log fails once, and what it should have written becomes durable by somebody else's sync, or by a flush.
    @Test(arguments: [false, true]) func writesGoOnWhenNothingWaitsForTheLog(byFlush: Bool) throws {
        let memory = MemoryStorage()
        let storage = FaultyStorage(memory)
        let history = NumberedHistory(seed: 9)
        defer { history.forgetRegion(memory) }
        var options = NumberedHistory.options
        options.commitIntervalMilliseconds = 2000
        let database = try Database.open("/store", options: options, storage: storage)
        storage.fail(.sync, path: ".log", code: EIO)
        try database.write(history.batch(1))
        while database.statistics().writeError == nil { usleep(1000) }
        if byFlush { try database.flush() } else { try database.sync() }
        let isWritten = waitUntil { (try? database.write(history.batch(2))) != nil }
        #expect(isWritten, "\(database.statistics().writeError ?? "no error")")
        try database.close()
    }

    /// A disk that is slow: each call in turn takes a quarter of a second, or every call of a kind takes longer. Others may
    /// overtake it, and nothing fails.
    @Test(arguments: operations) func slowCallsOnlyTakeLonger(operation: FaultyStorage.Operation) throws {
        let created = MemoryStorage()
        let seed = NumberedHistory(seed: 7)
        let database = try Database.open("/store", options: NumberedHistory.options, storage: created)
        for number in 1...4 { try database.write(seed.batch(number)) }
        try database.close()

        let calls = FaultRun(created).run { _ in }.calls(operation)
        // Reads and appends are many and alike.
        let step = max(1, StorageFaultTests.stride == 1 ? 1 : calls / 8)
        for call in Swift.stride(from: 1, through: calls, by: step) {
            let run = FaultRun(created)
            run.run { $0.delay(operation, at: call, milliseconds: 250) }
            let problems = run.problems.withLock { $0 }
            #expect(problems.isEmpty && run.isComplete, "\(operation) \(call) of \(calls) is slow: \(problems.prefix(3))")
        }
        let run = FaultRun(created)
        run.run { $0.delay(operation, milliseconds: 4) }
        let problems = run.problems.withLock { $0 }
        #expect(problems.isEmpty && run.isComplete, "every \(operation) is slow: \(problems.prefix(3))")
    }

    @Test func shortWritesLoseNothing() throws {
        let created = MemoryStorage()
        let seed = NumberedHistory(seed: 7)
        let database = try Database.open("/store", options: NumberedHistory.options, storage: created)
        for number in 1...4 { try database.write(seed.batch(number)) }
        try database.close()
        let calls = FaultRun(created).run { _ in }.calls(.append)
        let step = max(1, StorageFaultTests.stride)
        for call in Swift.stride(from: 1, through: calls, by: step) {
            for times in StorageFaultTests.stride > 1 ? [call / step % 2 == 0 ? 1 : Int.max] : [1, Int.max] {
                let run = FaultRun(created)
                run.run { $0.cutShort(.append, at: call, times: times) }
                let problems = run.problems.withLock { $0 }
                #expect(
                    problems.isEmpty,
                    "append \(call) of \(calls), \(times == 1 ? "once" : "until mended"): \(problems.prefix(3))")
            }
        }
    }
}

/// One life of a database under a planned fault, and what is found after it.
private final class FaultRun: @unchecked Sendable {
    // @unchecked: `history` and the counters belong to the thread that runs; others look after it has ended.
    private let memory: MemoryStorage
    private let storage: FaultyStorage
    private let history = NumberedHistory(seed: 7)
    let problems = Mutex<[String]>([])
    /// Batches that may have been applied: the first ones that were acknowledged, and perhaps one more.
    private var acknowledged = 4
    private var attempted = 4
    private var synced = 4
    private let isOver = Atomic<Bool>(false)

    private static let batches = 24
    /// Whether no batch was refused; after the run.
    var isComplete: Bool { acknowledged == Self.batches }
    private static let patienceSeconds = 60

    init(_ created: MemoryStorage) {
        memory = created.afterPowerLoss(.nothing)
        storage = FaultyStorage(memory)
    }

    private func report(_ text: String) { problems.withLock { $0.append(text) } }

    @discardableResult
    func run(_ plan: (FaultyStorage) -> Void) -> FaultyStorage {
        plan(storage)
        guard
            let thread = try? BackgroundThread(
                "fault-run",
                { [self] in
                    live()
                    isOver.store(true, ordering: .releasing)
                }
            )
        else { return storage }
        let deadline = monotonicNanoseconds() + UInt64(FaultRun.patienceSeconds) * 1_000_000_000
        while !isOver.load(ordering: .acquiring) {
            if monotonicNanoseconds() > deadline {
                report("it hangs")
                return storage
            }
            usleep(500)
        }
        thread.join()
        return storage
    }

    private func live() {
        work()
        // The process dies, and the next one finds storage mended and DM as it was left.
        storage.heal()
        let survivor = memory.afterPowerLoss(.everything)
        lookAfter("a crash", storage, atLeast: acknowledged, dropRegion: false)
        lookAfter("power loss", survivor, atLeast: synced, dropRegion: true)
        history.forgetRegion(memory)
    }

    private func work() {
        let database: Database
        do { database = try Database.open("/store", options: NumberedHistory.options, storage: storage) } catch {
            return
        }
        defer { abandon(database) }
        for number in 5...FaultRun.batches {
            attempted = number
            do {
                try database.write(history.batch(number))
                acknowledged = number
            } catch {
                // A refused write leaves no trace; the same batch may be tried again later.
                attempted = acknowledged
            }
            let reached = acknowledged
            if number % 4 == 0, (try? database.sync()) != nil { synced = reached }
            if number % 10 == 0, (try? database.flush()) != nil { synced = reached }
            if number == 20 { try? database.compact() }
            if number == 22 { _ = try? database.createSnapshot("of the fault") }
            if acknowledged != number { break }
            check("under the fault", database, mayFail: true)
        }
        storage.heal()
        check("after the fault", database, mayFail: false)
    }

    /// Every key has the value of the acknowledged batches, or an error where one is allowed.
    private func check(_ when: String, _ database: Database, mayFail: Bool) {
        let model = history.model(after: acknowledged)
        for index in 0..<68 {
            let key = NumberedHistory.key(index)
            do {
                if try database.get(key) != model[key] {
                    report("\(when): key \(index) is wrong after batch \(acknowledged)")
                }
            } catch {
                if !mayFail { report("\(when): key \(index): \(error)") }
            }
        }
    }

    private func lookAfter(_ what: String, _ storage: any Storage, atLeast least: Int, dropRegion: Bool) {
        if dropRegion { history.forgetRegion(storage) }
        do {
            let database = try Database.open("/store", options: NumberedHistory.options, storage: storage)
            defer { abandon(database) }
            let found = try NumberedHistory.contents(database)
            let last = NumberedHistory.number(found[NumberedHistory.head])
            if last < least || last > attempted {
                report("after \(what): \(last) batches, not \(least) … \(attempted)")
            }
            if found != history.model(after: last) { report("after \(what): not the history's first \(last) batches") }
            try database.write(history.batch(last + 1), sync: true)
            if !(try database.verify().isEmpty) { report("after \(what): verify finds problems") }
        } catch {
            report("after \(what): \(error)")
        }
    }
}
