@preconcurrency import Glibc
import FUSE
import CSystem
import Synchronization

/// The process that a mount's life hangs on: it holds what the kernel and the store give only once, starts the
/// daemon that does the work, and starts another one when it dies.
///
/// It waits, and does nothing else: no request passes through it, it allocates next to nothing, and touches
/// neither the mount nor the store.
final class Supervisor: Sendable {
    private let arguments: [String]
    private let store: String
    private let logFile: String?
    private let settings: Settings

    /// How patient it is.
    struct Settings {
        /// Deaths that are forgiven.
        var maximumRestarts = RestartLimit.standard
        /// How long a daemon that is to go on with the mount may do nothing before it serves.
        var startPatienceSeconds: UInt32 = 300
    }

    private struct State {
        var daemon: pid_t?
        /// A daemon was started, so that there may be a mount.
        var hasStarted = false
        /// The signal that asked for the end.
        var termination: Int32?
    }
    private let state = Mutex(State())

    /// Where a daemon finds its end of the link.
    static let linkDescriptor: Int32 = 4

    /// - Parameters:
    ///   - arguments: of the daemon, after the program's name.
    ///   - store: absolute path of its directory, where a note is left when the mount is given up.
    ///   - logFile: where standard error goes once the mount is live; nil leaves it.
    init(arguments: [String], store: String, logFile: String?, _ settings: Settings = Settings()) {
        self.arguments = arguments
        self.store = store
        self.logFile = logFile
        self.settings = settings
    }

    /// Serves until the mount is gone, or its daemon given up. Returns the status to exit with.
    ///
    /// `statusDescriptor`: handed to the first daemon as descriptor 3, and closed.
    func run(statusDescriptor: Int32?) throws -> Int32 {
        TerminationSignals.block()
        TerminationSignals.observe { [self] in pass($0) }
        avoidMemoryKiller()
        var limit = RestartLimit(maximum: settings.maximumRestarts)
        var beginning = SupervisorMessage.Beginning()
        var descriptors: [Int32] = []
        var statusDescriptor = statusDescriptor
        // What the next daemon is, and what has gone on with the mount before.
        var program = SupervisedProgram.own
        var proven = SupervisedProgram.own
        // Daemons in a row that did not come to serve.
        var failures = 0
        while true {
            let started = try start(program, statusDescriptor)
            if let reason = started.refusal {
                beginning.deaths += 1
                beginning.cause = "\(program.name) cannot be started: \(reason)"
                TroubleLog.report("\(beginning.cause): back to the old program")
                program = started.program
            }
            if let descriptor = statusDescriptor { close(descriptor) }
            statusDescriptor = nil
            // One that was not told who it is would wait for ever, and so would its supervisor.
            if !started.link.sendPatiently(.begin(beginning), descriptors: descriptors) { kill(started.daemon, SIGKILL) }
            let outcome = listen(to: started.link, started.daemon, &beginning, &descriptors)
            let status = Self.wait(for: started.daemon)
            state.withLock { $0.daemon = nil }
            if outcome.isReady { proven = program }
            failures = outcome.isReady ? 0 : failures + 1
            if outcome.isOver || beginning.kept == nil { return Self.exitStatus(status) }

            beginning.generation += 1
            beginning.endNanoseconds = monotonicNanoseconds()
            if let next = outcome.upgrade, status == 0 {
                beginning.cause = "upgrade"
                program = SupervisedProgram(path: next)
                continue
            }
            beginning.deaths += 1
            beginning.cause = outcome.lastWords ?? (outcome.isStuck ? "a start that did not go on" : Daemons.causeOfEnd(status))
            if program != proven {
                TroubleLog.report("\(program.name) cannot go on with the mount (\(beginning.cause)): back to the old program")
                program = proven
            } else if failures > 1, program != .own {
                TroubleLog.report("\(program.name) does not go on with the mount any more (\(beginning.cause)): back to the first program")
                (program, proven) = (.own, .own)
            }
            guard limit.forgives(deathAt: beginning.endNanoseconds, wasReady: outcome.isReady) else {
                giveUp(limit, beginning)
                return EXIT_FAILURE
            }
            TroubleLog.report("the daemon (process \(started.daemon)) ended by \(beginning.cause): another one goes on")
            usleep(limit.pauseMicroseconds)
        }
    }

    private func giveUp(_ limit: RestartLimit, _ beginning: SupervisorMessage.Beginning) {
        let reason = "\(limit.reason), the last one by \(beginning.cause)"
        TroubleLog.report(
            "the mount is given up: \(reason). Clear it away with o3fs umount, and look at what the daemon has reported above")
        GivenUpNote(store: store).write(reason)
    }

    /// What one daemon said in its life.
    private struct Outcome {
        var isReady = false
        var isOver = false
        var upgrade: String?
        /// Why it ended, as it said itself.
        var lastWords: String?
        /// It was killed because it did nothing.
        var isStuck = false
    }

    /// How often to look whether a daemon that does not serve yet does anything.
    private static let lookMilliseconds: Int32 = 1000

    /// Until the daemon is gone, or does not talk as a daemon does.
    private func listen(
        to link: SupervisorLink, _ daemon: pid_t, _ beginning: inout SupervisorMessage.Beginning,
        _ descriptors: inout [Int32]
    ) -> Outcome {
        var outcome = Outcome()
        var watch = StartWatch(daemon, patienceSeconds: settings.startPatienceSeconds, now: monotonicNanoseconds())
        while true {
            // Programs wait for a daemon that is to go on with a mount; for the first one, only who mounts.
            while !outcome.isReady, beginning.kept != nil, !link.hasMessage(within: Self.lookMilliseconds) {
                outcome.isStuck = watch.isStuck(now: monotonicNanoseconds())
                if outcome.isStuck { kill(daemon, SIGKILL) }
                // A program that is no daemon of ours may have left its end of the link to a child.
                if outcome.isStuck || StartWatch.hasEnded(daemon) { return outcome }
            }
            guard let (message, received) = link.receive() else { break }
            switch message {
            case .keep(let bytes):
                for descriptor in descriptors { close(descriptor) }
                (beginning.kept, descriptors) = (bytes, received)
                // No directory of the user's is held from now on.
                chdir("/")
            case .ready:
                outcome.isReady = true
                // Nor does anybody who started the mount have to wait for the end of a pipe.
                if let logFile { try? TroubleLog.redirect(to: logFile) }
                state.withLock { state in
                    if let signal = state.termination { kill(daemon, signal) }
                }
            case .upgrade(let path): outcome.upgrade = path
            case .over: outcome.isOver = true
            case .lastWords(let text): outcome.lastWords = text
            case .begin: break
            }
        }
        // Dead, as a rule. One that is alive and cannot be heard is of no use before it serves.
        if !outcome.isReady, beginning.kept != nil { kill(daemon, SIGKILL) }
        return outcome
    }

    // MARK: Processes

    private struct Started {
        var daemon: pid_t
        var link: SupervisorLink
        /// The one asked for, or this one in its stead.
        var program: SupervisedProgram
        /// Why it is not the one asked for.
        var refusal: String?
    }

    /// Starts a daemon. With a mount at stake (after the first one) as often as it takes: a machine that is short of
    /// processes, memory or descriptors is waited for.
    private func start(_ program: SupervisedProgram, _ statusDescriptor: Int32?) throws(CommandError) -> Started {
        var program = program
        var refusal: String?
        while true {
            do throws(StartFailure) {
                let (daemon, link) = try startOnce(program, statusDescriptor)
                return Started(daemon: daemon, link: link, program: program, refusal: refusal)
            } catch {
                if state.withLock({ !$0.hasStarted }) { throw CommandError(error.what, errno: error.code) }
                // Another program may be gone, or be none; what the machine lacks will come back.
                if !StartFailure.passing.contains(error.code), program != .own {
                    refusal = String(cString: strerror(error.code))
                    program = .own
                }
                usleep(Self.retryMicroseconds)
            }
        }
    }

    private static let retryMicroseconds: UInt32 = 100_000

    private struct StartFailure: Error {
        var what: String
        var code: Int32

        static let passing = [EAGAIN, ENOMEM, ENFILE, EMFILE, ENOBUFS, EINTR]
    }

    private func startOnce(_ program: SupervisedProgram, _ statusDescriptor: Int32?) throws(StartFailure) -> (pid_t, SupervisorLink) {
        var ends: [Int32] = [-1, -1]
        let result = ends.withUnsafeMutableBufferPointer { o3_socket_pair($0.baseAddress) }
        guard result == 0 else { throw StartFailure(what: "make a socket", code: -result) }
        let link = SupervisorLink(descriptor: ends[0])
        defer { close(ends[1]) }
        // A signal that asks for the end comes before the daemon is there, or is passed on to it.
        let (code, daemon) = state.withLock { state -> (Int32, pid_t) in
            var child = pid_t()
            let code = spawn(program, link: ends[1], statusDescriptor, &child)
            if code == 0 { (state.daemon, state.hasStarted) = (child, true) }
            return (code, child)
        }
        guard code == 0 else { throw StartFailure(what: "start the daemon", code: code) }
        return (daemon, link)
    }

    private func spawn(
        _ program: SupervisedProgram, link: Int32, _ statusDescriptor: Int32?, _ child: inout pid_t
    ) -> Int32 {
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        DaemonLauncher.closeOnExec()
        // Both may lie on the other's place: to free ones first.
        let places = [link, statusDescriptor].map { $0.map { fcntl($0, F_DUPFD_CLOEXEC, Self.linkDescriptor + 1) } }
        defer { for place in places { if let place, place >= 0 { close(place) } } }
        if places.contains(-1) { return errno }
        if let place = places[0] { posix_spawn_file_actions_adddup2(&actions, place, Self.linkDescriptor) }
        if let place = places[1] { posix_spawn_file_actions_adddup2(&actions, place, 3) }
        var list = ([CommandLine.arguments.first ?? "o3fs"] + arguments).map { strdup($0) }
            as [UnsafeMutablePointer<CChar>?]
        if statusDescriptor != nil { list += [strdup("--status-fd"), strdup("3")] }
        list.append(nil)
        defer { for argument in list { free(argument) } }
        return Daemons.withEnvironment { posix_spawn(&child, program.executable, &actions, &attributes, list, $0) }
    }

    private static func wait(for child: pid_t) -> Int32 {
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 { guard errno == EINTR else { return 0 } }
        return status
    }

    private static func exitStatus(_ status: Int32) -> Int32 {
        let signal = status & 0x7f
        return signal == 0 ? (status >> 8) & 0xff : 128 + signal
    }

    /// A signal that asks for the end goes to the daemon, which unmounts; to the next one, if none lives.
    private func pass(_ signal: Int32) {
        state.withLock { state in
            state.termination = signal
            if let daemon = state.daemon { kill(daemon, signal) }
        }
    }

    /// Asks the kernel to spare this process, and not those it starts, when memory runs out. Needs root.
    private func avoidMemoryKiller() {
        let descriptor = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        _ = write(descriptor, "-1000", 5)
        close(descriptor)
    }
}
