import Glibc

/// An open file descriptor that is closed exactly once: by `close()`, or when the value dies.
struct DescriptorHandle: ~Copyable {
    let number: Int32

    /// Opens a directory (with `O_DIRECTORY`), or a file: who can put a symbolic link, a pipe or
    /// a socket in the place of a store's file must not lead the engine elsewhere, or make it wait.
    ///
    /// `O_CLOEXEC` is added. Throws `.io` named after `operation`.
    init(path: String, flags: Int32, mode: mode_t = 0o600, operation: String = "open") throws(EngineError) {
        let isDirectory = flags & O_DIRECTORY != 0
        let added = isDirectory ? O_CLOEXEC : O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK
        let descriptor = retryingInterrupts { Glibc.open(path, flags | added, mode) }
        guard descriptor >= 0 else { throw .io(operation: operation, path: path, code: errno) }
        var status = stat()
        if !isDirectory, fstat(descriptor, &status) != 0 || ![S_IFREG, S_IFCHR].contains(status.st_mode & S_IFMT) {
            _ = Glibc.close(descriptor)
            throw .corruption(file: path, offset: 0, expected: "a regular file", found: "another kind of file")
        }
        number = descriptor
    }

    init(owning descriptor: Int32) { number = descriptor }

    deinit { _ = Glibc.close(number) }

    /// Closes and answers 0 or the errno. Linux frees the descriptor even when it reports an error.
    consuming func close() -> Int32 {
        let descriptor = number
        discard self
        return Glibc.close(descriptor) == 0 ? 0 : errno
    }

    /// What fstat says; throws `.io`.
    borrowing func status(path: String) throws(EngineError) -> stat {
        var status = stat()
        guard fstat(number, &status) == 0 else { throw .io(operation: "stat", path: path, code: errno) }
        return status
    }
}

/// Repeats a system call for as long as a signal interrupts it. The call answers a negative number
/// and sets errno when it fails.
@inline(__always)
func retryingInterrupts<Result: SignedInteger>(_ call: () -> Result) -> Result {
    while true {
        let result = call()
        if result >= 0 || errno != EINTR { return result }
    }
}
