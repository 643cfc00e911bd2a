import Glibc

/// Why a command gives up, in one sentence for its user.
struct CommandError: Error, Equatable, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }

    /// A system call failed: "cannot OPERATION: MESSAGE".
    init(_ operation: String, errno code: Int32) {
        description = "cannot \(operation): \(errnoMessage(code))"
    }
}

/// The C library's words for an errno value.
func errnoMessage(_ code: Int32) -> String {
    guard let text = strerror(code) else { return "error \(code)" }
    return String(cString: text)
}
