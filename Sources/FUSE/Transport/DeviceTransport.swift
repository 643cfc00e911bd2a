import CSystem
import Glibc

/// Reads requests from /dev/fuse and writes answers to it, on one clone of the session's descriptor for
/// each thread: the kernel then keeps a list of unanswered requests for each, with a lock of its own.
final class DeviceTransport: Transport {
    private let sessionDescriptor: Int32

    init(sessionDescriptor: Int32) { self.sessionDescriptor = sessionDescriptor }

    func makeChannel() throws(SessionError) -> any Channel {
        let descriptor = open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system("cannot open /dev/fuse", Errno.current) }
        let result = o3_fuse_clone(descriptor, sessionDescriptor)
        guard result == 0 else {
            _ = Glibc.close(descriptor)
            throw .system("cannot clone the FUSE session's descriptor", Errno(-result))
        }
        return DeviceChannel(descriptor: descriptor, ownsDescriptor: true)
    }

    func hasPendingRequest() -> Bool {
        var question = pollfd(fd: sessionDescriptor, events: Int16(POLLIN), revents: 0)
        return poll(&question, 1, 0) == 1 && question.revents & Int16(POLLIN) != 0
    }
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
