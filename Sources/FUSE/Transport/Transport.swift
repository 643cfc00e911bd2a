import Glibc

/// How requests come from the kernel and answers go back. The device is one way; others (io_uring, a
/// session taken over from a dead process) can stand in its place without a change above.
protocol Transport: AnyObject, Sendable {
    /// A way for one more thread. Any thread.
    func makeChannel() throws(SessionError) -> any Channel
    /// Whether a request waits that no thread has taken. Any thread, while the session lives.
    func hasPendingRequest() -> Bool
}

/// One thread's way to the kernel. An answer goes back where its request came from.
protocol Channel: AnyObject {
    /// Waits for a request and copies it to `buffer`.
    func receive(into buffer: UnsafeMutableRawBufferPointer) -> Received
    /// Sends an answer; returns what writev(2) returns, with `errno`.
    func send(_ pieces: UnsafePointer<iovec>, _ count: Int32) -> Int
    func close()
}

/// The outcome of waiting for a request.
enum Received {
    /// A request of so many bytes.
    case request(Int)
    /// Nothing this time (a signal, a request that was withdrawn): ask again.
    case nothing
    /// The mount is gone.
    case closed
    case failed(Errno)
}
