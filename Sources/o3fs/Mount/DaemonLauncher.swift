import ArgumentParser
import Glibc

/// Starts the daemon of a mount in the background: this program once more, in a session of its own.
///
/// Not fork(2): a process that has threads, as the Swift runtime may, cannot go on after it.
enum DaemonLauncher {
    /// The daemon's end of the pipe, in the daemon.
    private static let statusDescriptor: Int32 = 3

    /// Returns when the mount is live. Its notes are printed on the way; its failure is thrown.
    static func launch() throws {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw CommandError("make a pipe", errno: errno) }
        let spawned = spawn(statusDescriptor: ends[1])
        close(ends[1])
        defer { close(ends[0]) }
        let child = try spawned.get()

        var outcome: DaemonStatus.Message?
        forEachLine(ends[0]) { line in
            guard let message = DaemonStatus.Message(line) else { return }
            if case .note(let text) = message { Console.note(text) } else { outcome = message }
        }
        switch outcome {
        case .success(let text): Console.line(text)
        case .failure(let text):
            reap(child)
            throw CommandError(text)
        case .note, nil:
            throw CommandError("the daemon died while it set up the mount (\(reap(child)))")
        }
    }

    /// How often to look, every 10 ms, whether a child that failed has ended.
    private static let mostLooks = 1000

    private static func spawn(statusDescriptor: Int32) -> Result<pid_t, CommandError> {
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // POSIX_SPAWN_SETSID, hidden behind _GNU_SOURCE.
        posix_spawnattr_setflags(&attributes, 0x80)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        // Standard error stays the user's until the daemon has its log file. Nothing else is inherited:
        // somebody may wait for the end of a pipe or a lock that the command was given.
        posix_spawn_file_actions_adddup2(&actions, statusDescriptor, Self.statusDescriptor)
        closeOnExec()

        let program = CommandLine.arguments.first ?? "o3fs"
        let arguments = [program] + MountArguments.rewrite(CommandLine.arguments)
            + ["--status-fd", String(Self.statusDescriptor)]
        var list = arguments.map { strdup($0) } as [UnsafeMutablePointer<CChar>?]
        list.append(nil)
        defer { for argument in list { free(argument) } }
        var child = pid_t()
        let code = Daemons.withEnvironment { posix_spawn(&child, "/proc/self/exe", &actions, &attributes, list, $0) }
        guard code == 0 else { return .failure(CommandError("start the daemon", errno: code)) }
        return .success(child)
    }

    /// Keeps every descriptor but the standard ones out of programs that are started from now on.
    static func closeOnExec() {
        let open = (try? Files.list("/proc/self/fd")) ?? []
        for number in open.compactMap({ Int32($0) }) where number > STDERR_FILENO {
            _ = fcntl(number, F_SETFD, FD_CLOEXEC)
        }
    }

    private static func forEachLine(_ descriptor: Int32, _ body: (Substring) -> Void) {
        var pending: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            pending += buffer[..<count]
            while let end = pending.firstIndex(of: UInt8(ascii: "\n")) {
                body(Substring(decoding: pending[..<end], as: UTF8.self))
                pending.removeSubrange(...end)
            }
        }
    }

    /// Waits for a child that failed, and says how it ended. A supervisor whose daemon failed with the mount made does not end:
    /// it starts another one.
    @discardableResult
    private static func reap(_ child: pid_t) -> String {
        var status: Int32 = 0
        var looks = 0
        while true {
            let found = waitpid(child, &status, WNOHANG)
            if found == child { break }
            guard found == 0 || errno == EINTR else { return "unknown status" }
            looks += 1
            guard looks < mostLooks else { return "its supervisor, process \(child), starts another one: see o3fs status" }
            usleep(10_000)
        }
        return Daemons.causeOfEnd(status)
    }
}
