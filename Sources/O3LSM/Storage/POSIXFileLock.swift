import Glibc

/// The lock of a store, held through flock(2) on an open file.
///
/// The kernel drops it when the last copy of the descriptor closes, so no death of the owner, however
/// sudden, leaves a store locked. The owner's pid is in the file, for the message that others get.
final class POSIXFileLock: FileLock {
    private let descriptor: DescriptorHandle

    /// Throws `.storeInUse` when another holder (also one in this process) has it.
    init(path: String) throws(EngineError) {
        let opened = try DescriptorHandle(path: path, flags: O_RDWR | O_CREAT)
        let file = opened.number
        guard retryingInterrupts({ flock(file, LOCK_EX | LOCK_NB) }) == 0 else {
            guard errno == EWOULDBLOCK else { throw .io(operation: "lock", path: path, code: errno) }
            throw .storeInUse(path: Self.directory(of: path), owner: Self.owner(in: file))
        }
        // The text only serves messages: the lock holds without it.
        let text = Array("\(getpid())\n".utf8)
        if ftruncate(file, 0) == 0 { _ = pwrite(file, text, text.count, 0) }
        descriptor = opened
    }

    deinit {
        // A child that is being started has copies of all descriptors until it executes its program, and the
        // lock lasts as long as any copy: closing this one would not be enough.
        _ = flock(descriptor.number, LOCK_UN)
    }

    private static func directory(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/"), slash > path.startIndex else { return path }
        return String(path[..<slash])
    }

    private static func owner(in file: Int32) -> String {
        var text = [UInt8](repeating: 0, count: 32)
        let count = pread(file, &text, text.count, 0)
        let digits = text.prefix(max(0, count)).prefix { $0 >= 0x30 && $0 <= 0x39 }
        guard let pid = Int32(String(decoding: digits, as: UTF8.self)) else { return "another process" }
        return pid == getpid() ? "this process (\(pid))" : "process \(pid)"
    }
}
