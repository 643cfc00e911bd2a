/// Everything that can go wrong in the engine, with the context a person needs to act on it.
///
/// `description` is one sentence for a user; `posixCode` is what a file system answers.
public enum EngineError: Error, Equatable, Sendable, CustomStringConvertible {
    /// A system call failed.
    case io(operation: String, path: String, code: Int32)
    /// Bytes on disk or in shared memory are not what they must be.
    case corruption(file: String, offset: UInt64, expected: String, found: String)
    /// A caller's argument or option is outside what is documented.
    case invalidArgument(String)
    /// The store is owned by another process.
    case storeInUse(path: String, owner: String)
    /// There is no store at this path, and the caller did not ask for one to be created.
    case storeNotFound(path: String)
    /// The store or region was written by an unknown version of the format.
    case unsupportedFormat(file: String, found: UInt32, supported: UInt32)
    /// Shared memory cannot hold what was asked for.
    case memoryUnavailable(wantedBytes: UInt64, availableBytes: UInt64)
    /// The store refuses writes after an error that a retry cannot mend; the text says which.
    case readOnly(reason: String)
    /// The database was closed while, or before, the call was made.
    case closed

    /// The nearest errno, for callers that must answer with one.
    public var posixCode: Int32 {
        switch self {
        case .io(_, _, let code): return code == 0 ? 5 : code
        case .corruption, .unsupportedFormat: return 5  // EIO
        case .invalidArgument: return 22  // EINVAL
        case .storeInUse: return 16  // EBUSY
        case .storeNotFound: return 2  // ENOENT
        case .memoryUnavailable: return 12  // ENOMEM
        case .readOnly: return 30  // EROFS
        case .closed: return 5  // EIO
        }
    }

    /// Whether the file system is full, or a quota is: a state that ends when space is freed.
    public var isOutOfSpace: Bool {
        if case .io(_, _, let code) = self { return code == 28 || code == 122 }  // ENOSPC, EDQUOT
        return false
    }

    public var description: String {
        switch self {
        case .io(let operation, let path, let code):
            return "cannot \(operation) \(path): \(posixMessage(code))"
        case .corruption(let file, let offset, let expected, let found):
            return "\(file) is corrupt at offset \(offset): expected \(expected), found \(found)"
        case .invalidArgument(let text): return text
        case .storeInUse(let path, let owner): return "the store \(path) is in use by \(owner)"
        case .storeNotFound(let path): return "there is no O3FS store at \(path)"
        case .unsupportedFormat(let file, let found, let supported):
            return "\(file) has format version \(found); this build reads version \(supported)"
        case .memoryUnavailable(let wanted, let available):
            return "disaggregated memory of \(wanted) bytes was asked for, but shared memory has room for \(available)"
        case .readOnly(let reason): return "the store is read-only: \(reason)"
        case .closed: return "the database is closed"
        }
    }
}
