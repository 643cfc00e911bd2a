import Glibc

/// Turns the signals that ask a daemon to end into an orderly unmount.
public enum TerminationSignals {
    private static let numbers = [SIGINT, SIGTERM, SIGHUP]

    /// Holds the signals back in the calling thread and all that it starts from now on. Call before any
    /// other thread exists, or one of those may die of them.
    public static func block() {
        var set = mask()
        pthread_sigmask(SIG_BLOCK, &set, nil)
        signal(SIGPIPE, SIG_IGN)
    }

    /// Calls `body` on a thread of its own for each signal that arrives, with its number.
    public static func observe(_ body: @escaping @Sendable (Int32) -> Void) {
        let box = Unmanaged.passRetained(Observer(body))
        var thread = pthread_t()
        let result = pthread_create(&thread, nil, waitForSignals, box.toOpaque())
        guard result == 0 else { return box.release() }
        pthread_detach(thread)
    }

    fileprivate static func mask() -> sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for number in numbers { sigaddset(&set, number) }
        return set
    }
}

private final class Observer {
    let body: @Sendable (Int32) -> Void

    init(_ body: @escaping @Sendable (Int32) -> Void) { self.body = body }
}

private func waitForSignals(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument else { return nil }
    let observer = Unmanaged<Observer>.fromOpaque(argument).takeRetainedValue()
    var set = TerminationSignals.mask()
    while true {
        var number: Int32 = 0
        guard sigwait(&set, &number) == 0 else { return nil }
        observer.body(number)
    }
}
