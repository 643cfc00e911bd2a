import Glibc

/// What is common to processes that go on by themselves: supervisors, daemons and workers.
enum Daemons {
    /// What the Swift runtime may write to the log when a program dies of a signal: where it was, not what was in its
    /// registers and in memory, which may be contents of files; file names without the user's.
    static let backtraces = "SWIFT_BACKTRACE=registers=none,images=none,sanitize=yes,interactive=no,color=no"

    /// Hands `body` the environment for such a process: this one's, with `backtraces` unless the user has settings of
    /// his own.
    static func withEnvironment<Value>(_ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Value) -> Value {
        var list: [UnsafeMutablePointer<CChar>?] = []
        var variable = Glibc.environ
        while let text = variable.pointee {
            list.append(text)
            variable += 1
        }
        let added = getenv("SWIFT_BACKTRACE") == nil ? strdup(backtraces) : nil
        defer { free(added) }
        if added != nil { list.append(added) }
        list.append(nil)
        // Not nil: the list has an element.
        return list.withUnsafeBufferPointer { body($0.baseAddress!) }
    }

    /// How a process ended, in words.
    ///
    /// - Parameter status: as `waitpid` tells it.
    static func causeOfEnd(_ status: Int32) -> String {
        let signal = status & 0x7f
        return signal == 0 ? "exit status \((status >> 8) & 0xff)" : "signal \(signal)"
    }

    /// Keeps the memory of this process, and of those it starts, from being written to disk when they die.
    static func forbidCoreDumps() {
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        guard getrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none) == 0 else { return }
        none.rlim_cur = 0
        setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none)
    }
}
