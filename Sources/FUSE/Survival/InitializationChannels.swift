import Glibc

/// The channel of a new session's first request: keeps what passes.
final class RecordingChannel: Channel {
    private let base: any Channel
    private(set) var request: [UInt8] = []
    private(set) var answer: [UInt8] = []

    init(_ base: any Channel) { self.base = base }

    func receive(into buffer: UnsafeMutableRawBufferPointer) -> Received {
        let received = base.receive(into: buffer)
        if case .request(let count) = received { request = Array(buffer[..<count]) }
        return received
    }

    func send(_ pieces: UnsafePointer<iovec>, _ count: Int32) -> Int {
        answer = joined(pieces, count)
        return base.send(pieces, count)
    }

    func close() { base.close() }
}

/// Plays the first request of a session again, and keeps the answer from the kernel, which has had one.
final class ReplayChannel: Channel {
    private let request: [UInt8]
    private var isRead = false
    private(set) var answer: [UInt8] = []

    init(_ request: [UInt8]) { self.request = request }

    func receive(into buffer: UnsafeMutableRawBufferPointer) -> Received {
        guard !isRead, request.count <= buffer.count else { return .closed }
        isRead = true
        buffer.copyBytes(from: request)
        return .request(request.count)
    }

    func send(_ pieces: UnsafePointer<iovec>, _ count: Int32) -> Int {
        answer = joined(pieces, count)
        return answer.count
    }

    func close() {}
}

private func joined(_ pieces: UnsafePointer<iovec>, _ count: Int32) -> [UInt8] {
    var bytes: [UInt8] = []
    for piece in UnsafeBufferPointer(start: pieces, count: Int(count)) {
        bytes += UnsafeRawBufferPointer(start: piece.iov_base, count: piece.iov_len)
    }
    return bytes
}
