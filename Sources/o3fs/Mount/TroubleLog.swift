@preconcurrency import Glibc
import Synchronization

/// Lines on standard error about failures that a person must look into, each with the time; at most a
/// hundred a minute, for a bad block may be read by everybody at once.
enum TroubleLog {
    private struct State {
        var minute = 0
        var lines = 0
    }

    private static let maximumLinesPerMinute = 100
    private static let state = Mutex(State())

    @Sendable static func report(_ text: String) {
        var now = time(nil)
        let lines = state.withLock { state -> Int in
            if state.minute != now / 60 { state = State(minute: now / 60, lines: 0) }
            state.lines += 1
            return state.lines
        }
        guard lines <= maximumLinesPerMinute else { return }
        var parts = tm()
        gmtime_r(&now, &parts)
        var stamp = [CChar](repeating: 0, count: 32)
        let length = strftime(&stamp, stamp.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
        let prefix = String(decoding: stamp[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        fputs("\(prefix) \(text)\n", stderr)
    }

    /// Sends standard error to the end of a file, made if need be. A symbolic link, a pipe, a file of somebody else's or
    /// one with a second name is refused: who can put it there must not lead the log elsewhere, or make it wait.
    static func redirect(to path: String) throws(CommandError) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0o600)
        guard descriptor >= 0 else { throw CommandError("open the log file \(path)", errno: errno) }
        defer { close(descriptor) }
        var info = stat()
        guard fstat(descriptor, &info) == 0 else { throw CommandError("look at the log file \(path)", errno: errno) }
        let user = geteuid()
        switch info.st_mode & S_IFMT {
        case S_IFCHR: break
        case S_IFREG where info.st_nlink <= 1 && (info.st_uid == user || user == 0): break
        default:
            throw CommandError("the log file \(path) is not a file of this user's with one name: move it away, or name another")
        }
        // For the file it makes no difference; a terminal must wait.
        _ = fcntl(descriptor, F_SETFL, O_WRONLY | O_APPEND)
        dup2(descriptor, STDERR_FILENO)
    }
}
