import Glibc

/// Reads a file at offsets. Thread-safe: it holds nothing but an open descriptor.
final class POSIXReadableFile: ReadableFile {
    let path: String
    /// Bytes of the file when it was opened; table files do not change afterwards.
    let size: UInt64
    private let descriptor: DescriptorHandle

    init(path: String) throws(EngineError) {
        let opened = try DescriptorHandle(path: path, flags: O_RDONLY)
        let status = try opened.status(path: path)
        self.path = path
        size = UInt64(max(0, status.st_size))
        descriptor = opened
    }

    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(EngineError) -> Int {
        guard let base = buffer.baseAddress, buffer.count > 0 else { return 0 }
        guard offset <= UInt64(Int64.max) - UInt64(buffer.count) else {
            throw .io(operation: "read", path: path, code: EINVAL)
        }
        let file = descriptor.number
        var done = 0
        while done < buffer.count {
            let result = retryingInterrupts {
                pread(file, base + done, buffer.count - done, off_t(offset) + off_t(done))
            }
            guard result >= 0 else { throw .io(operation: "read", path: path, code: errno) }
            if result == 0 { break }
            done += result
        }
        return done
    }

    func prefetch(at offset: UInt64, length: Int) {
        guard offset < size, length > 0 else { return }
        _ = posix_fadvise(descriptor.number, off_t(offset), off_t(length), POSIX_FADV_WILLNEED)
    }

    func forgetCached() { _ = posix_fadvise(descriptor.number, 0, 0, POSIX_FADV_DONTNEED) }
}
