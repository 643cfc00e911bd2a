import CSystem
import Glibc

/// Appends to a file through a buffer. Not thread-safe.
///
/// Small appends gather in the buffer; those that would fill it alone go straight to the system.
/// Every write names its offset, so an append that throws has added nothing: `size` is what it was,
/// and the next append overwrites what may have reached the file (a full disk can be waited out).
/// An error of `sync` is final: the kernel may have dropped the pages that it could not write, so
/// every later call throws the same error.
final class POSIXWritableFile: WritableFile {
    let path: String
    private var descriptor: DescriptorHandle?
    private let buffer: UnsafeMutableRawPointer
    private var buffered = 0
    /// Bytes handed to the system; the buffer follows them.
    private var written: UInt64 = 0
    /// Bytes whose write-back has been started.
    private var writeBackStarted: UInt64 = 0
    private var syncFailure: EngineError?

    private static let bufferBytes = 256 << 10
    /// Write-back is begun each time this much has been written, so that the sync at the end of a
    /// large file finds little left to do.
    private static let writeBackBytes: UInt64 = 1 << 20

    init(path: String, descriptor: consuming DescriptorHandle) {
        self.path = path
        self.descriptor = consume descriptor
        buffer = .allocate(byteCount: Self.bufferBytes, alignment: 4096)
    }

    deinit { buffer.deallocate() }

    var size: UInt64 { written + UInt64(buffered) }

    func append(_ bytes: UnsafeRawBufferPointer) throws(EngineError) {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return }
        if let syncFailure { throw syncFailure }
        if buffered + bytes.count > Self.bufferBytes {
            try flush()
            if bytes.count >= Self.bufferBytes {
                let failure = write(base, bytes.count).failure
                if let failure { throw failure }
                written += UInt64(bytes.count)
                startWriteBack()
                return
            }
        }
        memcpy(buffer + buffered, base, bytes.count)
        buffered += bytes.count
    }

    func flush() throws(EngineError) {
        if let syncFailure { throw syncFailure }
        guard buffered > 0 else {
            try checkOpen()
            return
        }
        let (done, failure) = write(buffer, buffered)
        if done > 0, done < buffered { memmove(buffer, buffer + done, buffered - done) }
        buffered -= done
        written += UInt64(done)
        if let failure { throw failure }
        startWriteBack()
    }

    func sync() throws(EngineError) {
        try flush()
        let file = descriptor?.number ?? -1
        guard retryingInterrupts({ fdatasync(file) }) == 0 else {
            let failure = EngineError.io(operation: "sync", path: path, code: errno)
            syncFailure = failure
            throw failure
        }
        writeBackStarted = written
    }

    func close() throws(EngineError) {
        try flush()
        guard let open = descriptor.take() else { return }
        let code = open.close()
        if code != 0 { throw .io(operation: "close", path: path, code: code) }
    }

    private func checkOpen() throws(EngineError) {
        if descriptor == nil { throw .io(operation: "write", path: path, code: EBADF) }
    }

    /// Writes at `written` without moving it. Answers how many bytes the system took, and why not all.
    private func write(_ base: UnsafeRawPointer, _ count: Int) -> (done: Int, failure: EngineError?) {
        let file = descriptor?.number ?? -1
        var done = 0
        while done < count {
            let offset = off_t(truncatingIfNeeded: written) + off_t(done)
            let result = retryingInterrupts { pwrite(file, base + done, count - done, offset) }
            guard result > 0 else {
                let code = result == 0 ? ENOSPC : errno
                return (done, .io(operation: "write", path: path, code: code))
            }
            done += result
        }
        return (done, nil)
    }

    private func startWriteBack() {
        guard written - writeBackStarted >= Self.writeBackBytes, let file = descriptor?.number else { return }
        // A hint: what fails here is reported by the sync.
        _ = o3_sync_file_range(file, Int64(writeBackStarted), Int64(written - writeBackStarted))
        writeBackStarted = written
    }
}
