import CFUSE3
import Glibc
import Synchronization

/// The part of the protocol (Linux 6.9, FUSE 7.40) by which a new process gets the requests that a dead one had
/// read and not answered. Debian 12's headers do not know it yet.
enum Resend {
    /// Set in the number of a request that was sent before.
    static let uniqueBit: UInt64 = 1 << 63
    /// FUSE_NOTIFY_RESEND, a message of nothing but a header.
    private static let notification: Int32 = 7
    /// FUSE_HAS_RESEND is bit 39 of the flags of INIT: bit 7 of their second word.
    private static let offered: UInt32 = 1 << 7
    private static let headerBytes = MemoryLayout<fuse_in_header>.size

    /// Whether the kernel that sent this INIT request can send requests again.
    static func isOffered(in request: [UInt8]) -> Bool {
        guard request.count >= headerBytes + 20 else { return false }
        return request.withUnsafeBytes { bytes in
            let flags = bytes.loadUnaligned(fromByteOffset: headerBytes + 12, as: UInt32.self)
            let more = bytes.loadUnaligned(fromByteOffset: headerBytes + 16, as: UInt32.self)
            // FUSE_INIT_EXT: the second word counts.
            return flags & 1 << 30 != 0 && more & offered != 0
        }
    }

    /// Asks the kernel to send everything again that was read through any descriptor of the session and not
    /// answered: before all else, oldest first.
    static func request(on descriptor: Int32) throws(SessionError) {
        var header = fuse_out_header()
        header.len = UInt32(MemoryLayout<fuse_out_header>.size)
        header.error = notification
        header.unique = 0
        let length = MemoryLayout<fuse_out_header>.size
        guard write(descriptor, &header, length) == length else {
            throw .system("the kernel does not send its open requests again", Errno.current)
        }
    }
}

/// Tells when the requests that the kernel has sent again are all answered. Thread-safe.
final class ResendWatch: Sendable {
    private let inFlight = Atomic<Int>(0)
    private let total = Atomic<UInt64>(0)
    /// A new request came: those that were sent again came before it.
    private let sawNew = Atomic<Bool>(false)

    func begin(isResent: Bool, _ opcode: UInt32) {
        guard !isResent else {
            inFlight.add(1, ordering: .relaxed)
            total.add(1, ordering: .relaxed)
            return
        }
        guard !sawNew.load(ordering: .relaxed) else { return }
        switch fuse_opcode(opcode) {
        // These overtake all others.
        case FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT: return
        default: sawNew.store(true, ordering: .relaxed)
        }
    }

    func end(isResent: Bool) {
        if isResent { inFlight.subtract(1, ordering: .relaxed) }
    }

    /// Those that came so far.
    var count: UInt64 { total.load(ordering: .relaxed) }

    /// Whether one may still be unanswered. A thread that has one and did not come to say so is not seen: look
    /// again after a while.
    func areOpen(hasPendingRequest: () -> Bool) -> Bool {
        if inFlight.load(ordering: .relaxed) > 0 { return true }
        return !sawNew.load(ordering: .relaxed) && hasPendingRequest()
    }
}
