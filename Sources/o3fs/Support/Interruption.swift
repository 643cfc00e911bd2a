import Glibc
import Synchronization

/// The signal that was kept; 0: none. A global, for a handler can capture nothing.
private let pending = Atomic<Int32>(0)

/// Signals that ask a command to end, for commands that have something to tidy first. A write to a pipe that nobody reads is
/// an error from then on, and no signal.
enum Interruption {
    private static let signals = [SIGINT, SIGTERM, SIGHUP]

    /// From here on the signals are kept: a call that waits ends with EINTR.
    static func keep() {
        // Made before a handler could be the first to ask for it.
        pending.store(0, ordering: .relaxed)
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { number in pending.store(number, ordering: .relaxed) }
        for number in signals { sigaction(number, &action, nil) }
        signal(SIGPIPE, SIG_IGN)
    }

    static var isPending: Bool { pending.load(ordering: .relaxed) != 0 }

    /// Ends the process by the signal that was kept, if there is one.
    static func end() {
        let number = pending.load(ordering: .relaxed)
        guard number != 0 else { return }
        signal(number, SIG_DFL)
        raise(number)
    }
}
