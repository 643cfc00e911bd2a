import CFUSE3
import Glibc

/// Where a thread finds its worker.
private let workerKey: pthread_key_t = {
    var key = pthread_key_t()
    pthread_key_create(&key, nil)
    return key
}()

/// A thread that takes requests from its channel, lets libfuse decode each, and runs the file system's
/// answer to it. Everything here belongs to that one thread.
final class Worker {
    let options: SessionOptions
    let operations: any FileSystemOperations
    let channel: any Channel
    let readReply = ReadReply()
    let directoryReply = DirectoryReply()

    /// From the message in hand, because libfuse 3.14 does not pass them on.
    private(set) var clearsPrivileges = false
    /// The protocol's first request was answered.
    private(set) var isInitialized = false
    private var opcode: UInt32 = 0
    private var offeredFlags: UInt32 = 0
    private var unique: UInt64 = 0
    private var isResent = false
    /// Keeps the reads of `touch` from being left out.
    private var touched: UInt8 = 0
    /// Number of the thread among those of its session.
    private let index: Int
    private let resends: ResendWatch?
    private let counters: RequestCounters
    /// libfuse's session, which the caller keeps alive.
    private let handle: OpaquePointer

    private let memory: UnsafeMutableRawBufferPointer
    /// Where requests are read to: placed so that the data of a write lies page-aligned, which lets the
    /// kernel copy whole pages.
    private let buffer: UnsafeMutableRawBufferPointer

    private static let pageBytes = 4096
    private static let headerBytes = MemoryLayout<fuse_in_header>.size
    private static let writeHeaderBytes = headerBytes + MemoryLayout<fuse_write_in>.size

    init(
        handle: OpaquePointer, operations: any FileSystemOperations, options: SessionOptions, channel: any Channel,
        index: Int = 0, counters: RequestCounters = RequestCounters(), resends: ResendWatch? = nil
    ) {
        self.index = index
        self.resends = resends
        self.counters = counters
        self.handle = handle
        self.options = options
        self.operations = operations
        self.channel = channel
        let capacity = options.maximumWriteBytes + 2 * Self.pageBytes
        memory = .allocate(byteCount: capacity, alignment: Self.pageBytes)
        // Present and kept so: a kill while the kernel waits for a page of it fails the request that it copies.
        memory.initializeMemory(as: UInt8.self, repeating: 0)
        if options.outlivesProcess, let base = memory.baseAddress { mlock(base, capacity) }
        buffer = UnsafeMutableRawBufferPointer(rebasing: memory[(Self.pageBytes - Self.writeHeaderBytes)...])
    }

    deinit { memory.deallocate() }

    /// The worker of the calling thread. libfuse calls operations only on threads that run one.
    static var current: Worker {
        // Not nil: `attach` came first on this thread, or libfuse would have no request to hand over.
        Unmanaged<Worker>.fromOpaque(pthread_getspecific(workerKey)!).takeUnretainedValue()
    }

    /// Makes this the calling thread's worker; the caller keeps it alive until `detach`.
    func attach() { pthread_setspecific(workerKey, Unmanaged.passUnretained(self).toOpaque()) }

    func detach() { pthread_setspecific(workerKey, nil) }

    /// Waits for one request and answers it, counted by `gate`.
    func serveOne(_ gate: ReaderGate? = nil) -> Received {
        let received = channel.receive(into: buffer)
        if case .request(let count) = received {
            gate?.begin()
            process(count)
            gate?.end()
        }
        return received
    }

    func context(of request: fuse_req_t) -> RequestContext {
        guard let context = fuse_req_ctx(request)?.pointee else { return self.context(uid: 0, gid: 0, pid: 0) }
        return self.context(uid: context.uid, gid: context.gid, pid: context.pid, umask: UInt32(context.umask))
    }

    /// Who asks for the request in hand.
    func context(uid: UInt32, gid: UInt32, pid: Int32, umask: UInt32 = 0) -> RequestContext {
        RequestContext(
            uid: uid, gid: gid, pid: pid, umask: umask, unique: unique, thread: index, isResent: isResent)
    }

    /// libfuse's way out for every answer (`fuse_custom_io.writev`).
    func send(_ pieces: UnsafeMutablePointer<iovec>, _ count: Int32) -> Int {
        if opcode == FUSE_INIT.rawValue { amendInitialization(pieces, count) }
        if pieces[0].iov_len >= MemoryLayout<fuse_out_header>.size, let header = pieces[0].iov_base {
            let error = header.loadUnaligned(fromByteOffset: 4, as: Int32.self)
            if error != 0 { counters.addError(opcode) }
        }
        if options.outlivesProcess { touch(pieces, count) }
        return channel.send(pieces, count)
    }

    /// Reads a byte of every page of an answer, so that they are present: were the process killed while the kernel
    /// waits for one of them, the caller would get EIO for a request that cannot be sent again.
    private func touch(_ pieces: UnsafeMutablePointer<iovec>, _ count: Int32) {
        var sum: UInt8 = 0
        for piece in UnsafeBufferPointer(start: pieces, count: Int(count)) {
            guard let base = piece.iov_base, piece.iov_len > 0 else { continue }
            var offset = 0
            while offset < piece.iov_len {
                sum &+= base.load(fromByteOffset: offset, as: UInt8.self)
                offset += Self.pageBytes
            }
            sum &+= base.load(fromByteOffset: piece.iov_len - 1, as: UInt8.self)
        }
        touched = sum
    }

    private func process(_ count: Int) {
        guard count >= Self.headerBytes else { return }
        opcode = buffer.load(fromByteOffset: 4, as: UInt32.self)
        unique = buffer.load(fromByteOffset: 8, as: UInt64.self)
        isResent = unique & Resend.uniqueBit != 0
        unique &= ~Resend.uniqueBit
        resends?.begin(isResent: isResent, opcode)
        readFlags(count)
        counters.operation = opcode
        let start = monotonicNanoseconds()
        let whole = UnsafeRawBufferPointer(rebasing: buffer[..<count])
        if !MessageShape.isWhole(opcode, whole) {
            if MessageShape.isAnswered(opcode) { refuse(whole) }
        } else if !serveNewer(opcode, whole) {
            var message = fuse_buf()
            message.size = count
            message.mem = buffer.baseAddress
            message.fd = -1
            fuse_session_process_buf(handle, &message)
        }
        counters.add(opcode, nanoseconds: monotonicNanoseconds() - start)
        counters.operation = 0
        resends?.end(isResent: isResent)
    }

    /// Notes what libfuse drops: who must lose set-user-ID bits, and what the kernel offers at the start.
    private func readFlags(_ count: Int) {
        clearsPrivileges = false
        switch fuse_opcode(opcode) {
        case FUSE_SETATTR where count >= Self.headerBytes + 4:
            let valid = buffer.load(fromByteOffset: Self.headerBytes, as: UInt32.self)
            clearsPrivileges = valid & UInt32(FATTR_KILL_SUIDGID) != 0
        case FUSE_WRITE where count >= Self.writeHeaderBytes:
            let flags = buffer.load(fromByteOffset: Self.headerBytes + 20, as: UInt32.self)
            clearsPrivileges = flags & UInt32(FUSE_WRITE_KILL_SUIDGID) != 0
        case FUSE_INIT where count >= Self.headerBytes + 16:
            offeredFlags = buffer.load(fromByteOffset: Self.headerBytes + 12, as: UInt32.self)
        default: break
        }
    }

    /// Adds to the answer of INIT the flag that libfuse 3.14 has no name for.
    ///
    /// FUSE_HANDLE_KILLPRIV_V2: the file system drops set-user-ID bits when told so. Without it the kernel
    /// asks for the extended attribute security.capability before each write.
    private func amendInitialization(_ pieces: UnsafeMutablePointer<iovec>, _ count: Int32) {
        isInitialized = count >= 2
        let flag = UInt32(FUSE_HANDLE_KILLPRIV_V2)
        guard options.clearsPrivilegesWhenTold, offeredFlags & flag != 0, count >= 2,
            let answer = pieces[1].iov_base, pieces[1].iov_len >= 16
        else { return }
        let flags = answer.loadUnaligned(fromByteOffset: 12, as: UInt32.self)
        answer.storeBytes(of: flags | flag, toByteOffset: 12, as: UInt32.self)
    }
}
