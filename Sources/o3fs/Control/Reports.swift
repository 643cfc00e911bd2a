import FUSE
import Glibc
import O3FileSystem
import O3LSM

/// Requests that were sent to an earlier daemon, too.
struct ResentRequests: Codable, Equatable, Sendable {
    /// That came again: the earlier daemon had read and not answered them.
    var received: UInt64 = 0
    /// Of these, those that it had done: they were answered, not done again.
    var alreadyDone: UInt64 = 0

    enum CodingKeys: String, CodingKey {
        case received = "resent_requests"
        case alreadyDone = "already_done"
    }
}

/// What `o3fs status` tells.
struct StatusReport: Codable, Sendable {
    struct Process: Codable, Sendable {
        var pid: Int32
        var uptimeSeconds: Double

        enum CodingKeys: String, CodingKey {
            case pid
            case uptimeSeconds = "uptime_seconds"
        }
    }
    /// The process that outlives the daemon.
    struct Supervisor: Codable, Sendable {
        var pid: Int32
        /// Daemons that died, and those that took over (from them, or by an upgrade).
        var deaths: UInt64
        var restarts: UInt64
        /// How the last one ended, and for how long nobody answered.
        var lastCause: String?
        var lastPauseSeconds: Double?
        /// Of the present daemon; nil from one of an older version.
        var resends: ResentRequests?

        enum CodingKeys: String, CodingKey {
            case pid, deaths, restarts, resends
            case lastCause = "last_cause"
            case lastPauseSeconds = "last_pause_seconds"
        }
    }
    /// `mounted`, `unmounted`, or `failed` when the store refuses writes.
    var state: String
    var version: String
    var store: String
    var mountpoint: String?
    /// nil when the store is not mounted.
    var daemon: Process?
    /// nil when the mount ends with its daemon.
    var supervisor: Supervisor?
    /// Processes that flush and compact for the daemon.
    var workers: [Statistics.Node] = []
    /// The daemon as one that flushes and compacts itself; nil when the store is not mounted.
    var owner: Statistics.Node?
    /// Flushes and compactions in flight.
    var jobs: [Statistics.Job] = []
    /// Flushes and compactions by who executed them.
    var executors: [Statistics.Executor] = []
    /// Waits of writers, by cause.
    var stalls: [String: Statistics.Stall] = [:]
    var dm: Statistics.DisaggregatedMemory
    var levels: [Statistics.Level]
    var recovery: Statistics.Recovery
    var writeError: String?
    /// The scrub that runs, or the last one since the store was opened.
    var scrub: ScrubReport?
    /// What is wrong, and the way out of it; empty in good order.
    var troubles: [Trouble] = []

    enum CodingKeys: String, CodingKey {
        case state, version, store, mountpoint, daemon, supervisor, workers, owner, jobs, executors, stalls, dm, levels, recovery
        case writeError = "write_error"
        case scrub, troubles
    }

    init(_ statistics: Statistics, store: String, mountpoint: String?, daemon: Process?) {
        state = statistics.writeError != nil ? "failed" : daemon != nil ? "mounted" : "unmounted"
        version = o3fsVersion
        self.store = store
        self.mountpoint = mountpoint
        self.daemon = daemon
        dm = statistics.dm
        levels = statistics.levels
        recovery = statistics.recovery
        workers = daemon == nil ? [] : statistics.workers
        owner = statistics.owner
        jobs = daemon == nil ? [] : statistics.jobs
        executors = statistics.executors
        stalls = statistics.stalls
        writeError = statistics.writeError
        scrub = statistics.scrub
    }
}

/// How often the kernel asked for one operation, and how that went.
struct OperationCounter: Codable, Equatable, Sendable {
    var count: UInt64 = 0
    /// Answers with an errno; most are expected (ENOENT).
    var errors: UInt64 = 0
    /// Time spent answering, all threads together.
    var seconds = 0.0
}

/// What `o3fs stats` tells: the engine's statistics, and the operations of the mount beside them.
struct StatisticsReport: Codable, Sendable {
    var engine: Statistics
    /// By name of the operation in the FUSE protocol, in lower case; nil when the store is not mounted.
    var fuse: [String: OperationCounter]?
    /// nil when the store is not mounted.
    var resends: ResentRequests?

    private enum CodingKeys: String, CodingKey {
        case fuse, resends
        case stallSeconds = "stall_seconds"
        case writeAmplification = "write_amplification"
    }

    init(_ engine: Statistics, fuse: [String: OperationCounter]?, resends: ResentRequests? = nil) {
        self.engine = engine
        self.fuse = fuse
        self.resends = resends
    }

    init(from decoder: any Decoder) throws {
        engine = try Statistics(from: decoder)
        let container = try decoder.container(keyedBy: CodingKeys.self)
        fuse = try container.decodeIfPresent([String: OperationCounter].self, forKey: .fuse)
        resends = try container.decodeIfPresent(ResentRequests.self, forKey: .resends)
    }

    /// One flat object: the engine's keys and these.
    func encode(to encoder: any Encoder) throws {
        try engine.encode(to: encoder)
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encodeIfPresent(fuse, forKey: .fuse)
        try container.encodeIfPresent(resends, forKey: .resends)
        try container.encode(engine.stallSeconds, forKey: .stallSeconds)
        try container.encode(engine.writeAmplification, forKey: .writeAmplification)
    }
}

/// The control socket's handler of a mount daemon. Thread-safe.
///
///     let reports = DaemonReports(database: database, store: store, mountpoint: mountpoint) { counters }
///     let control = try ControlServer.start(path: ControlSocket.path(store: store), handler: reports.answer)
final class DaemonReports: Sendable {
    private let database: Database
    private let files: FileSystem
    private let ledger: TroubleLedger
    private let store: String
    private let mountpoint: String
    private let startNanoseconds = monotonicNanoseconds()
    private let supervision: Supervision?
    private let leave: @Sendable () -> Void
    private let workers: @Sendable () -> WorkerSupervisor.Health?
    private let resends: @Sendable () -> ResentRequests
    private let operations: @Sendable () -> [String: OperationCounter]

    /// - Parameters:
    ///   - ledger: what programs were told of failures.
    ///   - store, mountpoint: absolute paths.
    ///   - supervision: nil for a mount that ends with this process.
    ///   - workers: how the mount's own workers fare, asked for with each `status`.
    ///   - resends: what came again, asked for with each `status` and `stats`.
    ///   - leave: lets the daemon end without unmounting.
    ///   - operations: the mount's counters, called for each `stats`.
    init(
        database: Database,
        files: FileSystem,
        ledger: TroubleLedger,
        store: String,
        mountpoint: String,
        supervision: Supervision? = nil,
        leave: @escaping @Sendable () -> Void = {},
        workers: @escaping @Sendable () -> WorkerSupervisor.Health? = { nil },
        resends: @escaping @Sendable () -> ResentRequests = { ResentRequests() },
        operations: @escaping @Sendable () -> [String: OperationCounter] = { [:] }
    ) {
        self.database = database
        self.files = files
        self.ledger = ledger
        self.store = store
        self.mountpoint = mountpoint
        self.supervision = supervision
        self.leave = leave
        self.workers = workers
        self.resends = resends
        self.operations = operations
    }

    /// Has the daemon end, a moment after this was answered, and another program go on.
    private func upgrade(to program: String?) throws {
        guard let supervision else {
            throw CommandError("the mount has no supervisor (--no-survive): unmount it, then mount it with the new program")
        }
        guard let program, program.hasPrefix("/"), access(program, X_OK) == 0 else {
            throw CommandError("an upgrade needs the absolute path of a program, not \(program ?? "none")")
        }
        // Who starts it would wait for the mount, and the mount for it.
        guard let own = FUSE.MountTable.entry(at: mountpoint)?.device, Files.device(program) != own else {
            throw CommandError("\(program) lies in the mount that it is to serve: give a program that lies elsewhere (--program)")
        }
        try supervision.setSuccessor(program)
        try spawnThread("o3-upgrade") { [database, leave] in
            usleep(20_000)
            Self.syncMost(of: database)
            leave()
        }
    }

    /// Before the store is left, the log is to have all of it (`Supervision.handOver`), and programs wait meanwhile: for
    /// what they have written during the last of these syncs, not for all that a slow disk is behind.
    private static func syncMost(of database: Database) {
        for _ in 0..<mostSyncs {
            let start = monotonicNanoseconds()
            // Whoever hands over meets the error again, and tells it.
            guard (try? database.sync()) != nil, monotonicNanoseconds() - start > shortSyncNanoseconds else { return }
        }
    }
    private static let mostSyncs = 10
    private static let shortSyncNanoseconds: UInt64 = 50_000_000

    /// Of a scrub.
    @Sendable func noteDamage(_ error: EngineError) {
        ledger.note(error)
        TroubleLog.report(error.description)
    }

    func answer(_ request: ControlRequest) throws -> any Codable & Sendable {
        switch request.command {
        case .status:
            let uptime = Double(monotonicNanoseconds() - startNanoseconds) / 1e9
            let statistics = database.statistics()
            var report = StatusReport(
                statistics,
                store: store,
                mountpoint: mountpoint,
                daemon: .init(pid: getpid(), uptimeSeconds: uptime)
            )
            report.supervisor = supervision?.report()
            report.supervisor?.resends = resends()
            report.troubles = ledger.report(statistics, space: try? files.space(), workers: workers())
            return report
        case .stats:
            return StatisticsReport(database.statistics(), fuse: operations(), resends: resends())
        case .compact:
            try database.compact()
            return ControlDone()
        case .sync:
            try database.sync()
            return ControlDone()
        case .check:
            return ControlProblems(problems: try database.leaks())
        case .snapshot:
            try database.createSnapshot(request.name ?? "")
            return ControlDone()
        case .scrub:
            if let id = request.scrub?.id, let report = database.scrubReport, report.id == id { return report }
            try database.startScrub(bytesPerSecond: request.scrub?.bytesPerSecond, tell: noteDamage)
            guard let report = database.scrubReport else { throw CommandError("the scrub did not begin") }
            return report
        case .upgrade:
            try upgrade(to: request.program)
            return ControlDone()
        }
    }
}
