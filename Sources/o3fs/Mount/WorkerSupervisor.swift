import Dispatch
import Glibc
import O3LSM
import Synchronization

/// Starts the mount's own workers and starts them again when they die, with growing pauses.
///
/// Each is this program once more, with nothing inherited but standard error. They end with this process,
/// however it ends, and before `stop` returns.
final class WorkerSupervisor: Sendable {
    /// How the workers fare.
    struct Health {
        var wanted = 0
        var running = 0
        var deaths: UInt64 = 0
        /// The newest death, or failure to start one: how, and when in seconds since 1970.
        var lastCause = ""
        var last: time_t = 0
    }

    private struct State {
        var isStopping = false
        var workers: [pid_t] = []
        var health = Health()

        mutating func noteDeath(_ cause: String) {
            health.deaths += 1
            health.lastCause = cause
            health.last = time(nil)
        }
    }
    private let state = Mutex(State())
    private let arguments: [String]
    private let running = DispatchGroup()

    /// Pauses before a worker that died is started again, in milliseconds.
    private static let firstPause = 100
    private static let longestPause = 10_000
    /// A worker that has lived so long is started again at once.
    private static let goodLifeSeconds = 10.0

    /// - Parameters:
    ///   - arguments: of `o3fs worker`, after the store.
    init(store: String, arguments: [String] = []) {
        self.arguments = ["worker", store, "--supervised"] + arguments
    }

    /// Starts `count` workers, each watched by a thread that lives as long as it is wanted: the kernel ties a
    /// child's death signal to the thread that started it.
    func start(_ count: Int) {
        state.withLock { $0.health.wanted = count }
        for index in 0..<count {
            running.enter()
            do {
                try spawnThread("o3-watch-\(index)") { [self] in
                    keepAlive()
                    running.leave()
                }
            } catch {
                running.leave()
                TroubleLog.report("\(error)")
            }
        }
    }

    /// How long workers may take to finish what they do before they are killed. One that is stopped would never
    /// hear the first signal.
    static let graceSeconds = 2

    /// Ends the workers and waits for them.
    func stop(graceSeconds: Int = graceSeconds) {
        let workers = state.withLock { state in
            state.isStopping = true
            return state.workers
        }
        for worker in workers { kill(worker, SIGTERM) }
        guard running.wait(timeout: .now() + .seconds(graceSeconds)) == .timedOut else { return }
        // Those that are gone have left the list: their numbers may be others' by now.
        state.withLock { state in for worker in state.workers { kill(worker, SIGKILL) } }
        running.wait()
    }

    var health: Health {
        state.withLock { state in
            var health = state.health
            health.running = state.workers.count
            return health
        }
    }

    private var isStopping: Bool { state.withLock { $0.isStopping } }

    private func keepAlive() {
        var pause = Self.firstPause
        while !isStopping {
            let began = ContinuousClock.now
            do throws(CommandError) {
                guard let child = try spawn() else { return }
                var status: Int32 = 0
                while waitpid(child, &status, 0) < 0, errno == EINTR {}
                let cause = Daemons.causeOfEnd(status)
                let isStopping = state.withLock { state in
                    state.workers.removeAll { $0 == child }
                    if !state.isStopping { state.noteDeath(cause) }
                    return state.isStopping
                }
                if isStopping { return }
                if began.duration(to: .now) > .seconds(Self.goodLifeSeconds) { pause = Self.firstPause }
                TroubleLog.report("worker \(child) died (\(cause)); another one is started in \(pause) ms")
            } catch {
                state.withLock { $0.noteDeath("\(error)") }
                TroubleLog.report("\(error); it is tried again in \(pause) ms")
            }
            var waited = 0
            while waited < pause, !isStopping {
                usleep(50_000)
                waited += 50
            }
            pause = min(pause * 2, Self.longestPause)
        }
    }

    /// - Returns: nil when none is wanted any more.
    private func spawn() throws(CommandError) -> pid_t? {
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // The daemon blocks the signals that it waits for; a worker must get them.
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)

        DaemonLauncher.closeOnExec()
        var list = (["o3fs"] + arguments).map { strdup($0) } as [UnsafeMutablePointer<CChar>?]
        list.append(nil)
        defer { for argument in list { free(argument) } }
        return try state.withLock { state throws(CommandError) -> pid_t? in
            guard !state.isStopping else { return nil }
            var child = pid_t()
            let code = Daemons.withEnvironment { posix_spawn(&child, "/proc/self/exe", &actions, &attributes, list, $0) }
            guard code == 0 else { throw CommandError("start a worker", errno: code) }
            state.workers.append(child)
            return child
        }
    }
}
