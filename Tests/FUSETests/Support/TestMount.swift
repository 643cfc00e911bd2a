import FUSE
import Glibc

/// A memory file system mounted in a temporary directory.
final class TestMount {
    let files: MemoryFileSystem
    let session: Session
    let path: String
    private var isOver = false

    /// Whether this machine can mount; says so when it cannot.
    static let isPossible: Bool = {
        if access("/dev/fuse", R_OK | W_OK) == 0 { return true }
        print("skipped: /dev/fuse is not usable here")
        return false
    }()

    init(hasOpen: Bool = false, _ configure: (inout SessionOptions) -> Void = { _ in }) throws {
        var template = Array("/tmp/fuse-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Errno(errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        files = MemoryFileSystem(hasOpen: hasOpen)
        var options = SessionOptions()
        options.mountOptions = ["fsname=memory", "subtype=test", "default_permissions", "allow_other"]
        options.threads = 4
        configure(&options)
        session = try Session(files, mountPoint: path, options)
        try session.start()
    }

    deinit {
        end()
        rmdir(path)
    }

    /// Unmounts and waits for the end of the session.
    func end() {
        guard !isOver else { return }
        isOver = true
        session.unmount()
        session.wait()
    }

    /// Waits for a session that ends by itself.
    func waitForEnd() {
        isOver = true
        session.wait()
    }

    /// The absolute path of a name in the mount.
    subscript(name: String) -> String { path + "/" + name }
}

/// The result of a system call, or its error.
@discardableResult
func check<Number: FixedWidthInteger>(_ result: Number) throws -> Number {
    guard result >= 0 else { throw Errno(errno) }
    return result
}

/// The error that `body` throws, 0 when it throws none.
func code(_ body: () throws -> Void) -> Int32 {
    do { try body() } catch { return (error as? Errno)?.code ?? -1 }
    return 0
}

func writeFile(_ path: String, _ bytes: [UInt8]) throws {
    let descriptor = try check(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o644))
    defer { close(descriptor) }
    var position = 0
    while position < bytes.count {
        position += try bytes[position...].withUnsafeBytes { try check(write(descriptor, $0.baseAddress, $0.count)) }
    }
}

func readFile(_ path: String) throws -> [UInt8] {
    let descriptor = try check(open(path, O_RDONLY))
    defer { close(descriptor) }
    var result: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while true {
        let count = try check(read(descriptor, &buffer, buffer.count))
        if count == 0 { return result }
        result += buffer[..<count]
    }
}

func status(_ path: String) throws -> stat {
    var result = stat()
    try check(lstat(path, &result))
    return result
}

func names(_ path: String) throws -> [String] {
    guard let directory = opendir(path) else { throw Errno(errno) }
    defer { closedir(directory) }
    var result: [String] = []
    while let entry = readdir(directory) {
        result.append(withUnsafeBytes(of: entry.pointee.d_name) { bytes in
            String(decoding: bytes.prefix(while: { $0 != 0 }), as: UTF8.self)
        })
    }
    return result
}

/// Makes the kernel forget the clean pages it holds of a file.
func dropCache(_ path: String) throws {
    let descriptor = try check(open(path, O_RDONLY))
    defer { close(descriptor) }
    try check(fsync(descriptor))
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
}
