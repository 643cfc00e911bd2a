import Glibc

/// Why a mount has no daemon any more: a line that its supervisor leaves in the store for `o3fs status`, and that the
/// next daemon takes away.
struct GivenUpNote {
    private let path: String

    private static let maximumBytes = 4096

    init(store: String) { path = store + "/given-up" }

    /// Replaces what is there. That it cannot be written is no more than a pity: the log has it, too.
    func write(_ reason: String) {
        clear()
        let file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else { return }
        defer { close(file) }
        let bytes = Array(reason.utf8.prefix(Self.maximumBytes))
        _ = Glibc.write(file, bytes, bytes.count)
    }

    /// nil when no mount of the store was given up.
    func read() -> String? {
        let file = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: Self.maximumBytes)
        let count = Glibc.read(file, &bytes, bytes.count)
        guard count > 0 else { return nil }
        return String(decoding: bytes[..<count], as: UTF8.self).replacing("\n", with: " ")
    }

    func clear() { unlink(path) }
}
