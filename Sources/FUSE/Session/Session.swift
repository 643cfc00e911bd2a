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
    /// Threads that serve.
    private let workerCount: Int
    /// What another process needs to go on with the session; nil if `SessionOptions.outlivesProcess` is not set,
    /// or the kernel cannot send requests again. The descriptors stay this object's.
    public let held: HeldSession?
    private let identity: MountIdentity
    private let resends = ResendWatch()
    private let gate: ReaderGate
    private let stopping = Atomic<Bool>(false)
    private let state = Mutex(State())

    /// A thread that serves.
    private struct ServingThread {
        let id: pthread_t
        /// It ends by itself: from now on it may be joined at any time, and must not be signalled.
        var isFinished = false
    }

    private struct State {
        /// In the order of their indices.
        var threads: [ServingThread] = []
        var supervisor: pthread_t?
        var counters: [RequestCounters] = []
        var isFinished: Bool { threads.allSatisfy(\.isFinished) }
        var unmountRequested = false
        var isLeaving = false
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
        self.workerCount = options.workerCount
        self.identity = MountIdentity(options)
        self.handle = try makeHandle(options)
        guard fuse_session_mount(handle, self.mountPoint) == 0 else {
            fuse_session_destroy(handle)
            throw .message(LibraryLog.shared.takeLast() ?? "cannot mount at \(mountPoint)")
        }
        let descriptor = fuse_session_fd(handle)
        let device = DeviceTransport(sessionDescriptor: descriptor)
        let first = RecordingChannel(DeviceChannel(descriptor: descriptor, ownsDescriptor: false))
        // What the initializer must have set before a method can be called.
        var prepared: (transport: any Transport, held: HeldSession?) = (device, nil)
        do throws(SessionError) {
            try redirectAnswers(of: handle, to: descriptor)
            try exchangeInitialization(handle, operations, options, first)
            if options.outlivesProcess, !options.ignoresResend, Resend.isOffered(in: first.request) {
                var channels: [Int32] = []
                for _ in 0..<options.workerCount { channels.append(try DeviceTransport.clone(of: descriptor)) }
                prepared.transport = HeldTransport(sessionDescriptor: descriptor, channels: channels[...])
                prepared.held = HeldSession(
                    descriptors: [descriptor] + channels, mountPoint: self.mountPoint, initialization: first.request,
                    agreement: first.answer)
            }
        } catch {
            fuse_session_unmount(handle)
            fuse_session_destroy(handle)
            throw error
        }
        (transport, held) = prepared
    }

    /// Goes on with a session that another process has left, by dying or by `leave`, and takes over its
    /// descriptors. What the kernel had sent to that process and got no answer to it sends again, with
    /// `RequestContext.isResent` set, before anything new.
    ///
    /// Throws when this program would have agreed with the kernel on something else than its predecessor did:
    /// the kernel cannot be asked twice.
    public init(
        _ operations: any FileSystemOperations, resuming held: HeldSession, _ options: SessionOptions
    ) throws(SessionError) {
        guard held.descriptors.count >= HeldSession.minimumDescriptors else {
            throw .message("a session that is taken over needs a descriptor for itself and one for a thread")
        }
        self.operations = operations
        self.options = options
        self.held = held
        identity = MountIdentity(options)
        mountPoint = held.mountPoint
        workerCount = held.descriptors.count - 1
        gate = ReaderGate(workers: workerCount)
        handle = try makeHandle(options)
        let descriptor = held.descriptors[0]
        transport = HeldTransport(sessionDescriptor: descriptor, channels: held.descriptors[1...])
        let first = ReplayChannel(held.initialization)
        // From here on the end of the object destroys the handle.
        try redirectAnswers(of: handle, to: descriptor)
        try exchangeInitialization(handle, operations, options, first)
        guard first.answer == held.agreement else {
            throw .message(
                "this program wants to talk to the kernel otherwise than the one that made the mount: unmount, "
                    + "then mount again")
        }
        try Resend.request(on: descriptor)
    }

    deinit { fuse_session_destroy(handle) }

    // MARK: Life

    /// Starts the threads. Call once.
    public func start() throws(SessionError) {
        operations.start()
        var channels: [any Channel] = []
        for _ in 0..<workerCount { channels.append(try transport.makeChannel()) }
        for (index, channel) in channels.enumerated() {
            let start = Unmanaged.passRetained(WorkerStart(session: self, channel: channel, index: index))
            // Under the lock, so that the thread is known before it can end.
            let result = state.withLock { state -> Int32 in
                var thread = pthread_t()
                let result = pthread_create(&thread, nil, runWorker, start.toOpaque())
                if result == 0 { state.threads.append(ServingThread(id: thread)) }
                return result
            }
            guard result == 0 else {
                start.release()
                if index > 0 { break }
                throw .system("cannot start a thread", Errno(result))
            }
        }
        do throws(SessionError) {
            if workerCount > 1 { try startSupervisor() }
        } catch {
            // Nobody may serve what the caller takes for not started.
            stopServing(patience: 0)
            joinThreads()
            throw error
        }
        raiseReadAhead()
    }

    /// Waits until the mount is gone and every request was answered; then tells the file system. Returns
    /// the error that ended the session, if one did. Call once, after `start`.
    @discardableResult
    public func wait() -> Errno? {
        joinThreads()
        if state.withLock({ $0.isLeaving && $0.failure == nil }), !isClosed {
            operations.stop()
            return nil
        }
        // A connection that was cut leaves a dead mount in the tree.
        if isMounted { MountTable.detach(mountPoint) }
        // libfuse would unmount what somebody has mounted over it.
        if MountTable.entry(at: mountPoint) == nil || isClosed { fuse_session_unmount(handle) }
        operations.stop()
        return state.withLock { $0.failure }
    }

    private func joinThreads() {
        for thread in state.withLock({ $0.threads }) { pthread_join(thread.id, nil) }
        if let supervisor = state.withLock({ $0.supervisor }) { pthread_join(supervisor, nil) }
    }

    /// Unmounts and lets `wait` return. Files that are still open are written back, then cut off. Any
    /// thread; returns when the mount is out of the tree.
    public func unmount() {
        let first = state.withLock { state in
            defer { state.unmountRequested = true }
            return !state.unmountRequested
        }
        guard first else { return }
        if isMounted, MountTable.unmount(mountPoint) != nil { detach() }
        stopServing()
    }

    /// Lets `wait` return without unmounting, when what was taken from the kernel is answered: another process
    /// goes on with `held`. Any thread.
    public func leave() {
        let first = state.withLock { state in
            defer { state.isLeaving = true }
            return !state.isLeaving && !state.unmountRequested
        }
        guard first else { return }
        stopServing(patience: 0)
    }

    /// Whether a request that was sent again may still be unanswered: for certain if asked twice, a second apart.
    /// Any thread, while the session lives.
    public var hasOpenResends: Bool { resends.areOpen { transport.hasPendingRequest() } }

    /// Requests that the kernel has sent again, so far. Any thread.
    public var resentRequests: UInt64 { resends.count }

    /// Has the kernel look up every name anew that it knows: what is behind names may have changed without its doing. A
    /// kernel before Linux 6.16 goes on with what it knows.
    public func expireNames() { NameEpoch.increase(on: held?.descriptors.first ?? fuse_session_fd(handle)) }

    /// Whether a thread found the mount gone.
    private let sawEnd = Atomic<Bool>(false)
    private var isClosed: Bool { sawEnd.load(ordering: .acquiring) }
    /// Whether the session was left to another process: it is still mounted. For the time after `wait`.
    public var isLeft: Bool { state.withLock { $0.isLeaving && $0.failure == nil } && !isClosed }

    /// Whether what is seen at the mount point is this session's mount: somebody may have unmounted it and mounted something
    /// else there, which the kernel may even give the same device number.
    private var isMounted: Bool {
        guard let entry = MountTable.entry(at: mountPoint) else { return false }
        return identity.matches(entry)
    }

    /// Takes a busy or dead mount out of the tree: has the kernel write back what programs have left in it, then cuts the
    /// connection.
    private func detach() {
        // Recent kernels (seen: 6.18) begin to write a FUSE file system back, and do not wait for the end.
        if o3_syncfs_in_child(mountPoint) == 0 { waitForWrites() }
        if isMounted { MountTable.detach(mountPoint) }
    }

    /// Waits until no write has come for a while, or for half a minute: a program may go on writing.
    private func waitForWrites() {
        var written: UInt64?
        var quietLooks = 0
        for _ in 0..<Self.mostLooksForWrites {
            usleep(20_000)
            let (now, isWriting, isFinished) = state.withLock { state in
                (
                    state.counters.reduce(0) { $0 + $1.count(of: FUSE_WRITE) },
                    state.counters.contains { $0.operation == FUSE_WRITE.rawValue }, state.isFinished
                )
            }
            if isFinished { return }
            quietLooks = now == written && !isWriting ? quietLooks + 1 : 0
            if quietLooks == Self.quietLooks { return }
            written = now
        }
    }
    private static let quietLooks = 15
    private static let mostLooksForWrites = 1500

    /// Lets the threads take no more requests, and interrupts those that wait for one: that of a mount which others go
    /// on with, or which is detached and still held by somebody, would never come back.
    ///
    /// `patience`: how often to look, every 5 ms, before that.
    private func stopServing(patience: Int = 20) {
        stopping.store(true, ordering: .releasing)
        gate.finish()
        for attempt in 0..<10_000 {
            if state.withLock({ $0.isFinished }) { return }
            // Most end by themselves, for their mount is gone.
            if attempt >= patience {
                installInterruption()
                state.withLock { state in
                    for thread in state.threads where !thread.isFinished { pthread_kill(thread.id, interruptionSignal) }
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
        let worker = Worker(
            handle: handle, operations: operations, options: options, channel: channel, index: index,
            counters: counters, resends: resends)
        worker.attach()
        defer {
            worker.detach()
            channel.close()
            state.withLock { $0.threads[index].isFinished = true }
        }
        // Whoever sees the end lets the parked ones see it.
        defer { gate.finish() }
        while true {
            gate.pass(index)
            guard !stopping.load(ordering: .acquiring) else { return }
            switch worker.serveOne(gate) {
            case .request, .nothing: continue
            case .closed:
                sawEnd.store(true, ordering: .releasing)
                return
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

    private func raiseReadAhead() {
        guard options.readAheadKiB > 0, let entry = MountTable.entry(at: mountPoint), identity.matches(entry) else {
            return
        }
        let number = entry.device
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
func makeHandle(_ options: SessionOptions) throws(SessionError) -> OpaquePointer {
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
