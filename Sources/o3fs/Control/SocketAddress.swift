import Glibc

/// Unix-domain sockets by path, of any length: an address holds 107 bytes, so a longer path is reached
/// through a descriptor of its directory.
enum SocketAddress {
    /// Calls `body` with the address of `path`. Throws when the directory cannot be opened.
    static func with<R>(
        _ path: String,
        _ body: (UnsafePointer<sockaddr>, socklen_t) -> R
    ) throws(CommandError) -> R {
        let bytes = Array(path.utf8)
        if bytes.count <= capacity { return call(bytes, body) }
        let slash = bytes.lastIndex(of: UInt8(ascii: "/"))
        let directory = slash.map { String(decoding: bytes[..<$0], as: UTF8.self) } ?? "."
        let name = slash.map { bytes[($0 + 1)...] } ?? bytes[...]
        let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw CommandError("open \(directory)", errno: errno) }
        defer { close(descriptor) }
        let short = Array("/proc/self/fd/\(descriptor)/".utf8) + name
        guard short.count <= capacity else { throw CommandError("the socket name \(path) is too long") }
        return call(short, body)
    }

    /// Bytes of a path that fit, with room for the terminating NUL.
    private static let capacity = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1

    private static func call<R>(_ path: [UInt8], _ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path) }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}

/// A connected socket that speaks lines. Owned by one thread; closes when released.
final class LineSocket {
    private let descriptor: Int32
    private var pending: [UInt8] = []

    init(owning descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    /// Reads that wait longer fail from now on.
    func setTimeout(seconds: Int) {
        var limit = timeval(tv_sec: seconds, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    /// The next line without its newline; nil at the end, on an error, or when it exceeds `limit`.
    func readLine(limit: Int) -> [UInt8]? {
        var scanned = 0
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            if let end = pending[scanned...].firstIndex(of: UInt8(ascii: "\n")) {
                let line = Array(pending[..<end])
                pending.removeFirst(end + 1)
                return line
            }
            scanned = pending.count
            guard scanned <= limit else { return nil }
            let count = read(descriptor, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return nil }
            pending.append(contentsOf: chunk[..<count])
        }
    }

    /// Writes the text and a newline; false when the peer is gone.
    func writeLine(_ text: String) -> Bool {
        let bytes = Array(text.utf8) + [UInt8(ascii: "\n")]
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes { buffer -> Int in
                guard let base = buffer.baseAddress else { return -1 }
                // No SIGPIPE: a daemon must not die because a client went away.
                return send(descriptor, base + written, bytes.count - written, Int32(MSG_NOSIGNAL))
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            written += count
        }
        return true
    }

    /// Who is at the other end, as the kernel saw it connect; nil when it cannot be told.
    func peer() -> (pid: Int32, uid: UInt32)? {
        // struct ucred: pid, uid, gid, 32 bits each. It is hidden behind _GNU_SOURCE.
        var words: (UInt32, UInt32, UInt32) = (0, 0, 0)
        var length = socklen_t(MemoryLayout.size(ofValue: words))
        guard getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &words, &length) == 0,
            length == MemoryLayout.size(ofValue: words)
        else { return nil }
        return (Int32(bitPattern: words.0), words.1)
    }
}
