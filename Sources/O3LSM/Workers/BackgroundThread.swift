import CSystem
import Glibc

/// A named thread that runs one closure. Joined explicitly; the closure must end by itself.
final class BackgroundThread: @unchecked Sendable {
    // @unchecked: the handle is written once, before anybody can join.
    private var handle = pthread_t()
    private var isStarted = false

    /// How a thread shares a processor with those of callers.
    enum Priority {
        case normal
        /// Yields to callers, but never starves: about a third of a processor that it shares with one of them.
        case low
        /// Only what nobody else wants.
        case idle

        func apply() {
            // Without the lower priority the thread does its work all the same.
            switch self {
            case .normal: break
            case .low: _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), id_t(o3_gettid()), 5)
            case .idle: _ = o3_set_idle_priority()
            }
        }
    }

    private final class Body {
        let name: String
        let priority: Priority
        let run: @Sendable () -> Void
        init(_ name: String, _ priority: Priority, _ run: @escaping @Sendable () -> Void) {
            self.name = name
            self.priority = priority
            self.run = run
        }
    }

    /// - Parameter name: at most 15 bytes, as the kernel shows it.
    init(_ name: String, priority: Priority = .normal, _ run: @escaping @Sendable () -> Void) throws(EngineError) {
        let body = Unmanaged.passRetained(Body(name, priority, run))
        let code = pthread_create(
            &handle, nil,
            { context in
                // The context is always the retained body passed below.
                guard let context else { return nil }
                let body = Unmanaged<Body>.fromOpaque(context).takeRetainedValue()
                o3_set_thread_name(body.name)
                body.priority.apply()
                body.run()
                return nil
            }, body.toOpaque())
        guard code == 0 else {
            body.release()
            throw .io(operation: "start the thread", path: name, code: code)
        }
        isStarted = true
    }

    /// Waits for the end of the closure. Call once.
    func join() {
        if isStarted { pthread_join(handle, nil) }
        isStarted = false
    }
}
