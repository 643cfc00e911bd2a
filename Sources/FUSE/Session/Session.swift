import CFUSE3
import CSystem
import Glibc
import Synchronization

/// A mounted file system and the threads that serve it.
///
///     let session = try Session(operations, mountPoint: "/mnt", options)   // mounted, not yet served
///     session.start()                                                      // requests are answered
///     session.wait()                                                       // until it is unmounted
///
/// `unmount` may be called by any thread while another waits. The mount also ends when somebody calls
/// umount(8) or fusermount3(1).
public final class Session: @unchecked Sendable {
    // Unchecked: `handle` is libfuse's, used as libfuse allows (any thread may process requests); what
    // else changes is guarded by `state`.

    public let operations: any FileSystemOperations
    public let options: SessionOptions
    /// Absolute, without symbolic links.
    public let mountPoint: String

    let handle: OpaquePointer
    private let transport: any Transport
    private let gate: ReaderGate
    private let stopping = Atomic<Bool>(false)
    private let state = Mutex(State())

    private struct State {
        var threads: [pthread_t] = []
        var supervisor: pthread_t?
        var counters: [RequestCounters] = []
        var finished = 0
        var unmountRequested = false
        var failure: Errno?
    }

    /// Mounts `operations` at `mountPoint` and agrees with the kernel on the protocol.
    public init(
        _ operations: any FileSystemOperations, mountPoint: String, _ options: SessionOptions = SessionOptions()
    ) throws(SessionError) {
        guard let resolved = realpath(mountPoint, nil) else {
            throw .system("cannot use \(mountPoint) as a mount point", Errno.current)
        }
        self.mountPoint = String(cString: resolved)
        free(resolved)
        self.operations = operations
        self.options = options
        self.gate = ReaderGate(workers: options.workerCount)
        self.handle = try makeHandle(options)
        guard fuse_session_mount(handle, self.mountPoint) == 0 else {
            fuse_session_destroy(handle)
            throw .message(LibraryLog.shared.takeLast() ?? "cannot mount at \(mountPoint)")
        }
        self.transport = DeviceTransport(sessionDescriptor: fuse_session_fd(handle))
        do throws(SessionError) {
            try redirectAnswers()
            try exchangeInitialization()
        } catch {
            // From here on the end of the object destroys the handle.
            fuse_session_unmount(handle)
            throw error
        }
    }

    deinit { fuse_session_destroy(handle) }

    // MARK: Life

    /// Starts the threads. Call once.
    public func start() throws(SessionError) {
        operations.start()
        var channels: [any Channel] = []
        for _ in 0..<options.workerCount { channels.append(try transport.makeChannel()) }
        for (index, channel) in channels.enumerated() {
            let start = Unmanaged.passRetained(WorkerStart(session: self, channel: channel, index: index))
            var thread = pthread_t()
            let result = pthread_create(&thread, nil, runWorker, start.toOpaque())
            guard result == 0 else {
                start.release()
                if index > 0 { break }
                throw .system("cannot start a thread", Errno(result))
            }
            state.withLock { $0.threads.append(thread) }
        }
        if options.workerCount > 1 { try startSupervisor() }
        raiseReadAhead()
    }

    /// Waits until the mount is gone and every request was answered; then tells the file system. Returns
    /// the error that ended the session, if one did. Call once, after `start`.
    @discardableResult
    public func wait() -> Errno? {
        for thread in state.withLock({ $0.threads }) { pthread_join(thread, nil) }
        if let supervisor = state.withLock({ $0.supervisor }) { pthread_join(supervisor, nil) }
        // A connection that was cut leaves a dead mount in the tree.
        if MountTable.isMounted(mountPoint, device: device) { MountTable.detach(mountPoint) }
        fuse_session_unmount(handle)
        operations.stop()
        return state.withLock { $0.failure }
    }

    /// Unmounts and lets `wait` return. Files that are still open are written back, then cut off. Any
    /// thread; returns when the mount is out of the tree.
    public func unmount() {
        let first = state.withLock { state in
            defer { state.unmountRequested = true }
            return !state.unmountRequested
        }
        guard first else { return }
        if MountTable.unmount(mountPoint) != nil { detach() }
        stopping.store(true, ordering: .releasing)
        gate.finish()
        kickWorkers()
    }

    /// What the kernel calls the mount's device, once `start` has returned.
    private let deviceNumber = Atomic<UInt64>(0)
    private var device: UInt64 { deviceNumber.load(ordering: .relaxed) }

    /// Takes a busy or dead mount out of the tree: writes back what it can, then cuts the connection.
    private func detach() {
        let descriptor = open(mountPoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if descriptor >= 0 {
            _ = o3_syncfs(descriptor)
            close(descriptor)
        }
        MountTable.detach(mountPoint)
    }

    /// Interrupts threads that wait for requests of a mount that is detached but still held by somebody.
    private func kickWorkers() {
        let threads = state.withLock { $0.threads }
        for attempt in 0..<10_000 {
            if state.withLock({ $0.finished }) == threads.count { return }
            // Most end by themselves, for their mount is gone.
            if attempt >= 20 {
                installInterruption()
                state.withLock { state in
                    for thread in state.threads where state.finished < threads.count { pthread_kill(thread, interruptionSignal) }
                }
            }
            usleep(5000)
        }
    }

    /// How often each operation was asked for since the start, by its name in the protocol. Any thread.
    public func counters() -> [String: RequestCount] {
        var total: [String: RequestCount] = [:]
        for counters in state.withLock({ $0.counters }) { counters.add(to: &total) }
        return total
    }

    // MARK: Workers

    fileprivate func serve(_ channel: any Channel, index: Int) {
        o3_set_thread_name("fuse-\(index)")
        allowInterruption()
        let counters = RequestCounters()
        state.withLock { $0.counters.append(counters) }
        let worker = Worker(session: self, channel: channel, counters: counters)
        worker.attach()
        defer {
            worker.detach()
            channel.close()
            state.withLock { $0.finished += 1 }
        }
        // Whoever sees the end lets the parked ones see it.
        defer { gate.finish() }
        while true {
            gate.pass(index)
            guard !stopping.load(ordering: .acquiring) else { return }
            switch worker.serveOne(gate) {
            case .request, .nothing: continue
            case .closed: return
            case .failed(let error):
                state.withLock { $0.failure = $0.failure ?? error }
                return
            }
        }
    }

    private func startSupervisor() throws(SessionError) {
        let start = Unmanaged.passRetained(self)
        var thread = pthread_t()
        let result = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let session = Unmanaged<Session>.fromOpaque(argument).takeRetainedValue()
                o3_set_thread_name("fuse-gate")
                session.gate.supervise { session.transport.hasPendingRequest() }
                return nil
            }, start.toOpaque())
        guard result == 0 else {
            start.release()
            throw .system("cannot start a thread", Errno(result))
        }
        state.withLock { $0.supervisor = thread }
    }

    // MARK: Setting up

    /// Agrees on what both sides can do (the `init` operation).
    func negotiate(_ connection: inout fuse_conn_info) {
        var wanted =
            FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS
            | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT
            | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_EXPLICIT_INVAL_DATA
        if options.writebackCache { wanted |= FUSE_CAP_WRITEBACK_CACHE }
        connection.want = connection.capable & UInt32(bitPattern: Int32(wanted))
        connection.max_write = UInt32(options.maximumWriteBytes)
        // libfuse wants the mount option repeated.
        connection.max_read = options.mountOptions.last { $0.hasPrefix("max_read=") }
            .flatMap { UInt32($0.dropFirst("max_read=".count)) } ?? 0
        connection.max_background = UInt32(options.maximumBackground)
        connection.congestion_threshold = UInt32(max(1, options.maximumBackground * 3 / 4))
        connection.time_gran = 1
    }

    /// Makes libfuse write answers through the calling thread's worker instead of the session's descriptor.
    private func redirectAnswers() throws(SessionError) {
        var redirection = fuse_custom_io()
        redirection.writev = { _, pieces, count, _ in
            guard let pieces else { return -1 }
            return Worker.current.send(pieces, count)
        }
        redirection.read = { descriptor, buffer, length, _ in read(descriptor, buffer, length) }
        let result = fuse_session_custom_io(handle, &redirection, fuse_session_fd(handle))
        guard result == 0 else { throw .system("libfuse refused the transport", Errno(-result)) }
    }

    /// Answers the first request of every mount here, so that a mount that cannot work fails at once.
    private func exchangeInitialization() throws(SessionError) {
        let channel = DeviceChannel(descriptor: fuse_session_fd(handle), ownsDescriptor: false)
        let worker = Worker(session: self, channel: channel)
        worker.attach()
        defer { worker.detach() }
        while true {
            switch worker.serveOne() {
            case .request:
                guard fuse_session_exited(handle) == 0 else {
                    throw .message(LibraryLog.shared.takeLast() ?? "the kernel's FUSE protocol does not fit")
                }
                if worker.isInitialized { return }
            case .nothing: continue
            case .closed: throw .message("the mount at \(mountPoint) was removed while it was set up")
            case .failed(let error): throw .system("cannot read from /dev/fuse", error)
            }
        }
    }

    private func raiseReadAhead() {
        guard let number = MountTable.device(of: mountPoint) else { return }
        deviceNumber.store(number, ordering: .relaxed)
        guard options.readAheadKiB > 0 else { return }
        let path = "/sys/class/bdi/\(major(number)):\(minor(number))/read_ahead_kb"
        let descriptor = open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        let text = String(options.readAheadKiB)
        _ = text.withCString { write(descriptor, $0, strlen($0)) }
        close(descriptor)
    }
}

/// Makes a thread of this process leave a system call it waits in; its handler does nothing.
private let interruptionSignal = SIGUSR1

private func installInterruption() {
    // Not signal(2): with that, the system call would go on by itself.
    var action = sigaction()
    action.__sigaction_handler.sa_handler = { _ in }
    sigaction(interruptionSignal, &action, nil)
}

/// Lets the calling thread be interrupted, whatever its creator had held back.
private func allowInterruption() {
    var set = sigset_t()
    sigemptyset(&set)
    sigaddset(&set, interruptionSignal)
    pthread_sigmask(SIG_UNBLOCK, &set, nil)
}

/// What a new thread is told.
private final class WorkerStart {
    let session: Session
    let channel: any Channel
    let index: Int

    init(session: Session, channel: any Channel, index: Int) {
        self.session = session
        self.channel = channel
        self.index = index
    }
}

private func runWorker(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument else { return nil }
    let start = Unmanaged<WorkerStart>.fromOpaque(argument).takeRetainedValue()
    start.session.serve(start.channel, index: start.index)
    return nil
}

private func major(_ device: UInt64) -> UInt64 { ((device >> 8) & 0xfff) | ((device >> 32) & ~0xfff) }
private func minor(_ device: UInt64) -> UInt64 { (device & 0xff) | ((device >> 12) & ~0xff) }

/// A libfuse session with the mount options of `options`.
private func makeHandle(_ options: SessionOptions) throws(SessionError) -> OpaquePointer {
    LibraryLog.shared.install()
    var strings = ["o3fs"]
    for option in options.mountOptions { strings += ["-o", option] }
    var arguments = strings.map { strdup($0) } as [UnsafeMutablePointer<CChar>?]
    defer { for argument in arguments { free(argument) } }
    var table = makeOperationTable()
    let handle = arguments.withUnsafeMutableBufferPointer { buffer -> OpaquePointer? in
        var list = fuse_args(argc: Int32(buffer.count), argv: buffer.baseAddress, allocated: 0)
        defer { fuse_opt_free_args(&list) }
        return fuse_session_new(&list, &table, MemoryLayout<fuse_lowlevel_ops>.size, nil)
    }
    guard let handle else { throw .message(LibraryLog.shared.takeLast() ?? "libfuse cannot make a session") }
    return handle
}
