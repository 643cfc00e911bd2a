import CFUSE3
import Glibc

/// Collects the pieces of the answer to a read, and sends them to the kernel with one gathering write
/// from where they lie. One for each worker thread, reused.
public final class ReadReply {
    /// A place for what the file system wants to keep from one read of this thread to the next
    /// (a reusable buffer, for example).
    public var attachment: AnyObject?

    /// O_* of the open file that is read, as far as the kernel tells them.
    public internal(set) var openFlags: Int32 = 0

    /// Bytes in all pieces.
    public private(set) var count = 0

    private var pieces: [iovec] = []
    private var owners: [AnyObject] = []
    private var request: fuse_req_t?
    /// Where pieces are joined when there are more than one writev(2) takes.
    private var joined = UnsafeMutableRawBufferPointer(start: nil, count: 0)

    /// One less than writev(2) takes: the header of the answer is a piece as well.
    private static let maximumPieces = 1023
    private static let zeroRunBytes = 1 << 20

    // Safe to share: never written after this, never unmapped.
    private nonisolated(unsafe) static let zeros: UnsafeMutableRawPointer = {
        let mapped = mmap(nil, zeroRunBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if let mapped, mapped != MAP_FAILED { return mapped }
        return UnsafeMutableRawBufferPointer.allocate(byteCount: zeroRunBytes, alignment: 4096)
            .initializeMemory(as: UInt8.self, repeating: 0).baseAddress.map { UnsafeMutableRawPointer($0) }
            ?? UnsafeMutableRawPointer.allocate(byteCount: zeroRunBytes, alignment: 4096)
    }()

    init() { pieces.reserveCapacity(Self.maximumPieces) }

    deinit { joined.deallocate() }

    /// Adds bytes that stay valid until the answer is sent: for as long as `owner` lives, or, without
    /// one, until `send` or the end of the call.
    public func append(_ bytes: UnsafeRawBufferPointer, owner: AnyObject? = nil) {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return }
        if let owner { owners.append(owner) }
        add(UnsafeMutableRawPointer(mutating: base), bytes.count)
    }

    /// Adds zeros.
    public func appendZeros(_ length: Int) {
        var rest = length
        while rest > 0 {
            let part = min(rest, Self.zeroRunBytes)
            add(Self.zeros, part)
            rest -= part
        }
    }

    /// Sends the answer now, so that what its pieces lie in can be released. Happens by itself when the
    /// call returns.
    public func send() {
        guard let request else { return }
        self.request = nil
        if pieces.count > Self.maximumPieces { join() }
        pieces.withUnsafeBufferPointer { _ = fuse_reply_iov(request, $0.baseAddress, Int32($0.count)) }
        clear()
    }

    func begin(_ request: fuse_req_t) {
        clear()
        self.request = request
    }

    /// Forgets the pieces; the request is answered otherwise.
    func cancel() {
        request = nil
        clear()
    }

    /// Whether the request still waits for its answer.
    var isPending: Bool { request != nil }

    private func add(_ base: UnsafeMutableRawPointer, _ length: Int) {
        pieces.append(iovec(iov_base: base, iov_len: length))
        count += length
    }

    private func clear() {
        pieces.removeAll(keepingCapacity: true)
        if !owners.isEmpty { owners.removeAll(keepingCapacity: true) }
        count = 0
    }

    private func join() {
        if joined.count < count {
            joined.deallocate()
            joined = .allocate(byteCount: count, alignment: 4096)
        }
        guard let base = joined.baseAddress else { return }
        var position = 0
        for piece in pieces {
            guard let source = piece.iov_base else { continue }
            memcpy(base + position, source, piece.iov_len)
            position += piece.iov_len
        }
        pieces.removeAll(keepingCapacity: true)
        pieces.append(iovec(iov_base: base, iov_len: position))
    }
}
