import Glibc
import Histogram
import O3LSM

/// Runs workloads one after the other on a store of its own, which it makes, empties and closes.
final class BenchRunner {
    private let directory: String
    private let options: Options
    private let settings: BenchSettings
    private let keepsExistingStore: Bool
    private let storage: any Storage
    private let workers: (arguments: [String], count: Int)?
    private var supervisor: WorkerSupervisor?
    private var database: Database?
    /// Streams of random numbers that earlier workloads took.
    private var streamsUsed = 0

    /// - Parameters:
    ///   - keepsExistingStore: never empty the store; workloads that need a new one are skipped.
    ///   - workers: arguments and number of worker processes; nil for none.
    init(
        directory: String, options: Options, settings: BenchSettings, keepsExistingStore: Bool,
        storage: any Storage = POSIXStorage(), workers: (arguments: [String], count: Int)? = nil
    ) {
        self.storage = storage
        self.workers = workers
        self.directory = directory
        self.options = options
        self.settings = settings
        self.keepsExistingStore = keepsExistingStore
    }

    /// Runs one workload; nil when it was skipped.
    func run(_ workload: Workload) throws -> BenchResult? {
        if workload.needsFreshStore {
            if keepsExistingStore { return nil }
            try emptyStore()
        }
        let database = try openStore()
        let before = database.statistics()
        let group = WorkloadGroup(
            database: database,
            settings: settings,
            workload: workload,
            firstStream: streamsUsed
        )
        streamsUsed += settings.threads + 1
        try runGroup(group)
        if let error = group.failure.withLock({ $0 }) { throw error }
        let after = database.statistics()
        var result = Self.result(workload, tallies: group.tallies.withLock { $0 }, before: before, after: after)
        if workload == .readwhilewriting { result.backgroundWrites = group.backgroundWrites.load(ordering: .relaxed) }
        return result
    }

    /// Of the store that is open; nil before the first workload.
    var statistics: Statistics? { database?.statistics() }

    /// Closes the store. What distance to storage costs is not paid for that: nothing measures it.
    func close() throws {
        supervisor?.stop()
        supervisor = nil
        let distant = storage as? DistantStorage
        distant?.isNear = true
        defer { distant?.isNear = false }
        try database?.close()
        database = nil
    }

    // MARK: Threads

    private func runGroup(_ group: WorkloadGroup) throws {
        let writers = group.workload == .readwhilewriting ? 1 : 0
        let total = settings.threads + writers
        let starter = total
        try runThreads("o3-bench", count: total + 1) { index in
            guard index != starter else {
                while group.ready.load(ordering: .acquiring) < total { usleepShort() }
                group.started.store(true, ordering: .releasing)
                return
            }
            var thread = WorkloadThread(
                group: group,
                index: index,
                isBackgroundWriter: index >= group.settings.threads
            )
            thread.run()
        }
    }

    // MARK: The store

    private func openStore() throws -> Database {
        if let database { return database }
        var options = options
        options.createIfMissing = !keepsExistingStore
        let opened = try Database.open(directory, options: options, storage: storage)
        database = opened
        if let workers {
            let supervisor = WorkerSupervisor(store: directory, arguments: workers.arguments)
            supervisor.start(workers.count)
            self.supervisor = supervisor
            // What is measured is the steady state, not how long a process takes to start.
            var patience = 100
            while opened.statistics().workers.count < workers.count, patience > 0 {
                usleep(50_000)
                patience -= 1
            }
        }
        if !keepsExistingStore { try BenchDirectory.mark(directory) }
        return opened
    }

    private func emptyStore() throws {
        try close()
        try BenchDirectory.empty(directory)
    }

    private static func result(
        _ workload: Workload,
        tallies: [WorkloadTally],
        before: Statistics,
        after: Statistics
    ) -> BenchResult {
        var result = BenchResult(name: workload.rawValue)
        var latencies = WorkloadTally.emptyHistogram()
        for tally in tallies {
            result.operations += tally.operations
            result.bytes += tally.bytes
            latencies.add(tally.latencies)
            if let delegation = tally.delegation { result.delegation = delegation }
        }
        let start = tallies.map(\.start).min() ?? 0
        let end = tallies.map(\.end).max() ?? 0
        result.seconds = Double(end - start) / 1e9
        if !workload.writes, ![.flush, .compact, .waitforcompaction].contains(workload) {
            result.found = tallies.reduce(0) { $0 + $1.found }
            result.reads = workload.ycsb == nil ? result.operations : tallies.reduce(0) { $0 + $1.reads }
            if workload.ycsb?.scans ?? 0 > 0 { result.entries = tallies.reduce(0) { $0 + $1.entries } }
        }
        func percentile(_ percentile: Double) -> Double {
            Double(latencies.valueAtPercentile(percentile)) / 1000
        }
        result.p50Microseconds = percentile(50)
        result.p99Microseconds = percentile(99)
        result.p999Microseconds = percentile(99.9)
        result.stallSeconds = max(0, after.stallSeconds - before.stallSeconds)
        result.writeAmplification = writeAmplification(before, after)
        return result
    }

    /// Bytes that reached storage during the workload, for each byte that callers wrote in it.
    private static func writeAmplification(_ before: Statistics, _ after: Statistics) -> Double {
        func stored(_ statistics: Statistics) -> Double {
            Double(statistics.wal.bytesWritten) + Double(statistics.flush.bytesWritten)
                + Double(statistics.compaction.bytesWritten)
        }
        let written = Double(after.bytesWritten) - Double(before.bytesWritten)
        return written > 0 ? max(0, stored(after) - stored(before)) / written : 0
    }
}

/// The directory a benchmark may empty: one whose store it made itself, which a marker file says.
enum BenchDirectory {
    private static let marker = "MADE-BY-O3FS-BENCH"

    /// Makes the directory if need be. Throws when it holds anything that a benchmark did not make.
    static func claim(_ path: String) throws(CommandError) {
        if mkdir(path, 0o700) != 0, errno != EEXIST { throw CommandError("create \(path)", errno: errno) }
        if isOurs(path) { return }
        guard try Files.list(path).isEmpty else {
            throw CommandError(
                "\(path) is not empty and was not made by o3fs bench, which would delete what is in it; "
                    + "give another directory, or --use-existing-db to run only workloads that keep the store"
            )
        }
    }

    /// Says that the store that has just been made in a claimed directory is a benchmark's. The marker
    /// comes last, since a store is only made in an empty directory.
    static func mark(_ path: String) throws(CommandError) {
        let file = open(path + "/" + marker, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw CommandError("write to \(path)", errno: errno) }
        Glibc.close(file)
    }

    /// Deletes everything in a claimed directory, the marker last.
    static func empty(_ path: String) throws(CommandError) {
        try claim(path)
        for name in try Files.list(path) where name != marker { try Files.removeTree(path + "/" + name) }
        if isOurs(path) { try Files.removeTree(path + "/" + marker) }
    }

    private static func isOurs(_ path: String) -> Bool { access(path + "/" + marker, F_OK) == 0 }
}
