import FUSE
import Glibc
import O3FileSystem
import O3LSM
import Synchronization

/// A daemon's side of being supervised: what it got from its predecessor, and what it leaves to its successor.
/// Thread-safe.
final class Supervision: Sendable {
    /// Who the daemon is among those of the mount.
    let beginning: SupervisorMessage.Beginning
    /// The kernel's session to go on with; nil: the mount is to be made.
    let resumed: HeldSession?
    /// The lock of the store: taken over, or for handing on.
    let storeLock: SharedStoreLock
    /// How often the kernel knows each file; nil: nobody counted yet.
    let lookupCounts: Int32?
    private let link: SupervisorLink
    private let supervisor = getppid()

    private struct State {
        var isKept = false
        var pauseSeconds: Double?
        /// The program that is to go on.
        var successor: String?
    }
    private let state: Mutex<State>

    /// How long to wait between looks for requests that were sent again.
    private static let lookMicroseconds: UInt32 = 1_000_000

    /// Hears from the supervisor at the other end of `descriptor`. Throws when it does not make sense.
    init(descriptor: Int32) throws(CommandError) {
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        Self.beOrdinary()
        link = SupervisorLink(descriptor: descriptor)
        guard let (message, descriptors) = link.receive(), case .begin(let beginning) = message else {
            throw CommandError("the supervisor of the mount is gone")
        }
        self.beginning = beginning
        guard let bytes = beginning.kept else {
            (resumed, storeLock, lookupCounts) = (nil, SharedStoreLock(), nil)
            state = Mutex(State())
            return
        }
        guard let kept = KeptMount(bytes, descriptors: descriptors) else {
            throw CommandError("this program does not understand what the mount's last daemon has left: another version?")
        }
        (resumed, lookupCounts) = (kept.session, kept.lookupCounts)
        storeLock = SharedStoreLock(descriptor: kept.storeLock)
        state = Mutex(State(isKept: true))
    }

    // MARK: The daemon's life

    /// Leaves a session that this process has made with the supervisor.
    func keep(_ session: Session, _ files: FileSystem, _ status: DaemonStatus) {
        guard resumed == nil else { return }
        guard let held = session.held, let lock = storeLock.descriptor, let counts = files.lookupCountsDescriptor
        else {
            status.note("the kernel (before Linux 6.9) cannot send requests again: the mount ends with its daemon")
            link.send(.over)
            return
        }
        let kept = KeptMount(session: held, storeLock: lock, lookupCounts: counts)
        let isKept = link.send(.keep(kept.encoded), descriptors: kept.descriptors)
        state.withLock { $0.isKept = isKept }
    }

    /// The session is served.
    func live(_ session: Session, _ files: FileSystem) {
        link.send(.ready)
        guard resumed != nil, beginning.endNanoseconds > 0 else { return }
        let pause = Double(monotonicNanoseconds() - beginning.endNanoseconds) / 1e9
        state.withLock { $0.pauseSeconds = pause }
        try? spawnThread("o3-resends") { Self.watchResends(session, files) }
    }

    /// Every request was answered; no other will come to this process. The store is not closed yet.
    func ended(isLeft: Bool) {
        if !isLeft { link.send(.over) }
    }

    /// Another program goes on: the store is left as it is, in memory, but first made to survive power loss, so that
    /// a program that does not understand what is in memory finds it in the log. Ends the process.
    func handOver(_ database: Database) -> Never {
        do {
            try database.sync()
            announceSuccessor()
            _exit(EXIT_SUCCESS)
        } catch {
            link.send(.lastWords("the store could not be synced, so that it stays with the old program: \(error)"))
            _exit(EXIT_FAILURE)
        }
    }

    /// The store is as the next program needs it.
    func announceSuccessor() {
        if let successor = state.withLock({ $0.successor }) { link.send(.upgrade(successor)) }
    }

    /// Another program is to go on when this one has left the session.
    func setSuccessor(_ path: String) throws(CommandError) {
        let isKept = state.withLock { state in
            if state.isKept { state.successor = path }
            return state.isKept
        }
        guard isKept, link.isConnected else {
            throw CommandError("nobody holds the mount while the program is replaced: unmount, then mount again")
        }
    }

    /// nil when nobody goes on after this process.
    func report() -> StatusReport.Supervisor? {
        let (isKept, pause) = state.withLock { ($0.isKept, $0.pauseSeconds) }
        guard isKept, link.isConnected else { return nil }
        return StatusReport.Supervisor(
            pid: supervisor, deaths: beginning.deaths, restarts: beginning.generation,
            lastCause: beginning.cause.isEmpty ? nil : beginning.cause, lastPauseSeconds: pause)
    }

    /// Waits until the requests that the kernel has sent again are answered, then forgets which of them were done.
    private static func watchResends(_ session: Session, _ files: FileSystem) {
        var looks = 0
        while looks < 2 {
            usleep(lookMicroseconds)
            looks = session.hasOpenResends ? 0 : looks + 1
        }
        do throws(FileSystemError) { try files.forgetEarlierRequests() } catch {
            // Unmounted meanwhile: then nobody asks again.
            if case .engine(.closed) = error { return }
            TroubleLog.report(error.descriptionForLog)
        }
    }

    /// The supervisor is spared when memory runs out; its daemons, who use it, are not.
    private static func beOrdinary() {
        let descriptor = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        _ = write(descriptor, "0", 1)
        close(descriptor)
    }
}
