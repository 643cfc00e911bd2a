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
    private let logFile: String?
    private let maximumRestarts: Int

    private struct State {
        var daemon: pid_t?
        /// The signal that asked for the end.
        var termination: Int32?
    }
    private let state = Mutex(State())

    /// Where a daemon finds its end of the link.
    static let linkDescriptor: Int32 = 4

    /// - Parameters:
    ///   - arguments: of the daemon, after the program's name.
    ///   - logFile: where standard error goes once the mount is live; nil leaves it.
    init(arguments: [String], logFile: String?, maximumRestarts: Int) {
        self.arguments = arguments
        self.logFile = logFile
        self.maximumRestarts = maximumRestarts
    }

    /// Serves until the mount is gone, or its daemon given up. Returns the status to exit with.
    ///
    /// `statusDescriptor`: handed to the first daemon as descriptor 3, and closed.
    func run(statusDescriptor: Int32?) throws -> Int32 {
        TerminationSignals.block()
        TerminationSignals.observe { [self] in pass($0) }
        avoidMemoryKiller()
        var limit = RestartLimit(maximum: maximumRestarts)
        var beginning = SupervisorMessage.Beginning()
        var descriptors: [Int32] = []
        var statusDescriptor = statusDescriptor
        // What the next daemon is, and what has gone on with the mount before.
        var program = Self.ownProgram
        var proven = Self.ownProgram
        while true {
            let link: SupervisorLink
            let daemon: pid_t
            (daemon, link) = try start(program, statusDescriptor)
            if let descriptor = statusDescriptor { close(descriptor) }
            statusDescriptor = nil
            link.send(.begin(beginning), descriptors: descriptors)
            let outcome = listen(to: link, daemon, &beginning, &descriptors)
            let status = Self.wait(for: daemon)
            state.withLock { $0.daemon = nil }
            if outcome.isReady { proven = program }
            if outcome.isOver || beginning.kept == nil { return Self.exitStatus(status) }

            beginning.generation += 1
            beginning.endNanoseconds = monotonicNanoseconds()
            if let next = outcome.upgrade, status == 0 {
                beginning.cause = "upgrade"
                program = next
                continue
            }
            beginning.deaths += 1
            beginning.cause = Self.describe(status)
            if program != proven {
                TroubleLog.report("\(program) cannot go on with the mount (\(beginning.cause)): back to the old program")
                program = proven
            }
            guard limit.forgives(deathAt: beginning.endNanoseconds) else {
                TroubleLog.report(
                    "the daemon died \(maximumRestarts + 1) times in "
                        + "\(RestartLimit.windowNanoseconds / 1_000_000_000) seconds, the last time by "
                        + "\(beginning.cause): the mount is given up. Clear it away with o3fs umount, and look at "
                        + "what the daemon has reported above")
                return EXIT_FAILURE
            }
            TroubleLog.report("the daemon (process \(daemon)) ended by \(beginning.cause): another one goes on")
        }
    }

    /// What one daemon said in its life.
    private struct Outcome {
        var isReady = false
        var isOver = false
        var upgrade: String?
    }

    /// Until the daemon is gone.
    private func listen(
        to link: SupervisorLink, _ daemon: pid_t, _ beginning: inout SupervisorMessage.Beginning,
        _ descriptors: inout [Int32]
    ) -> Outcome {
        var outcome = Outcome()
        while let (message, received) = link.receive() {
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
            case .begin: break
            }
        }
        return outcome
    }

    // MARK: Processes

    /// The running program itself, whatever has become of its file.
    private static let ownProgram = "/proc/self/exe"

    private func start(_ program: String, _ statusDescriptor: Int32?) throws -> (pid_t, SupervisorLink) {
        var ends: [Int32] = [-1, -1]
        let result = ends.withUnsafeMutableBufferPointer { o3_socket_pair($0.baseAddress) }
        guard result == 0 else { throw CommandError("make a socket", errno: -result) }
        let link = SupervisorLink(descriptor: ends[0])
        defer { close(ends[1]) }
        // Started anew until it works: with a mount at stake, a machine that is short of processes or memory is
        // waited for.
        while true {
            let code = state.withLock { state -> Int32 in
                var child = pid_t()
                let code = spawn(program, link: ends[1], statusDescriptor, &child)
                if code == 0 { state.daemon = child }
                return code
            }
            if code == 0, let daemon = state.withLock({ $0.daemon }) { return (daemon, link) }
            if statusDescriptor != nil { throw CommandError("start the daemon", errno: code) }
            if program != Self.ownProgram { return try start(Self.ownProgram, statusDescriptor) }
            usleep(100_000)
        }
    }

    private func spawn(_ program: String, link: Int32, _ statusDescriptor: Int32?, _ child: inout pid_t) -> Int32 {
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
        // Both may lie on the other's place: to a free one first.
        let spare: Int32 = 900
        posix_spawn_file_actions_adddup2(&actions, link, spare)
        if let statusDescriptor {
            posix_spawn_file_actions_adddup2(&actions, statusDescriptor, spare + 1)
            posix_spawn_file_actions_adddup2(&actions, spare + 1, 3)
            posix_spawn_file_actions_addclose(&actions, spare + 1)
        }
        posix_spawn_file_actions_adddup2(&actions, spare, Self.linkDescriptor)
        posix_spawn_file_actions_addclose(&actions, spare)
        var list = ([CommandLine.arguments.first ?? "o3fs"] + arguments).map { strdup($0) }
            as [UnsafeMutablePointer<CChar>?]
        if statusDescriptor != nil { list += [strdup("--status-fd"), strdup("3")] }
        list.append(nil)
        defer { for argument in list { free(argument) } }
        return posix_spawn(&child, program, &actions, &attributes, list, Glibc.environ)
    }

    private static func wait(for child: pid_t) -> Int32 {
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 { guard errno == EINTR else { return 0 } }
        return status
    }

    private static func describe(_ status: Int32) -> String {
        let signal = status & 0x7f
        return signal == 0 ? "exit status \((status >> 8) & 0xff)" : "signal \(signal)"
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
