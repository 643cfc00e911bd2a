import Glibc

/// What a request that fails is answered with: an error number of errno(3), positive.
public struct Errno: Error, Hashable, Sendable, CustomStringConvertible {
    public let code: Int32

    public init(_ code: Int32) { self.code = code }

    /// The calling thread's `errno`, as the last failed system call left it.
    static var current: Errno { Errno(errno) }

    public var description: String {
        guard let text = strerror(code) else { return "error \(code)" }
        return String(cString: text)
    }

    public static let notPermitted = Errno(EPERM)
    public static let notFound = Errno(ENOENT)
    public static let io = Errno(EIO)
    public static let exists = Errno(EEXIST)
    public static let notDirectory = Errno(ENOTDIR)
    public static let isDirectory = Errno(EISDIR)
    public static let invalid = Errno(EINVAL)
    public static let outOfRange = Errno(ERANGE)
    public static let notEmpty = Errno(ENOTEMPTY)
    public static let noData = Errno(ENODATA)
    /// The operation does not exist. For several operations the kernel then stops asking (see
    /// `FileSystemOperations`).
    public static let notImplemented = Errno(ENOSYS)
    public static let notSupported = Errno(EOPNOTSUPP)
}
