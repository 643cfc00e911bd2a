import Glibc

/// All file access of the engine. One small protocol, so that tests can inject faults and other
/// stores can stand behind it. Paths are absolute or relative to the process, as in open(2).
///
/// Implementations are thread-safe; the files they return are confined to one thread at a time unless
/// their protocol says otherwise.
public protocol Storage: AnyObject, Sendable {
    /// Creates the file, or truncates an existing one, open for appending.
    func create(_ path: String) throws(EngineError) -> any WritableFile
    /// Opens an existing file for overwriting from its start without truncating it (a recycled log).
    func reuse(_ path: String) throws(EngineError) -> any WritableFile
    func openForReading(_ path: String) throws(EngineError) -> any ReadableFile
    /// Atomically replaces `destination`.
    func rename(_ source: String, to destination: String) throws(EngineError)
    /// Gives each of two directories the other's name, in one step.
    func exchange(_ path: String, with other: String) throws(EngineError)
    func delete(_ path: String) throws(EngineError)
    /// Gives a file, which will never change again, a second name; on storage but for the name when it returns.
    func link(_ path: String, to second: String) throws(EngineError)
    /// Removes an empty directory.
    func removeDirectory(_ path: String) throws(EngineError)
    /// Names (not paths) of the entries of a directory, without "." and "..".
    func list(_ directory: String) throws(EngineError) -> [String]
    func createDirectory(_ path: String) throws(EngineError)
    /// As `createDirectory`; what is there already is an error.
    func createNewDirectory(_ path: String) throws(EngineError)
    /// Throws for what is no directory of the user's: before it is trusted, renamed or deleted.
    func checkOwn(_ directory: String) throws(EngineError)
    /// Deletes a directory and all that is in it. Links are deleted, not followed; one in the directory's own place is
    /// an error.
    func removeTree(_ directory: String) throws(EngineError)
    /// Makes creations, renames and deletions in the directory survive power loss.
    func syncDirectory(_ path: String) throws(EngineError)
    func exists(_ path: String) -> Bool
    /// What two names of one file have in common, and no other file has while this one is there.
    func fileIdentity(_ path: String) throws(EngineError) -> FileIdentity
    func fileSize(_ path: String) throws(EngineError) -> UInt64
    /// Takes the advisory lock of a store; released when the result is released, or its process dies.
    func lock(_ path: String) throws(EngineError) -> any FileLock
    /// Bytes a non-privileged writer can still store on the file system that holds `path`, and its size.
    func space(_ path: String) throws(EngineError) -> (free: UInt64, total: UInt64)
}

/// Which file it is, whatever its names.
public enum FileIdentity: Hashable, Sendable {
    case inode(UInt64, device: UInt64)
    /// Of storage without second names.
    case path(String)
}

extension Storage {
    /// For storage without second names.
    public func fileIdentity(_ path: String) throws(EngineError) -> FileIdentity { .path(path) }

    /// For storage that cannot.
    public func exchange(_ path: String, with other: String) throws(EngineError) {
        throw .io(operation: "exchange", path: "\(path) and \(other)", code: ENOSYS)
    }

    /// For storage without second names.
    public func link(_ path: String, to second: String) throws(EngineError) { try copy(path, to: second) }

    /// Copies a file; the copy is on storage, but for its name, when it returns.
    func copy(_ path: String, to second: String) throws(EngineError) {
        let source = try openForReading(path)
        let copy = try create(second)
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        while copy.size < source.size {
            let offset = copy.size
            let outcome = bytes.withUnsafeMutableBytes { buffer -> Result<Int, EngineError> in
                do throws(EngineError) { return .success(try source.read(at: offset, into: buffer)) } catch {
                    return .failure(error)
                }
            }
            let count = try outcome.get()
            guard count > 0 else {
                throw .corruption(
                    file: path, offset: offset, expected: "\(source.size) bytes", found: "the end of the file")
            }
            try bytes.withEngineBytes { bytes throws(EngineError) in
                try copy.append(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
            }
        }
        try copy.sync()
        try copy.close()
    }

    public func removeDirectory(_ path: String) throws(EngineError) {
        guard rmdir(path) == 0 else { throw .io(operation: "delete", path: path, code: errno) }
    }

    public func createNewDirectory(_ path: String) throws(EngineError) {
        guard !exists(path) else { throw .io(operation: "create the directory", path: path, code: EEXIST) }
        try createDirectory(path)
    }

    /// For storage with one user.
    public func checkOwn(_ directory: String) throws(EngineError) {}

    public func removeTree(_ directory: String) throws(EngineError) {
        for name in try list(directory) {
            let path = directory + "/" + name
            do throws(EngineError) { try delete(path) } catch {
                guard error.posixCode == EISDIR else { throw error }
                try removeTree(path)
            }
        }
        try removeDirectory(directory)
    }
}

/// A file that is written from front to back. Not thread-safe.
public protocol WritableFile: AnyObject {
    var path: String { get }
    /// Bytes appended so far (from the start of the file, also for a reused one).
    var size: UInt64 { get }
    func append(_ bytes: UnsafeRawBufferPointer) throws(EngineError)
    /// Hands buffered bytes to the operating system.
    func flush() throws(EngineError)
    /// flush, then fdatasync.
    func sync() throws(EngineError)
    /// flush, then close; a file that is dropped without it is closed too, but errors go unheard.
    func close() throws(EngineError)
}

/// A file that is read at offsets. Thread-safe.
public protocol ReadableFile: AnyObject, Sendable {
    var path: String { get }
    var size: UInt64 { get }
    /// Fills `buffer` from `offset`; returns fewer bytes only at the end of the file.
    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(EngineError) -> Int
    /// A hint that the range is wanted soon.
    func prefetch(at offset: UInt64, length: Int)
    /// A hint that what the system remembers of the file is not to answer the reads that follow.
    func forgetCached()
}

extension ReadableFile {
    public func forgetCached() {}
}

/// A held lock; releasing the object releases the lock.
public protocol FileLock: AnyObject, Sendable {}
