import CFUSE3
import Glibc
import Synchronization

/// Catches what libfuse would print, so that a failure can be told in one sentence by whoever asked.
final class LibraryLog: Sendable {
    static let shared = LibraryLog()

    private let last = Mutex<String?>(nil)
    private let installed = Atomic<Bool>(false)

    /// Takes over libfuse's log, once.
    func install() {
        guard !installed.exchange(true, ordering: .relaxed) else { return }
        fuse_set_log_func { level, format, arguments in
            guard let format, let arguments, level.rawValue <= FUSE_LOG_WARNING.rawValue else { return }
            var text = [CChar](repeating: 0, count: 512)
            vsnprintf(&text, text.count, format, arguments)
            let length = text.firstIndex(of: 0) ?? text.count
            let line = String(decoding: text[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
            LibraryLog.shared.note(line)
        }
    }

    /// The last complaint, forgotten by this.
    func takeLast() -> String? { last.withLock { $0.take() } }

    private func note(_ line: String) {
        var words = line[...]
        while let end = words.last, end.isWhitespace { words.removeLast() }
        for prefix in ["fuse: ", "error: "] where words.hasPrefix(prefix) { words.removeFirst(prefix.count) }
        guard !words.isEmpty else { return }
        last.withLock { $0 = String(words) }
    }
}
