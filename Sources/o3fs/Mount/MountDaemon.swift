@preconcurrency import Glibc
import FUSE
import O3FileSystem
import O3LSM

/// The process behind a mount, from opening the store to closing it.
struct MountDaemon {
    private let plan: MountPlan
    private let status: DaemonStatus
    private let logFile: String?

    private let supervision: Supervision?

    /// - Parameters:
    ///   - logFile: where standard error goes once the store is open; nil leaves it.
    ///   - supervision: nil for a mount that ends with this process.
    init(_ plan: MountPlan, _ status: DaemonStatus, logFile: String?, _ supervision: Supervision? = nil) {
        self.plan = plan
        self.status = status
        self.logFile = logFile
        self.supervision = supervision
    }

    /// Serves the mount until it is unmounted, left to another daemon, or a signal asks for the end. Returns when
    /// the store is closed.
    func run() throws {
        TerminationSignals.block()
        let isNew = access(plan.store + "/IDENTITY", F_OK) != 0
        let storage = plan.distance.storage(storeLock: supervision?.storeLock)
        let database = try Database.open(plan.store, options: plan.engine, storage: storage)
        do {
            try redirectLog()
            GivenUpNote(store: plan.store).clear()
            // Holds no directory of the user's; every path is absolute.
            chdir("/")
            let isLeft = try serve(database, isNew: isNew)
            if isLeft, !plan.engine.readOnly { supervision?.handOver(database) }
        } catch {
            try? database.close()
            throw error
        }
        try database.close()
        supervision?.announceSuccessor()
    }

    /// A mount that lives goes on without a log of its own rather than not at all: standard error is where the
    /// supervisor's goes.
    private func redirectLog() throws {
        guard let logFile else { return }
        do throws(CommandError) { try TroubleLog.redirect(to: logFile) } catch {
            guard supervision?.resumed != nil else { throw error }
            TroubleLog.report("\(error)")
        }
    }

    /// Returns when the mount is gone, or left to another daemon: then true, and nothing was closed.
    private func serve(_ database: Database, isNew: Bool) throws -> Bool {
        let ledger = TroubleLedger()
        let report: @Sendable (FileSystemError) -> Void = { error in
            ledger.note(error)
            TroubleLog.report(error.descriptionForLog)
        }
        // What the dead daemon had in memory is gone, and the kernel knows files of that time.
        let isKernelAhead = supervision?.resumed != nil && database.statistics().recovery.source != "region"
        var options = fileSystemOptions(report)
        options.mayHaveLostNumbers = isKernelAhead
        let files = try FileSystem(database, options: options)
        if isNew { status.note("made a new store at \(plan.store)") }
        let adapter = FileSystemAdapter(
            files, timeouts: plan.timeouts, shownOwner: plan.shownOwner, isReadOnly: plan.engine.readOnly,
            report: report)
        let workers = WorkerSupervisor(store: plan.store, arguments: plan.workerArguments)
        let session: Session
        do {
            session = try makeSession(adapter)
            supervision?.keep(session, files, status)
            TerminationSignals.observe { _ in session.unmount() }
            try session.start()
        } catch {
            // Another daemon may go on with the mount.
            if !plan.engine.readOnly { try? files.close(goesOn: true) }
            throw error
        }
        if isKernelAhead { session.expireNames() }
        supervision?.live(session, files)
        let reports = DaemonReports(
            database: database, files: files, ledger: ledger, store: plan.store, mountpoint: plan.mountpoint,
            supervision: supervision,
            leave: { session.leave() },
            workers: { workers.health },
            resends: { ResentRequests(received: session.resentRequests, alreadyDone: adapter.alreadyDone) }
        ) {
            session.counters().mapValues {
                OperationCounter(count: $0.count, errors: $0.errors, seconds: Double($0.nanoseconds) / 1e9)
            }
        }
        var control: ControlServer?
        do { control = try .start(path: ControlSocket.path(store: plan.store), handler: reports.answer) } catch {
            status.note("status and statistics are not available: \(error)")
        }
        if !plan.engine.readOnly {
            workers.start(plan.workers)
            do { try spawnThread("o3-orphans") { files.reclaimOrphans() } } catch {
                TroubleLog.report("files that were deleted while open keep their space until the next mount: \(error)")
            }
        }
        if let rate = plan.scrubBytesPerSecond {
            do { try database.startScrub(bytesPerSecond: rate, repeats: true, tell: reports.noteDamage) } catch {
                TroubleLog.report("tables are not checked in the background: \(error)")
            }
        }
        if supervision?.resumed == nil { status.succeed("\(plan.store) is mounted at \(plan.mountpoint)") }
        let failure = session.wait()
        let isLeft = session.isLeft
        supervision?.ended(isLeft: isLeft)
        control?.stop()
        // Programs wait for the daemon that is to go on, and what workers do is done again.
        workers.stop(graceSeconds: isLeft ? 0 : WorkerSupervisor.graceSeconds)
        if isLeft { return true }
        if !plan.engine.readOnly { try files.close() }
        if let failure { throw CommandError("the mount ended: \(failure)") }
        return false
    }

    /// Mounts, or goes on with what an earlier daemon has mounted.
    private func makeSession(_ adapter: FileSystemAdapter) throws -> Session {
        if let resumed = supervision?.resumed { return try Session(adapter, resuming: resumed, plan.session) }
        return try Session(adapter, mountPoint: plan.mountpoint, plan.session)
    }

    private func fileSystemOptions(_ report: @escaping @Sendable (FileSystemError) -> Void) -> FileSystem.Options {
        var options = FileSystem.Options()
        options.report = report
        if let size = plan.fileBlockSize { options.blockSize = size }
        options.rootOwner = Owner(uid: geteuid(), gid: getegid())
        options.generation = supervision?.beginning.generation
        options.lookupCounts = supervision?.lookupCounts
        options.continuesEarlierMount = supervision?.resumed != nil
        options.maximumBytes = plan.maximumBytes.map { $0 == 0 ? .unlimited : .to($0) }
        options.maximumInodes = plan.maximumInodes.map { $0 == 0 ? .unlimited : .to($0) }
        options.accessControlLists = plan.session.accessControlLists
        options.accessTimes = plan.accessTimes
        options.directoryAccessTimes = plan.directoryAccessTimes
        options.formatIfEmpty = !plan.engine.readOnly
        options.isReadOnly = plan.engine.readOnly
        return options
    }
}
