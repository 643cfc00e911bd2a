import Glibc
import Synchronization

/// How a background daemon tells the command that started it what became of it: lines on a pipe, each a
/// letter and a sentence. Without a pipe, in the foreground, notes go to standard error.
final class DaemonStatus: Sendable {
    /// The pipe, until the outcome was told.
    private let pipe: Mutex<Int32?>
    private let isBackground: Bool

    init(descriptor: Int32?) {
        pipe = Mutex(descriptor)
        isBackground = descriptor != nil
        if let descriptor { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
    }

    /// Something the user should know.
    func note(_ text: String) {
        if isBackground { send("n", text) } else { Console.note(text) }
    }

    /// The mount is live; the parent may go.
    func succeed(_ text: String) {
        if isBackground { send("s", text, isLast: true) } else { Console.note(text) }
    }

    /// The mount failed. Returns false when nobody listens any more.
    func fail(_ text: String) -> Bool { send("f", text, isLast: true) }

    @discardableResult
    private func send(_ kind: String, _ text: String, isLast: Bool = false) -> Bool {
        let line = Array((kind + text.replacing("\n", with: " ") + "\n").utf8)
        return pipe.withLock { pipe in
            guard let descriptor = pipe else { return false }
            _ = line.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
            if isLast {
                close(descriptor)
                pipe = nil
            }
            return true
        }
    }

    /// A line that `send` wrote.
    enum Message: Equatable {
        case note(String)
        case success(String)
        case failure(String)

        init?(_ line: Substring) {
            let text = String(line.dropFirst())
            switch line.first {
            case "n": self = .note(text)
            case "s": self = .success(text)
            case "f": self = .failure(text)
            default: return nil
            }
        }
    }
}
