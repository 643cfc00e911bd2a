import CSystem
import Glibc

/// The engine's files as files of the operating system. Thread-safe; holds no state.
///
/// Files are created with mode 0600 and directories with 0700: a store belongs to its owner.
public final class POSIXStorage: Storage {
    private let storeLock: SharedStoreLock?

    /// `storeLock`: shares the lock of the store that is opened with this storage.
    public init(storeLock: SharedStoreLock? = nil) { self.storeLock = storeLock }

    public func create(_ path: String) throws(EngineError) -> any WritableFile {
        let opened = try DescriptorHandle(path: path, flags: O_WRONLY | O_CREAT | O_TRUNC, operation: "create")
        return POSIXWritableFile(path: path, descriptor: opened)
    }

    public func reuse(_ path: String) throws(EngineError) -> any WritableFile {
        let opened = try DescriptorHandle(path: path, flags: O_WRONLY)
        return POSIXWritableFile(path: path, descriptor: opened)
    }

    public func openForReading(_ path: String) throws(EngineError) -> any ReadableFile {
        try POSIXReadableFile(path: path)
    }

    public func rename(_ source: String, to destination: String) throws(EngineError) {
        guard Glibc.rename(source, destination) == 0 else {
            throw .io(operation: "rename", path: "\(source) to \(destination)", code: errno)
        }
    }

    public func exchange(_ path: String, with other: String) throws(EngineError) {
        let code = o3_renameat2(path, other, o3_RENAME_EXCHANGE)
        guard code == 0 else { throw .io(operation: "exchange", path: "\(path) and \(other)", code: -code) }
    }

    public func delete(_ path: String) throws(EngineError) {
        guard unlink(path) == 0 else { throw .io(operation: "delete", path: path, code: errno) }
    }

    /// A hard link; where the file system has none, a copy.
    public func link(_ path: String, to second: String) throws(EngineError) {
        guard Glibc.link(path, second) != 0 else { return }
        switch errno {
        case EPERM, EOPNOTSUPP, ENOSYS, EMLINK, EXDEV: try copy(path, to: second)
        case let code: throw .io(operation: "link", path: "\(path) to \(second)", code: code)
        }
    }

    public func list(_ directory: String) throws(EngineError) -> [String] {
        guard let stream = opendir(directory) else { throw .io(operation: "list", path: directory, code: errno) }
        defer { closedir(stream) }
        return try OwnDirectory.names(stream, directory)
    }

    /// A directory of the user's that is there already is no error; a link to one is.
    public func createDirectory(_ path: String) throws(EngineError) {
        guard mkdir(path, 0o700) != 0 else { return }
        let code = errno
        guard code == EEXIST else { throw .io(operation: "create the directory", path: path, code: code) }
        try OwnDirectory.check(path)
    }

    public func createNewDirectory(_ path: String) throws(EngineError) {
        guard mkdir(path, 0o700) == 0 else { throw .io(operation: "create the directory", path: path, code: errno) }
    }

    public func checkOwn(_ directory: String) throws(EngineError) { try OwnDirectory.check(directory) }

    public func removeTree(_ directory: String) throws(EngineError) { try OwnDirectory.remove(directory) }

    public func syncDirectory(_ path: String) throws(EngineError) {
        let opened = try DescriptorHandle(path: path, flags: O_RDONLY | O_DIRECTORY)
        let file = opened.number
        guard retryingInterrupts({ fsync(file) }) == 0 else {
            throw .io(operation: "sync the directory", path: path, code: errno)
        }
    }

    public func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    public func fileIdentity(_ path: String) throws(EngineError) -> FileIdentity {
        var status = stat()
        guard stat(path, &status) == 0 else { throw .io(operation: "stat", path: path, code: errno) }
        return .inode(UInt64(status.st_ino), device: UInt64(status.st_dev))
    }

    public func fileSize(_ path: String) throws(EngineError) -> UInt64 {
        var status = stat()
        guard stat(path, &status) == 0 else { throw .io(operation: "stat", path: path, code: errno) }
        return UInt64(max(0, status.st_size))
    }

    /// Refuses a store in a directory that others than the user and root can change.
    public func lock(_ path: String) throws(EngineError) -> any FileLock {
        var status = stat()
        let directory = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        if !directory.isEmpty, stat(directory, &status) == 0 {
            let user = geteuid()
            if status.st_mode & S_IWOTH != 0 {
                throw .invalidArgument(
                    "everybody may write to \(directory), so that nothing in it can be trusted; take that away (chmod o-w)")
            }
            guard OwnDirectory.mayHoldStore(owner: status.st_uid, user: user) else {
                throw .invalidArgument(
                    "\(directory) belongs to user \(status.st_uid), so that nothing in it can be trusted; only its owner and "
                        + "root may use the store")
            }
            if status.st_mode & S_IWGRP != 0, !PrivateGroup.contains(only: status.st_uid, group: status.st_gid) {
                throw .invalidArgument(
                    "the members of group \(status.st_gid) may write to \(directory), so that nothing in it can be trusted; "
                        + "take that away (chmod g-w)")
            }
        }
        return try POSIXFileLock(path: path, shared: storeLock)
    }

    public func space(_ path: String) throws(EngineError) -> (free: UInt64, total: UInt64) {
        var status = statvfs()
        guard statvfs(path, &status) == 0 else {
            throw .io(operation: "measure the space of", path: path, code: errno)
        }
        let unit = UInt64(status.f_frsize)
        return (free: UInt64(status.f_bavail) * unit, total: UInt64(status.f_blocks) * unit)
    }
}
