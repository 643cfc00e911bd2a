import Histogram
import O3LSM
import Synchronization

/// The state that the threads of one workload share.
final class WorkloadGroup: Sendable {
    let database: Database
    let settings: BenchSettings
    let workload: Workload
    /// The random stream of the first thread. No two threads of a run share one: a workload that read in
    /// the very order in which another wrote would measure the caches of the processor.
    let firstStream: Int
    /// Threads that are set up and wait for the start, and those that have ended.
    let ready = Atomic<Int>(0)
    let started = Atomic<Bool>(false)
    let readersDone = Atomic<Int>(0)
    /// What the writer that nobody measures has written.
    let backgroundWrites = Atomic<Int>(0)
    let failure = Mutex<EngineError?>(nil)
    let tallies = Mutex<[WorkloadTally]>([])
    /// What the chooser of each thread begins as.
    let chooser: KeyChooser

    init(database: Database, settings: BenchSettings, workload: Workload, firstStream: Int) {
        self.database = database
        self.settings = settings
        self.workload = workload
        self.firstStream = firstStream
        let distribution = workload.needsFreshStore ? nil : settings.distribution ?? workload.ycsb?.distribution
        chooser = KeyChooser(distribution ?? .uniform, count: settings.num)
    }

    var hasFailed: Bool { failure.withLock { $0 != nil } }
}

/// What one thread measured.
struct WorkloadTally: Sendable {
    var start: UInt64 = 0
    var end: UInt64 = 0
    var operations = 0
    /// Only kept by YCSB's workloads: what was looked for, and entries that scans returned.
    var reads = 0
    var entries = 0
    var found = 0
    var bytes: UInt64 = 0
    /// Nanoseconds an operation.
    var latencies = WorkloadTally.emptyHistogram()
    var delegation: DelegationComparison?

    /// Up to an hour, to three digits; made whole at once so that recording never allocates.
    static func emptyHistogram() -> Histogram<UInt64> {
        Histogram<UInt64>(highestTrackableValue: 3_600_000_000_000, numberOfSignificantValueDigits: .three)
    }
}

/// One thread of a workload: sets itself up, waits for the others, runs, and hands in its tally. Its
/// loop allocates nothing: keys, values and the batch live in memory that is made before the start.
struct WorkloadThread {
    let group: WorkloadGroup
    let index: Int
    /// The extra thread of `readwhilewriting`, which nobody measures.
    let isBackgroundWriter: Bool

    var random: WorkloadRandom
    var chooser: KeyChooser
    /// Records that this thread has added to YCSB's.
    var inserted: UInt64 = 0
    let keys: KeyWriter
    var values: ValueSource
    let batch: WriteBatch

    init(group: WorkloadGroup, index: Int, isBackgroundWriter: Bool) {
        self.group = group
        self.index = index
        self.isBackgroundWriter = isBackgroundWriter
        let settings = group.settings
        var streams = WorkloadRandom(seed: settings.seed)
        var seed = streams.next()
        for _ in 0..<(group.firstStream + index) { seed = streams.next() }
        random = WorkloadRandom(seed: seed)
        chooser = group.chooser
        keys = KeyWriter(size: settings.keySize)
        values = ValueSource(
            size: settings.valueSize,
            compressionRatio: settings.compressionRatio,
            seed: seed ^ 0x5eed,
            batch: settings.batchSize
        )
        // One operation first, so that the batch has its memory.
        batch = WriteBatch(capacity: settings.batchSize * (settings.keySize + settings.valueSize))
    }

    /// Runs the workload and leaves its tally, or its error, with the group.
    mutating func run() {
        defer {
            keys.release()
            values.release()
        }
        var tally = WorkloadTally()
        group.ready.wrappingAdd(1, ordering: .sequentiallyConsistent)
        while !group.started.load(ordering: .acquiring) { usleepShort() }
        tally.start = monotonicNanoseconds()
        do {
            if isBackgroundWriter {
                try writeUntilReadersAreDone()
                return
            }
            try measure(&tally)
        } catch {
            group.failure.withLock { $0 = $0 ?? error }
        }
        tally.end = monotonicNanoseconds()
        group.readersDone.wrappingAdd(1, ordering: .sequentiallyConsistent)
        group.tallies.withLock { $0.append(tally) }
    }

    private mutating func measure(_ tally: inout WorkloadTally) throws(EngineError) {
        let settings = group.settings
        switch group.workload {
        case .fillseq: try write(settings.num, sync: settings.sync, sequential: true, &tally)
        case .fillrandom, .overwrite: try write(settings.num, sync: settings.sync, sequential: false, &tally)
        case .fillsync: try write(max(settings.num / 1000, 1), sync: true, sequential: false, &tally)
        case .deleterandom: try deleteRandom(settings.num, &tally)
        case .readrandom, .readwhilewriting: try readRandom(missing: false, &tally)
        case .readmissing: try readRandom(missing: true, &tally)
        case .readseq: try readAll(backward: false, &tally)
        case .readreverse: try readAll(backward: true, &tally)
        case .multireadrandom: try readBatches(&tally)
        case .seekrandom: try seekRandom(&tally)
        case .flush: try once(&tally) { database throws(EngineError) in try database.flush() }
        case .compact: try once(&tally) { database throws(EngineError) in try database.compact() }
        case .waitforcompaction:
            try once(&tally) { database throws(EngineError) in try database.waitUntilSettled() }
        case .ycsbload: try loadRecords(&tally)
        case .ycsba, .ycsbb, .ycsbc, .ycsbd, .ycsbe, .ycsbf:
            if let mix = group.workload.ycsb { try runMix(mix, &tally) }
        }
    }

    // MARK: Workloads

    private mutating func write(
        _ count: Int,
        sync: Bool,
        sequential: Bool,
        _ tally: inout WorkloadTally
    ) throws(EngineError) {
        let settings = group.settings
        let database = group.database
        var pace = Pace(settings, operations: count, start: tally.start)
        var next: UInt64 = 0
        while let already = pace.next() {
            let size = settings.duration > 0 ? settings.batchSize : min(settings.batchSize, count - already)
            batch.clear()
            for _ in 0..<size {
                put(sequential ? next : chooser.next(&random))
                next &+= 1
            }
            try database.write(batch, sync: sync)
            pace.finish(size, &tally)
        }
        tally.bytes = UInt64(tally.operations) * UInt64(settings.keySize + settings.valueSize)
    }

    private mutating func deleteRandom(_ count: Int, _ tally: inout WorkloadTally) throws(EngineError) {
        let settings = group.settings
        let database = group.database
        var pace = Pace(settings, operations: count, start: tally.start)
        while pace.next() != nil {
            batch.clear()
            batch.delete(keys.key(chooser.next(&random)))
            try database.write(batch, sync: settings.sync)
            pace.finish(1, &tally)
        }
        tally.bytes = UInt64(tally.operations) * UInt64(settings.keySize)
    }

    private mutating func readRandom(missing: Bool, _ tally: inout WorkloadTally) throws(EngineError) {
        let settings = group.settings
        let database = group.database
        // Absent keys lie between present ones in no way that a range check could see: the last byte differs.
        let missingKeys = KeyWriter(size: settings.keySize + 1)
        defer { missingKeys.release() }
        var bytes: UInt64 = 0
        var found = 0
        var pace = Pace(reads: settings.reads ?? settings.num, group, start: tally.start)
        while pace.next() != nil {
            let number = chooser.next(&random)
            let key = missing ? missingKeys.key(number) : keys.key(number)
            if let value = try database.lookup(key) {
                try verify(key, value.bytes)
                found += 1
                bytes += UInt64(key.count + value.bytes.count)
            }
            pace.finish(1, &tally)
        }
        tally.bytes = bytes
        tally.found = found
    }

    private mutating func readBatches(_ tally: inout WorkloadTally) throws(EngineError) {
        let settings = group.settings
        let database = group.database
        let operations = settings.reads ?? settings.num
        var batch = [[UInt8]](repeating: [UInt8](keys.key(0)), count: settings.batchSize)
        var bytes: UInt64 = 0
        var found = 0
        var pace = Pace(reads: operations, group, start: tally.start)
        while let already = pace.next() {
            let size = settings.duration > 0 ? settings.batchSize : min(settings.batchSize, operations - already)
            if size < batch.count { batch.removeLast(batch.count - size) }
            for index in batch.indices {
                let number = chooser.next(&random).bigEndian
                batch[index].withUnsafeMutableBytes { $0.storeBytes(of: number, as: UInt64.self) }
            }
            for (key, value) in zip(batch, try database.multiLookup(batch)) {
                guard let value else { continue }
                try verify(key, value)
                found += 1
                bytes += UInt64(settings.keySize + value.bytes.count)
            }
            pace.finish(size, &tally)
        }
        tally.bytes = bytes
        tally.found = found
    }

    private mutating func readAll(backward: Bool, _ tally: inout WorkloadTally) throws(EngineError) {
        let settings = group.settings
        let iterator = try group.database.makeIterator()
        if backward { try iterator.seekToLast() } else { try iterator.seekToFirst() }
        var bytes: UInt64 = 0
        var pace = Pace(settings, operations: settings.reads ?? settings.num, start: tally.start)
        var order = ScanOrder(backward: backward)
        while iterator.isValid, pace.next() != nil {
            if settings.verify { try order.check(iterator.key) }
            try verify(iterator.key, iterator.value)
            bytes += UInt64(iterator.key.count + iterator.value.count)
            if backward { try iterator.previous() } else { try iterator.next() }
            pace.finish(1, &tally)
        }
        tally.bytes = bytes
        tally.found = tally.operations
    }

    private mutating func seekRandom(_ tally: inout WorkloadTally) throws(EngineError) {
        let settings = group.settings
        let database = group.database
        var bytes: UInt64 = 0
        var found = 0
        var pace = Pace(reads: settings.reads ?? settings.num, group, start: tally.start)
        while pace.next() != nil {
            let key = keys.key(chooser.next(&random))
            let iterator = try database.makeIterator()
            try iterator.seek(key)
            if iterator.isValid, compareBytes(iterator.key, key) { found += 1 }
            if iterator.isValid { bytes += UInt64(iterator.key.count + iterator.value.count) }
            var steps = 0
            while steps < settings.seekNexts, iterator.isValid {
                try verify(iterator.key, iterator.value)
                bytes += UInt64(iterator.key.count + iterator.value.count)
                try iterator.next()
                steps += 1
            }
            pace.finish(1, &tally)
        }
        tally.bytes = bytes
        tally.found = found
    }

    private mutating func writeUntilReadersAreDone() throws(EngineError) {
        let settings = group.settings
        let start = monotonicNanoseconds()
        var written = 0
        while group.readersDone.load(ordering: .relaxed) < settings.threads, !group.hasFailed {
            for _ in 0..<Self.backgroundWritesAtOnce {
                batch.clear()
                put(chooser.next(&random))
                try group.database.write(batch, sync: settings.sync)
            }
            written += Self.backgroundWritesAtOnce
            group.backgroundWrites.store(written, ordering: .relaxed)
            guard let limit = settings.writeRateLimit else { continue }
            let due = Double(written) * Double(settings.keySize + settings.valueSize) / Double(limit)
            while Double(monotonicNanoseconds() - start) / 1e9 < due,
                group.readersDone.load(ordering: .relaxed) < settings.threads
            {
                usleepShort()
            }
        }
    }

    private static let backgroundWritesAtOnce = 64

    private func once(
        _ tally: inout WorkloadTally,
        _ body: (Database) throws(EngineError) -> Void
    ) throws(EngineError) {
        guard index == 0 else { return }
        try body(group.database)
        tally.operations = 1
        tally.latencies.record(monotonicNanoseconds() - tally.start)
    }
}

/// Counts and times the operations of one thread: one reading of the clock each, the end of one being
/// the start of the next.
struct Pace {
    private let limit: Int
    private let deadline: UInt64
    private var done = 0
    private var last: UInt64
    private var turns: DelegationTurns?

    /// - Parameters:
    ///   - limit: operations.
    ///   - seconds: 0 for as long as the operations take; otherwise `limit` means nothing.
    init(limit: Int, seconds: Int, start: UInt64) {
        self.limit = seconds > 0 ? Int.max : limit
        deadline = seconds > 0 ? start + UInt64(seconds) * 1_000_000_000 : UInt64.max
        last = start
    }

    init(_ settings: BenchSettings, operations: Int, start: UInt64) {
        self.init(limit: operations, seconds: settings.duration, start: start)
    }

    /// For reads, which take turns with and without delegation if the settings say so.
    init(reads operations: Int, _ group: WorkloadGroup, start: UInt64) {
        self.init(group.settings, operations: operations, start: start)
        if group.settings.comparesDelegation { turns = DelegationTurns(group.database) }
    }

    /// Operations done so far, nil when it is time to stop.
    @inline(__always)
    func next() -> Int? { done < limit && last < deadline ? done : nil }

    @inline(__always)
    mutating func finish(_ operations: Int, _ tally: inout WorkloadTally) {
        let now = monotonicNanoseconds()
        tally.latencies.record(now &- last)
        last = now
        done += operations
        tally.operations = done
        guard let turns else { return }
        last = turns.finish(operations, now)
        // At the end of the last turn that the limits leave room for.
        if done >= limit || last >= deadline { tally.delegation = turns.result }
    }
}
