import CFUSE3
import Glibc

// How a session begins: what both sides can do is agreed on by the kernel's first request and its answer.

extension SessionOptions {
    /// Agrees on what both sides can do (the `init` operation).
    func negotiate(_ connection: inout fuse_conn_info) {
        var wanted =
            FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS
            | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT
            | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_EXPLICIT_INVAL_DATA
        if cachesSymbolicLinks { wanted |= FUSE_CAP_CACHE_SYMLINKS }
        if writebackCache { wanted |= FUSE_CAP_WRITEBACK_CACHE }
        if accessControlLists { wanted |= FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK }
        connection.want = connection.capable & UInt32(bitPattern: Int32(wanted))
        connection.max_write = UInt32(maximumWriteBytes)
        // libfuse wants the mount option repeated.
        connection.max_read = mountOptions.last { $0.hasPrefix("max_read=") }
            .flatMap { UInt32($0.dropFirst("max_read=".count)) } ?? 0
        connection.max_background = UInt32(maximumBackground)
        connection.congestion_threshold = UInt32(max(1, maximumBackground * 3 / 4))
        connection.time_gran = 1
    }
}

/// Makes libfuse write answers through the calling thread's worker instead of the session's descriptor, which it
/// closes at the end.
func redirectAnswers(of handle: OpaquePointer, to descriptor: Int32) throws(SessionError) {
    var redirection = fuse_custom_io()
    redirection.writev = { _, pieces, count, _ in
        guard let pieces else { return -1 }
        return Worker.current.send(pieces, count)
    }
    redirection.read = { descriptor, buffer, length, _ in read(descriptor, buffer, length) }
    let result = fuse_session_custom_io(handle, &redirection, descriptor)
    guard result == 0 else { throw .system("libfuse refused the transport", Errno(-result)) }
}

/// Answers the first request of every mount on the calling thread, so that a mount that cannot work fails at once.
func exchangeInitialization(
    _ handle: OpaquePointer, _ operations: any FileSystemOperations, _ options: SessionOptions, _ channel: any Channel
) throws(SessionError) {
    let worker = Worker(handle: handle, operations: operations, options: options, channel: channel)
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
        case .closed: throw .message("the mount was removed while it was set up")
        case .failed(let error): throw .system("cannot read from /dev/fuse", error)
        }
    }
}
