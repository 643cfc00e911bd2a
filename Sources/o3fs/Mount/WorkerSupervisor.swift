import Dispatch
import Glibc
import O3LSM
import Synchronization

/// Starts the mount's own workers and starts them again when they die, with growing pauses.
///
/// Each is this program once more, with nothing inherited but standard error. They end with this process,
/// however it ends, and before `stop` returns.
final class WorkerSupervisor: Sendable {
    private struct State {
        var isStopping = false
        var workers: [pid_t] = []
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

    private var isStopping: Bool { state.withLock { $0.isStopping } }

    private func keepAlive() {
        var pause = Self.firstPause
        while !isStopping {
            let began = ContinuousClock.now
            if let child = spawn() {
                var status: Int32 = 0
                while waitpid(child, &status, 0) < 0, errno == EINTR {}
                state.withLock { $0.workers.removeAll { $0 == child } }
                if isStopping { return }
                if began.duration(to: .now) > .seconds(Self.goodLifeSeconds) { pause = Self.firstPause }
                TroubleLog.report("worker \(child) died; another one is started in \(pause) ms")
            }
            var waited = 0
            while waited < pause, !isStopping {
                usleep(50_000)
                waited += 50
            }
            pause = min(pause * 2, Self.longestPause)
        }
    }

    private func spawn() -> pid_t? {
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
        return state.withLock { state -> pid_t? in
            guard !state.isStopping else { return nil }
            var child = pid_t()
            let code = Daemons.withEnvironment { posix_spawn(&child, "/proc/self/exe", &actions, &attributes, list, $0) }
            guard code == 0 else { return nil }
            state.workers.append(child)
            return child
        }
    }
}
