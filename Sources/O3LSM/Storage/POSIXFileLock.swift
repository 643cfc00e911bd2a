import Glibc
import Synchronization

/// The lock of a store, held through flock(2) on an open file.
///
/// The kernel drops it when the last copy of the descriptor closes, so no death of the owner, however
/// sudden, leaves a store locked. The owner's pid is in the file, for the message that others get.
final class POSIXFileLock: FileLock {
    private let descriptor: DescriptorHandle
    private let isShared: Bool

    /// How long a holder that has been killed may take to end: its threads finish what they wrote to disk first.
    private static let patienceMilliseconds = 10_000

    /// Waits for a holder that is ending.
    ///
    /// Throws `.storeInUse` when another holder (also one in this process) has it. `shared` is told the descriptor
    /// through which the lock is held, and gives one through which it is held already.
    init(path: String, shared: SharedStoreLock? = nil) throws(EngineError) {
        let opened =
            if let held = shared?.descriptor { DescriptorHandle(owning: held) } else {
                try Self.open(path)
            }
        let file = opened.number
        var waited = 0
        while retryingInterrupts({ flock(file, LOCK_EX | LOCK_NB) }) != 0 {
            let code = errno
            if code == EWOULDBLOCK, waited < Self.patienceMilliseconds, Self.isEnding(Self.ownerPID(in: file)) {
                usleep(20_000)
                waited += 20
                continue
            }
            guard code == EWOULDBLOCK else { throw .io(operation: "lock", path: path, code: code) }
            throw .storeInUse(path: Self.directory(of: path), owner: Self.owner(in: file))
        }
        // The text only serves messages: the lock holds without it.
        let text = Array("\(getpid())\n".utf8)
        if ftruncate(file, 0) == 0 { _ = pwrite(file, text, text.count, 0) }
        descriptor = opened
        isShared = shared != nil
        shared?.set(file)
    }

    /// Where nothing may be written, a lock needs no more than a file that can be read.
    private static func open(_ path: String) throws(EngineError) -> DescriptorHandle {
        do throws(EngineError) { return try DescriptorHandle(path: path, flags: O_RDWR | O_CREAT) } catch {
            guard error.posixCode == EROFS else { throw error }
            return try DescriptorHandle(path: path, flags: O_RDONLY)
        }
    }

    deinit {
        // Others hold it as well: it lasts until the last of them has closed it.
        guard !isShared else { return }
        // A child that is being started has copies of all descriptors until it executes its program, and the
        // lock lasts as long as any copy: closing this one would not be enough.
        _ = flock(descriptor.number, LOCK_UN)
    }

    private static func directory(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/"), slash > path.startIndex else { return path }
        return String(path[..<slash])
    }

    private static func owner(in file: Int32) -> String {
        guard let pid = ownerPID(in: file) else { return "another process" }
        return pid == getpid() ? "this process (\(pid))" : "process \(pid)"
    }

    private static func ownerPID(in file: Int32) -> pid_t? {
        var text = [UInt8](repeating: 0, count: 32)
        let count = pread(file, &text, text.count, 0)
        let digits = text.prefix(max(0, count)).prefix { $0 >= 0x30 && $0 <= 0x39 }
        return pid_t(String(decoding: digits, as: UTF8.self))
    }

    /// Whether a process has been killed and is not yet gone: its first thread has ended, or has SIGKILL pending.
    private static func isEnding(_ process: pid_t?) -> Bool {
        guard let process, let file = fopen("/proc/\(process)/status", "r") else { return false }
        defer { fclose(file) }
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = fread(&buffer, 1, buffer.count, file)
        for line in String(decoding: buffer.prefix(count), as: UTF8.self).split(separator: "\n") {
            let words = line.split { $0 == "\t" || $0 == " " }
            guard words.count > 1 else { continue }
            switch words[0] {
            case "State:": if words[1] == "Z" || words[1] == "X" { return true }
            case "SigPnd:", "ShdPnd:":
                if let pending = UInt64(words[1], radix: 16), pending & 1 << UInt64(SIGKILL - 1) != 0 { return true }
            default: break
            }
        }
        return false
    }
}

/// The lock of a store as something that can be passed to another process, so that it stays locked when its owner
/// dies and another one takes over. Thread-safe.
///
/// The lock lasts until every process that has the descriptor has closed it.
public final class SharedStoreLock: Sendable {
    private let number: Atomic<Int32>

    /// `descriptor`: through which the lock is held already; owned by the store that is opened with it.
    public init(descriptor: Int32? = nil) { number = Atomic(descriptor ?? -1) }

    /// Through which the lock is held: for passing on, as long as the store is open.
    public var descriptor: Int32? {
        let value = number.load(ordering: .acquiring)
        return value >= 0 ? value : nil
    }

    fileprivate func set(_ descriptor: Int32) { number.store(descriptor, ordering: .releasing) }
}
