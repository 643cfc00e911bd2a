import Glibc
import O3LSM

/// Why an operation of the file system failed: always an errno, and for what a person must look
/// into, the words as well. Expected outcomes (no such file) allocate nothing.
public enum FileSystemError: Error, Equatable, Sendable, CustomStringConvertible {
    /// An outcome POSIX has a number for.
    case posix(Int32)
    /// A row of the store does not decode, or contradicts another: EIO. `row` is its readable key.
    case corruptRow(row: String, problem: String)
    /// The engine failed.
    case engine(EngineError)

    /// What a system call answers.
    public var posixCode: Int32 {
        switch self {
        case .posix(let code): return code
        case .corruptRow: return EIO
        case .engine(let error): return error.posixCode
        }
    }

    public var description: String {
        switch self {
        case .posix(let code):
            guard let text = strerror(code) else { return "error \(code)" }
            return String(cString: text)
        case .corruptRow(let row, let problem): return "\(row) is corrupt: \(problem)"
        case .engine(let error): return error.description
        }
    }

    /// As `description`, but without names of files and attributes: logs are sent around. The numbers of inodes tell
    /// who has the store which files they are (`o3fs kv`).
    public var descriptionForLog: String {
        guard case .corruptRow(let row, let problem) = self else { return description }
        return FileSystemError.corruptRow(row: KeyDescription.withoutName(row), problem: problem).description
    }

    static let notFound = FileSystemError.posix(ENOENT)
    static let notDirectory = FileSystemError.posix(ENOTDIR)
    static let isDirectory = FileSystemError.posix(EISDIR)
    static let exists = FileSystemError.posix(EEXIST)
    static let invalid = FileSystemError.posix(EINVAL)
}
