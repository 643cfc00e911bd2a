import ArgumentParser
import FUSE
import Glibc
import O3FileSystem
import O3LSM

/// `o3fs mount STORE MOUNTPOINT`.
struct MountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount",
        abstract: "Mount a store, making it on first use.",
        discussion: """
            Returns when the mount is live; the daemon that serves it goes on in the background. Long options \
            may also be given as -o NAME=VALUE, as in /etc/fstab.
            """)

    @Argument(help: "Directory of the store.")
    var store: String

    @Argument(help: "Directory to mount it at.")
    var mountpoint: String

    @Option(
        name: [.customShort("o"), .customLong("options")], parsing: .unconditionalSingleValue,
        help: "Options of mount(8), separated by commas: ro, allow_other, nodev, nosuid, noexec, fsname=NAME, …")
    var options: [String] = []

    @Flag(name: [.customShort("f"), .long], help: "Stay in the foreground.")
    var foreground = false

    @Option(help: "Mount this snapshot of the store, read-only.")
    var snapshot: String?

    @OptionGroup(title: "Engine") var engine: EngineOptions

    @OptionGroup(title: "Simulated distance") var distance: DistanceOptions

    @Option(name: .customLong("file-block-size"), help: "Bytes of a block of file data, when the store is made.")
    var fileBlockSize: ByteSize?

    @Option(name: .customLong("max-size"), help: "Bytes of data the store may hold from now on, 0: no limit. Kept.")
    var maximumSize: ByteSize?

    @Option(name: .customLong("max-inodes"), help: "Files the store may hold from now on, 0: no limit. Kept.")
    var maximumInodes: UInt64?

    @Option(name: .customLong("scrub-rate"), help: "Read and check all tables every week, so many bytes a second; 0: never.")
    var scrubRate = ByteSize(0)

    @Option(help: "Threads that answer the kernel, 1 to 64.")
    var threads = SessionOptions.defaultThreads

    @Option(help: "Processes that flush and compact for the mount, 0 to 32. More can join with o3fs worker.")
    var workers = 1

    @Flag(
        name: .customLong("writeback-cache"),
        help: "Let the kernel collect writes. Faster for small writes; until sent, they go when daemon and supervisor die at once.")
    var writebackCache = false

    @Flag(
        inversion: .prefixedNo,
        help: "Have a supervisor that starts another daemon when this one dies: programs see a pause.")
    var survive = true

    @Option(
        name: .customLong("max-restarts"),
        help: """
            Deaths of the daemon, within 30 seconds or in a row before it serves, after which another one gives the mount up.
            """)
    var maximumRestarts = RestartLimit.standard

    @Option(
        name: .customLong("start-patience"),
        help: "Seconds that a daemon which is to go on with the mount may do nothing before it serves: then it is killed.")
    var startPatience = Supervisor.Settings().startPatienceSeconds

    @Flag(
        name: .customLong("core-dumps"),
        help: "Let the daemon and its workers leave core dumps, which hold what was in their memory, if the limits allow.")
    var coreDumps = false

    @Option(name: .customLong("attr-timeout"), help: "Seconds the kernel may keep a file's attributes.")
    var attributeTimeout = FileSystemAdapter.Timeouts().attributes

    @Option(name: .customLong("entry-timeout"), help: "Seconds the kernel may keep what a name stands for.")
    var entryTimeout = FileSystemAdapter.Timeouts().entries

    @Option(name: .customLong("negative-timeout"), help: "Seconds the kernel may keep that a name does not exist.")
    var negativeTimeout = FileSystemAdapter.Timeouts().absences

    @Option(name: .customLong("read-ahead"), help: "How far the kernel reads ahead (root only).")
    var readAhead = ByteSize(SessionOptions().readAheadKiB << 10)

    @Option(name: .customLong("log-file"), help: "Where the background daemon reports trouble. Default: STORE/o3fs.log")
    var logFile: String?

    /// Given by the parent to the daemon it starts.
    @Option(name: .customLong("status-fd"), help: .hidden)
    var statusDescriptor: Int32?

    /// Given by the supervisor to the daemons it starts: its end of their link, and what the paths stand for.
    @Option(name: .customLong("supervisor-fd"), help: .hidden)
    var supervisorDescriptor: Int32?
    @Option(name: .customLong("resolved-store"), help: .hidden)
    var resolvedStore: String?
    @Option(name: .customLong("resolved-mountpoint"), help: .hidden)
    var resolvedMountpoint: String?

    func run() throws {
        let plan = try makePlan()
        if supervisorDescriptor == nil, statusDescriptor == nil { Self.waitForEarlierMount(of: plan.store) }
        if supervisorDescriptor != nil {
            try runDaemon(plan)
        } else if foreground || statusDescriptor != nil {
            if survive { try runSupervisor(plan) } else { try runDaemon(plan) }
        } else {
            try DaemonLauncher.launch()
        }
    }

    /// umount(8) returns before the daemon has closed its store: who mounts it again at once waits a while. That somebody
    /// has it still is told by who opens it.
    private static func waitForEarlierMount(of store: String) {
        guard !MountTable.mountedStores().contains(where: { $0.store == store }) else { return }
        _ = StoreLock.waitUntilFree(store: store, timeout: patienceSeconds) {
            Console.note("\(store) is in use, perhaps by a daemon that was unmounted and has yet to write what it holds: waiting")
        }
    }

    private static let patienceSeconds = 30.0

    /// Everything that can be checked before anything is touched.
    private func makePlan() throws -> MountPlan {
        guard (1...64).contains(threads) else {
            throw CommandError("--threads must be between 1 and 64, not \(threads)")
        }
        guard (0...32).contains(workers) else {
            throw CommandError("--workers must be between 0 and 32, not \(workers)")
        }
        for (name, value) in [
            ("attr-timeout", attributeTimeout), ("entry-timeout", entryTimeout), ("negative-timeout", negativeTimeout),
        ] where !(value >= 0) {
            throw CommandError("--\(name) must not be negative")
        }
        guard maximumRestarts >= 0 else { throw CommandError("--max-restarts must not be negative") }
        guard startPatience > 0 else { throw CommandError("--start-patience must not be 0") }
        // A daemon that a supervisor has started must not look at the mount: it may be the one who has to answer.
        let storePath = try resolvedStore ?? snapshotPath(Files.absolute(store))
        let mountpath = try resolvedMountpoint ?? MountPlan.check(mountpoint: mountpoint)
        var plan = MountPlan(store: storePath, mountpoint: mountpath)
        if let logFile, !logFile.hasPrefix("/") {
            throw CommandError("--log-file must be an absolute path, not \(logFile)")
        }
        try plan.checkNesting(logFile: resolvedMountpoint == nil ? try logFile.map(Files.absolute) : nil)
        let mountOptions = try MountOptions(options + (snapshot == nil ? [] : ["ro"]), store: storePath)
        try mountOptions.checkPermitted()
        plan.engine = try engine.makeOptions()
        distance.apply(to: &plan.engine)
        plan.engine.readOnly = mountOptions.isReadOnly
        plan.engine.createIfMissing = !mountOptions.isReadOnly
        plan.fileBlockSize = fileBlockSize?.bytes
        plan.maximumBytes = maximumSize.map { UInt64($0.bytes) }
        plan.maximumInodes = maximumInodes
        plan.shownOwner = mountOptions.shownOwner
        plan.accessTimes = mountOptions.accessTimes
        plan.directoryAccessTimes = mountOptions.directoryAccessTimes
        plan.session.cachesSymbolicLinks = plan.accessTimes != .always
        plan.timeouts = .init(attributes: attributeTimeout, entries: entryTimeout, absences: negativeTimeout)
        plan.session.mountOptions = mountOptions.kernel
        plan.session.accessControlLists = mountOptions.accessControlLists
        plan.session.threads = threads
        plan.scrubBytesPerSecond = scrubRate.bytes == 0 ? nil : UInt64(scrubRate.bytes)
        plan.workers = workers
        plan.distance = distance
        plan.session.outlivesProcess = supervisorDescriptor != nil
        plan.workerArguments = distance.arguments
        plan.session.writebackCache = writebackCache
        plan.session.readAheadKiB = readAhead.bytes >> 10
        plan.session.clearsPrivilegesWhenTold = true
        #if DEBUG || FAULT_POINTS
            // For tests: as on Linux before 6.9.
            plan.session.ignoresResend = getenv("O3FS_NO_RESEND") != nil
        #endif
        return plan
    }

    /// The store to mount: this one, or a snapshot of it.
    private func snapshotPath(_ store: String) throws -> String {
        guard let snapshot else { return store }
        return try SnapshotDirectory(store: store).find(snapshot).path
    }

    private func runDaemon(_ plan: MountPlan) throws {
        if !coreDumps { Daemons.forbidCoreDumps() }
        let status = DaemonStatus(descriptor: statusDescriptor)
        do {
            let logFile = foreground ? logFile : logFile ?? plan.logFile
            let supervision = try supervisorDescriptor.map { try Supervision(descriptor: $0) }
            try MountDaemon(plan, status, logFile: logFile, supervision).run()
        } catch {
            guard statusDescriptor != nil || supervisorDescriptor != nil else { throw error }
            if !status.fail("\(error)") {
                TroubleLog.report((error as? FileSystemError)?.descriptionForLog ?? "\(error)")
            }
            throw ExitCode.failure
        }
    }

    /// Becomes the process that outlives the mount's daemons.
    private func runSupervisor(_ plan: MountPlan) throws {
        if !coreDumps { Daemons.forbidCoreDumps() }
        var arguments = MountArguments.rewrite(CommandLine.arguments)
        if let place = arguments.firstIndex(of: "--status-fd") { arguments.removeSubrange(place...(place + 1)) }
        arguments += ["--supervisor-fd", "\(Supervisor.linkDescriptor)"]
        arguments += ["--resolved-store", plan.store, "--resolved-mountpoint", plan.mountpoint]
        let supervisor = Supervisor(
            arguments: arguments, store: plan.store, logFile: foreground ? logFile : logFile ?? plan.logFile,
            Supervisor.Settings(maximumRestarts: maximumRestarts, startPatienceSeconds: startPatience))
        throw ExitCode(try supervisor.run(statusDescriptor: statusDescriptor))
    }
}
