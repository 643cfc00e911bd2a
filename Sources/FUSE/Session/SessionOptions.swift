import Glibc

/// How a file system is mounted and served.
public struct SessionOptions: Sendable {
    /// What follows `-o` of mount(8): "ro", "allow_other", "fsname=…", … Commas and backslashes inside an
    /// option are escaped with a backslash.
    public var mountOptions: [String] = []
    /// Threads that serve requests, 1 … 64; no more of them are awake than the load needs.
    public var threads = SessionOptions.defaultThreads
    /// Largest write (and read) request in bytes, a multiple of 4096 up to 1 MiB: what libfuse 3.14 and the
    /// kernel's default limit allow.
    public var maximumWriteBytes = 1 << 20
    /// Read-ahead and asynchronous requests the kernel keeps going at once.
    public var maximumBackground = 64
    /// The kernel collects writes in its cache and sends them later.
    public var writebackCache = false
    /// How far the kernel reads ahead of a sequential reader, in KiB. Needs root; best effort.
    public var readAheadKiB = 4096
    /// The kernel enforces access control lists, which it keeps as extended attributes; the file system applies
    /// umasks and default lists to new files, and keeps lists and permission bits in step.
    public var accessControlLists = false
    /// The file system drops set-user-ID bits where `clearsPrivileges` says so and when a file's owner
    /// changes. Saves one message before the first write to each file, and before each without it.
    public var clearsPrivilegesWhenTold = false

    /// The kernel keeps the targets of symbolic links.
    public var cachesSymbolicLinks = true

    /// Prepare the session for being gone on with by another process when this one dies (`Session.held`), where
    /// the kernel can do that.
    public var outlivesProcess = false
    /// Behave as if the kernel could not send requests again, as Linux before 6.9 cannot. For tests.
    package var ignoresResend = false

    public init() {}

    var workerCount: Int { max(1, min(threads, 64)) }

    /// Two for each processor, so that one can wait for storage while another answers; 4 … 16.
    public static var defaultThreads: Int { min(max(2 * sysconf(Int32(_SC_NPROCESSORS_ONLN)), 4), 16) }
}

/// Why a mount failed, in one sentence.
public enum SessionError: Error, Equatable, Sendable, CustomStringConvertible {
    case system(String, Errno)
    case message(String)

    public var description: String {
        switch self {
        case .system(let text, let code): return "\(text): \(code)"
        case .message(let text): return text
        }
    }
}
