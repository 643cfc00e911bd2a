@preconcurrency import Glibc
import FUSE
import O3FileSystem
import O3LSM

/// The process behind a mount, from opening the store to closing it.
struct MountDaemon {
    private let plan: MountPlan
    private let status: DaemonStatus
    private let logFile: String?

    /// `logFile`: where standard error goes once the store is open; nil leaves it.
    init(_ plan: MountPlan, _ status: DaemonStatus, logFile: String?) {
        self.plan = plan
        self.status = status
        self.logFile = logFile
    }

    /// Serves the mount until it is unmounted or a signal asks for the end. Returns when the store is closed.
    func run() throws {
        TerminationSignals.block()
        let isNew = access(plan.store + "/IDENTITY", F_OK) != 0
        let database = try Database.open(plan.store, options: plan.engine, storage: plan.storage)
        do {
            if let logFile { try TroubleLog.redirect(to: logFile) }
            // Holds no directory of the user's; every path is absolute.
            chdir("/")
            try serve(database, isNew: isNew)
        } catch {
            try? database.close()
            throw error
        }
        try database.close()
    }

    private func serve(_ database: Database, isNew: Bool) throws {
        let files = try FileSystem(database, options: fileSystemOptions())
        if isNew { status.note("made a new store at \(plan.store)") }
        let adapter = FileSystemAdapter(
            files, timeouts: plan.timeouts, isReadOnly: plan.engine.readOnly, report: TroubleLog.report)
        let workers = WorkerSupervisor(store: plan.store, arguments: plan.workerArguments)
        let session: Session
        do {
            session = try Session(adapter, mountPoint: plan.mountpoint, plan.session)
            TerminationSignals.observe { _ in session.unmount() }
            try session.start()
        } catch {
            try? files.close()
            throw error
        }
        let reports = DaemonReports(database: database, store: plan.store, mountpoint: plan.mountpoint) {
            session.counters().mapValues {
                OperationCounter(count: $0.count, errors: $0.errors, seconds: Double($0.nanoseconds) / 1e9)
            }
        }
        let control = try? ControlServer.start(
            path: ControlSocket.path(store: plan.store), handler: reports.answer)
        if control == nil { status.note("status and statistics are not available: no control socket") }
        if !plan.engine.readOnly { workers.start(plan.workers) }
        status.succeed("\(plan.store) is mounted at \(plan.mountpoint)")
        let failure = session.wait()
        control?.stop()
        workers.stop()
        if !plan.engine.readOnly { try files.close() }
        if let failure { throw CommandError("the mount ended: \(failure)") }
    }

    private func fileSystemOptions() -> FileSystem.Options {
        var options = FileSystem.Options()
        if let size = plan.fileBlockSize { options.blockSize = size }
        options.rootOwner = Owner(uid: geteuid(), gid: getegid())
        options.formatIfEmpty = !plan.engine.readOnly
        return options
    }
}
