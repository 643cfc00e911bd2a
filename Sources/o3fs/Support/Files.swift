import Glibc

/// The few file operations that commands need.
enum Files {
    /// Names of the entries of a directory, without "." and "..", in no order.
    static func list(_ path: String) throws(CommandError) -> [String] {
        guard let directory = opendir(path) else { throw CommandError("list \(path)", errno: errno) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// The text of a small file, at most 64 KiB of it; empty when it cannot be read.
    static func text(_ path: String) -> String {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return "" }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 64 << 10)
        return String(decoding: bytes[..<max(0, read(file, &bytes, bytes.count))], as: UTF8.self)
    }

    /// Bytes of a file; 0 for one that cannot be looked at.
    static func size(_ path: String) -> Int {
        var info = stat()
        return lstat(path, &info) == 0 ? Int(info.st_size) : 0
    }

    /// The device of the file system that a file lies on; nil for one that cannot be looked at.
    static func device(_ path: String) -> UInt64? {
        var info = stat()
        return stat(path, &info) == 0 ? UInt64(info.st_dev) : nil
    }

    /// Whether a store may be made at this path without touching anything.
    static func isMissingOrEmptyDirectory(_ path: String) -> Bool {
        if access(path, F_OK) != 0 { return errno == ENOENT }
        return (try? list(path))?.isEmpty ?? false
    }

    /// Deletes a file, or a directory with everything in it; symbolic links are not followed.
    static func removeTree(_ path: String) throws(CommandError) {
        var info = stat()
        guard lstat(path, &info) == 0 else { throw CommandError("delete \(path)", errno: errno) }
        if info.st_mode & S_IFMT == S_IFDIR {
            for name in try list(path) { try removeTree(path + "/" + name) }
            guard rmdir(path) == 0 else { throw CommandError("delete \(path)", errno: errno) }
        } else {
            guard unlink(path) == 0 else { throw CommandError("delete \(path)", errno: errno) }
        }
    }

    /// An absolute path without "." and symbolic links, also for one whose last component cannot be
    /// reached (a mountpoint whose daemon is dead) or does not exist.
    ///
    /// - Throws: for one that is not UTF-8, which text would garble.
    static func absolute(_ path: String) throws(CommandError) -> String {
        if let whole = try resolved(path) { return whole }
        var trimmed = path
        while trimmed.count > 1, trimmed.hasSuffix("/") { trimmed.removeLast() }
        let slash = trimmed.lastIndex(of: "/")
        let parent = slash.map { String(trimmed[..<$0]) } ?? "."
        let name = slash.map { String(trimmed[trimmed.index(after: $0)...]) } ?? trimmed
        guard let base = try resolved(parent.isEmpty ? "/" : parent) else { return trimmed }
        return base == "/" ? "/" + name : base + "/" + name
    }

    private static func resolved(_ path: String) throws(CommandError) -> String? {
        guard let found = realpath(path, nil) else { return nil }
        defer { free(found) }
        if let odd = EscapedBytes.textIfNotUTF8(found) {
            throw CommandError("\(path) is \(odd), which is not UTF-8: use a path that is")
        }
        return String(cString: found)
    }
}

/// Gives the processor away for a moment (a tenth of a millisecond), where a wait is rare and short.
func usleepShort() { usleep(100) }

/// Whether two byte strings are the same.
func compareBytes(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
    guard left.count == right.count, let a = left.baseAddress, let b = right.baseAddress else {
        return left.count == right.count
    }
    return memcmp(a, b, left.count) == 0
}
