import CSystem
import Glibc

/// Mounts of this process's view of the tree: what is mounted where, and how to remove it.
public enum MountTable {
    /// One line of /proc/self/mountinfo.
    public struct Entry: Equatable, Sendable {
        public let mountPoint: String
        /// The file system's type, such as "fuse.o3fs".
        public let type: String
        /// What is mounted: for FUSE, the `fsname` option.
        public let source: String
        /// As stat(2) gives it.
        public let device: UInt64
    }

    /// All mounts, oldest first: at one mount point the last is the one that is seen.
    public static func entries() -> [Entry] {
        guard let text = contents("/proc/self/mountinfo") else { return [] }
        return text.split(separator: "\n").compactMap(parse)
    }

    /// The mount that is seen at exactly `path` (absolute, no symbolic links).
    public static func entry(at path: String) -> Entry? { entries().last { $0.mountPoint == path } }

    /// Unmounts; nil, or why not. Without root by means of fusermount3(1). Refuses a busy mount (EBUSY).
    ///
    /// By another process: it waits until what programs have written is written back, also when this process serves the
    /// mount and is killed meanwhile.
    public static func unmount(_ path: String) -> Errno? {
        let result = o3_umount_in_child(path, umountNoFollow)
        if result == 0 { return nil }
        let error = Errno(abs(result))
        guard error.code == EPERM, geteuid() != 0 else { return error }
        return run("fusermount3", ["-u", "-q", "--", path]) ? nil : Errno(EBUSY)
    }

    /// Takes a mount out of the tree whether it is busy or not, and cuts its connection where root may.
    @discardableResult
    public static func detach(_ path: String) -> Errno? {
        if umount2(path, umountForce | umountDetach | umountNoFollow) == 0 { return nil }
        let error = Errno.current
        guard error.code == EPERM, geteuid() != 0 else { return error }
        return run("fusermount3", ["-u", "-q", "-z", "--", path]) ? nil : error
    }

    // MNT_FORCE, MNT_DETACH and UMOUNT_NOFOLLOW of umount2(2), whose names Swift imports as an enumeration.
    private static let umountForce: Int32 = 1
    private static let umountDetach: Int32 = 2
    private static let umountNoFollow: Int32 = 8

    /// "36 35 0:45 / /mnt rw,… shared:1 - fuse.o3fs store rw,…"
    private static func parse(_ line: Substring) -> Entry? {
        let fields = line.split(separator: " ")
        guard fields.count > 6, let dash = fields.firstIndex(of: "-"), dash + 2 < fields.count else { return nil }
        let numbers = fields[2].split(separator: ":")
        guard numbers.count == 2, let major = UInt64(numbers[0]), let minor = UInt64(numbers[1]) else { return nil }
        let device =
            (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & ~0xff) << 12) | ((major & ~0xfff) << 32)
        return Entry(
            mountPoint: unescape(fields[4]), type: String(fields[dash + 1]), source: unescape(fields[dash + 2]),
            device: device)
    }

    /// Undoes the octal escapes of spaces, tabs, line ends and backslashes.
    private static func unescape(_ field: Substring) -> String {
        guard field.contains("\\") else { return String(field) }
        var bytes: [UInt8] = []
        var rest = Array(field.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.count >= 3,
                let value = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8)
            {
                bytes.append(value)
                rest.removeFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func contents(_ path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 16384)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            guard count > 0 else { break }
            bytes += buffer[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Runs a program found in PATH and waits; whether it succeeded.
    private static func run(_ program: String, _ arguments: [String]) -> Bool {
        var list = ([program] + arguments).map { strdup($0) } as [UnsafeMutablePointer<CChar>?]
        list.append(nil)
        defer { for argument in list { free(argument) } }
        var pid = pid_t()
        guard posix_spawnp(&pid, program, nil, nil, list, Glibc.environ) == 0 else { return false }
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0 { guard errno == EINTR else { return false } }
        return status == 0
    }
}
