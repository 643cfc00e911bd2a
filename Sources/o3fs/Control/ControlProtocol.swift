/// What a daemon can be asked through its control socket.
///
/// The wire format is one JSON object a line in each direction: `{"command":"stats"}` is answered by
/// `{"ok":true,"result":{…}}` or `{"ok":false,"error":"one sentence"}`. A connection may carry several
/// requests, one after the other.
enum ControlCommand: String, Codable, CaseIterable, Sendable {
    /// Answered by a `StatusReport`.
    case status
    /// Answered by a `StatisticsReport`.
    case stats
    /// Compacts everything, then answers with `ControlDone`.
    case compact
    /// Makes everything written before survive power loss, then answers with `ControlDone`.
    case sync
    /// Looks for slabs and slots that nobody will give back; answered by a `ControlProblems`.
    case check
    /// Keeps the present state under `ControlRequest.name`, then answers with `ControlDone`.
    case snapshot
    /// Begins a scrub unless one runs, or `ControlRequest.scrub` names one that is known; answered with its `ScrubReport`.
    case scrub
    /// Answered with `ControlDone`; then the daemon ends without unmounting, and its supervisor starts
    /// `ControlRequest.program` in its place.
    case upgrade

    /// Whether it may be asked of the next daemon when one dies over it.
    var isRepeatable: Bool { self != .upgrade && self != .snapshot }
}

/// The answer to a command that has nothing to tell but that it is done.
struct ControlDone: Codable, Sendable {
    var done = true
}

/// What a daemon has found wrong with itself: a sentence each.
struct ControlProblems: Codable, Sendable {
    var problems: [String]
}

struct ControlRequest: Codable, Sendable {
    var command: ControlCommand
    /// Absolute path of a program, for `upgrade`.
    var program: String?
    /// Of the snapshot, for `snapshot`.
    var name: String?
    var scrub: ControlScrub?
}

/// What is asked with `scrub`.
struct ControlScrub: Codable, Sendable {
    /// Of a scrub that was begun, to hear of it and not to begin another.
    var id: UInt64?
    /// nil: no bound.
    var bytesPerSecond: UInt64?
}

/// The successful form of an answer.
struct ControlSuccess<Result: Codable>: Codable {
    var ok = true
    var result: Result
}

/// The failed form of an answer; also decodes from a successful one.
struct ControlFailure: Codable {
    var ok = false
    var error: String?
}

/// Where a store's control socket is, and the limits of what travels through it.
enum ControlSocket {
    /// A request is a few words; a longer line is an error, not a reason to grow.
    static let maximumRequestBytes = 4096
    static let maximumAnswerBytes = 64 << 20

    /// The socket's path in a store directory.
    static func path(store: String) -> String { store + "/control.sock" }
}
