import Foundation
import Testing

@testable import O3LSM

/// Power is cut at a change of storage while a whole database works, and the DM region is gone. What a sync
/// covered must be there (contract 2), and what is there must equal the history up to some batch, exactly
/// (contract 3).
@Suite struct PowerLossTests {
    /// O3LSM_POWER_STRIDE 1 cuts at every change; O3LSM_POWER_SEED makes other histories and other losses.
    static let stride = ProcessInfo.processInfo.environment["O3LSM_POWER_STRIDE"].flatMap { Int($0) } ?? 3
    static let seed = ProcessInfo.processInfo.environment["O3LSM_POWER_SEED"].flatMap { UInt64($0) } ?? 1

    @Test func leavesAPrefixThatHoldsWhatWasSynced() throws {
        let whole = NumberedHistory(seed: PowerLossTests.seed)
        let created = MemoryStorage()
        let database = try Database.open("/store", options: NumberedHistory.options, storage: created)
        try database.close()
        let before = created.afterPowerLoss(.nothing)
        whole.run(before)
        let changes = before.changes
        whole.forgetRegion(before)
        #expect(whole.synced == NumberedHistory.batches, "the history must end when nothing fails")
        #expect(changes > 40, "the history must reach storage often")

        // Threads make each run a little different: some cuts lie beyond the end of a shorter one.
        for cut in Swift.stride(from: 0, to: changes + 5, by: max(1, PowerLossTests.stride)) {
            let storage = created.afterPowerLoss(.nothing)
            let history = NumberedHistory(seed: PowerLossTests.seed)
            storage.stop(after: cut)
            history.run(storage)
            for loss in [MemoryStorage.Loss.everything, .torn(PowerLossTests.seed &* 1000 &+ UInt64(cut))] {
                history.forgetRegion(storage)
                let survivor = storage.afterPowerLoss(loss)
                do {
                    let reopened = try Database.open("/store", options: NumberedHistory.options, storage: survivor)
                    defer {
                        abandon(reopened)
                        history.forgetRegion(survivor)
                    }
                    let found = try NumberedHistory.contents(reopened)
                    let last = NumberedHistory.number(found[NumberedHistory.head])
                    #expect(
                        last >= history.synced && last <= history.begun,
                        "cut \(cut), \(loss): \(last) batches, synced \(history.synced), begun \(history.begun)"
                    )
                    #expect(
                        found == history.model(after: last),
                        "cut \(cut), \(loss): not the history's \(last) batches"
                    )
                    #expect(try reopened.verify().isEmpty, "cut \(cut), \(loss)")
                } catch {
                    Issue.record("cut \(cut), \(loss), seed \(PowerLossTests.seed): \(error)")
                }
            }
        }
    }
}

/// Without any sync, what power loss takes is at most as old as the commit interval.
@Suite struct PowerLossBoundTests {
    /// Also what lies in memtables that wait for a slow flush. What a busy machine adds is allowed for.
    @Test(arguments: [false, true]) func atMostTheCommitIntervalIsLost(flushesAreSlow: Bool) throws {
        let intervalMilliseconds: UInt64 = 2000
        let allowanceMilliseconds: UInt64 = 500
        let memory = MemoryStorage()
        let storage = FaultyStorage(memory)
        let history = NumberedHistory(seed: 21)
        if flushesAreSlow { storage.delay(.sync, path: "/sst/", milliseconds: 5000) }
        var options = NumberedHistory.options
        options.commitIntervalMilliseconds = Int(intervalMilliseconds)
        // A memtable takes a few batches: some are always sealed.
        options.memtableSize = 1 << 20
        // No writer waits for a flush.
        options.dmSize = 128 << 20
        let database = try Database.open("/store", options: options, storage: storage)
        let created = memory.afterPowerLoss(.everything)
        #expect(created.exists("/store/IDENTITY"))
        var returned: [UInt64] = []
        var cuts: [(time: UInt64, survivor: MemoryStorage)] = []
        let end = monotonicNanoseconds() + 8_000_000_000
        while monotonicNanoseconds() < end {
            try database.write(history.batch(returned.count + 1))
            returned.append(monotonicNanoseconds())
            usleep(15_000)
            if returned.count % 20 == 0 { cuts.append((monotonicNanoseconds(), memory.afterPowerLoss(.everything))) }
        }
        abandon(database)
        history.forgetRegion(memory)
        var oldest: UInt64 = 0
        for (time, survivor) in cuts {
            let reopened = try Database.open("/store", options: NumberedHistory.options, storage: survivor)
            let last = NumberedHistory.number(try reopened.get(NumberedHistory.head))
            abandon(reopened)
            history.forgetRegion(survivor)
            guard last < returned.count, returned[last] < time else { continue }
            oldest = max(oldest, (time - returned[last]) / 1_000_000)
        }
        print("PowerLossBoundTests: \(returned.count) batches, \(cuts.count) cuts, the oldest lost was \(oldest) ms old")
        #expect(cuts.count > 5 && returned.count > 100)
        #expect(oldest <= intervalMilliseconds + allowanceMilliseconds)
    }
}

/// A deterministic list of batches, each a pure function of the seed and its number, that fills memtables and
/// more than one log file. Used by one thread.
final class NumberedHistory {
    static let batches = 42
    static let head = Array("head".utf8)
    let seed: UInt64
    /// Batches whose write has been called, and the last one that a returned sync or flush covered.
    private(set) var begun = 0 { didSet { onProgress(begun, synced) } }
    private(set) var synced = 0 { didSet { onProgress(begun, synced) } }
    private let onProgress: (_ begun: Int, _ synced: Int) -> Void

    /// Bytes above 1000 that a value may have.
    private let spread: Int

    /// `onProgress` hears each change of `begun` and `synced`.
    init(seed: UInt64, spread: Int = 20_000, onProgress: @escaping (_ begun: Int, _ synced: Int) -> Void = { _, _ in }) {
        self.seed = seed
        self.spread = spread
        self.onProgress = onProgress
    }

    static var options: Options {
        var options = TemporaryStore.smallOptions
        options.dmSize = 16 << 20
        options.cacheSize = 1 << 20
        options.commitIntervalMilliseconds = 20
        options.l0CompactionTrigger = 2
        options.levelBaseSize = 1 << 20
        options.compression = .none
        options.flushThreads = 1
        options.compactionThreads = 1
        return options
    }

    enum Change {
        case put(Int, [UInt8])
        case delete(Int)
        case deleteRange(Int, Int)
    }

    static func key(_ index: Int) -> [UInt8] { Array("key\(100 + index)".utf8) }
    static func value(ofBatch number: Int) -> [UInt8] { Array(String(number).utf8) }
    static func number(_ value: [UInt8]?) -> Int { value.flatMap { Int(String(decoding: $0, as: UTF8.self)) } ?? 0 }

    /// What batch `number` (from 1) does besides setting the head.
    func changes(_ number: Int) -> [Change] {
        var random = SeededRandom(seed &* 1_000_003 &+ UInt64(number))
        return (0..<5).map { _ in
            let index = random.below(60)
            switch random.below(10) {
            case 0: return .delete(index)
            case 1: return .deleteRange(index, index + 1 + random.below(8))
            default:
                var bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 1000 + random.below(spread))
                bytes.append(contentsOf: NumberedHistory.value(ofBatch: number))
                return .put(index, bytes)
            }
        }
    }

    func batch(_ number: Int) -> WriteBatch {
        let batch = WriteBatch()
        batch.put(NumberedHistory.head, NumberedHistory.value(ofBatch: number))
        for change in changes(number) {
            switch change {
            case .put(let index, let value): batch.put(NumberedHistory.key(index), value)
            case .delete(let index): batch.delete(NumberedHistory.key(index))
            case .deleteRange(let begin, let end):
                batch.deleteRange(NumberedHistory.key(begin), NumberedHistory.key(end))
            }
        }
        return batch
    }

    /// What a store holds after the first `count` batches and no other.
    func model(after count: Int) -> [[UInt8]: [UInt8]] {
        var model: [[UInt8]: [UInt8]] = [:]
        guard count > 0 else { return model }
        for number in 1...count {
            model[NumberedHistory.head] = NumberedHistory.value(ofBatch: number)
            for change in changes(number) {
                switch change {
                case .put(let index, let value): model[NumberedHistory.key(index)] = value
                case .delete(let index): model[NumberedHistory.key(index)] = nil
                case .deleteRange(let begin, let end):
                    for index in begin..<end { model[NumberedHistory.key(index)] = nil }
                }
            }
        }
        return model
    }

    static func contents(_ database: Database) throws -> [[UInt8]: [UInt8]] {
        var found: [[UInt8]: [UInt8]] = [:]
        let iterator = try database.makeIterator()
        try iterator.seekToFirst()
        while iterator.isValid {
            found[[UInt8](iterator.key)] = [UInt8](iterator.value)
            try iterator.next()
        }
        return found
    }

    /// Goes through the history until something fails, and drops the database as the cut of power would.
    ///
    /// - Parameters:
    ///   - batches: how far it goes.
    ///   - restart: the number of the batch after which the database is closed and opened again.
    ///   - deaths: the numbers of batches after which the owner dies and the next one takes over its memory.
    func run(
        _ storage: any Storage, batches: Int = NumberedHistory.batches, restart: Int? = nil, deaths: Set<Int> = []
    ) {
        let options = NumberedHistory.options
        guard var database = try? Database.open("/store", options: options, storage: storage) else { return }
        defer { abandon(database) }
        do {
            for number in 1...batches {
                begun = number
                try database.write(batch(number))
                if number % 3 == 0 {
                    try database.sync()
                    synced = number
                }
                if number % 14 == 0 {
                    try database.flush()
                    synced = number
                }
                if number % 14 == 0 { try database.compact() }
                if number == restart {
                    try database.close()
                    synced = number
                    database = try Database.open("/store", options: options, storage: storage)
                }
                if deaths.contains(number) {
                    abandon(database)
                    database = try Database.open("/store", options: options, storage: storage)
                    #expect(database.statistics().recovery.source == "region")
                }
            }
        } catch {}
    }

    /// Throws the DM region of the store away, as a reboot does.
    func forgetRegion(_ storage: any Storage) {
        if let identity = try? StoreIdentity.load(from: "/store/IDENTITY", storage: storage) {
            Region.unlink(storeID: identity.storeID)
        }
    }
}
