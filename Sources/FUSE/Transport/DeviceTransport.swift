import CSystem
import Glibc
import Synchronization

/// Reads requests from /dev/fuse and writes answers to it, on one clone of the session's descriptor for
/// each thread: the kernel then keeps a list of unanswered requests for each, with a lock of its own.
final class DeviceTransport: Transport {
    private let sessionDescriptor: Int32

    init(sessionDescriptor: Int32) { self.sessionDescriptor = sessionDescriptor }

    func makeChannel() throws(SessionError) -> any Channel {
        DeviceChannel(descriptor: try Self.clone(of: sessionDescriptor), ownsDescriptor: true)
    }

    /// A further descriptor of a session, closed on exec; the caller owns it.
    static func clone(of sessionDescriptor: Int32) throws(SessionError) -> Int32 {
        let descriptor = open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system("cannot open /dev/fuse", Errno.current) }
        let result = o3_fuse_clone(descriptor, sessionDescriptor)
        guard result == 0 else {
            _ = Glibc.close(descriptor)
            throw .system("cannot clone the FUSE session's descriptor", Errno(-result))
        }
        return descriptor
    }

    func hasPendingRequest() -> Bool {
        var question = pollfd(fd: sessionDescriptor, events: Int16(POLLIN), revents: 0)
        return poll(&question, 1, 0) == 1 && question.revents & Int16(POLLIN) != 0
    }
}

/// As `DeviceTransport`, over descriptors that somebody else holds as well: closing them here loses no request.
final class HeldTransport: Transport {
    private let device: DeviceTransport
    private let channels: Mutex<ArraySlice<Int32>>

    /// `channels`: of the session, one for each call of `makeChannel`; owned from here on.
    init(sessionDescriptor: Int32, channels: ArraySlice<Int32>) {
        device = DeviceTransport(sessionDescriptor: sessionDescriptor)
        self.channels = Mutex(channels)
    }

    deinit { for descriptor in channels.withLock({ $0 }) { close(descriptor) } }

    func makeChannel() throws(SessionError) -> any Channel {
        guard let descriptor = channels.withLock({ $0.popFirst() }) else {
            throw .message("the session has no more descriptors")
        }
        return DeviceChannel(descriptor: descriptor, ownsDescriptor: true)
    }

    func hasPendingRequest() -> Bool { device.hasPendingRequest() }
}

/// One descriptor of /dev/fuse.
final class DeviceChannel: Channel {
    private let descriptor: Int32
    private var ownsDescriptor: Bool

    init(descriptor: Int32, ownsDescriptor: Bool) {
        self.descriptor = descriptor
        self.ownsDescriptor = ownsDescriptor
    }

    deinit { close() }

    func receive(into buffer: UnsafeMutableRawBufferPointer) -> Received {
        let count = read(descriptor, buffer.baseAddress, buffer.count)
        guard count < 0 else { return .request(count) }
        switch errno {
        // ENOENT: the request was withdrawn while it was being read.
        case ENOENT, EINTR, EAGAIN: return .nothing
        case ENODEV, ECONNABORTED: return .closed
        default: return .failed(Errno.current)
        }
    }

    func send(_ pieces: UnsafePointer<iovec>, _ count: Int32) -> Int { writev(descriptor, pieces, count) }

    func close() {
        guard ownsDescriptor else { return }
        ownsDescriptor = false
        _ = Glibc.close(descriptor)
    }
}
