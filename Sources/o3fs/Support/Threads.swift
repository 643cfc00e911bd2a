import CSystem
import Glibc

/// Runs `body` on a new thread that nobody joins.
///
/// Throws when the system has no room for a thread. `name` shows in ps and top, up to 15 bytes of it.
func spawnThread(_ name: String, _ body: @escaping @Sendable () -> Void) throws(CommandError) {
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
    let thread = try createThread(name, attributes: &attributes, body)
    _ = thread
}

/// Runs `body` on as many threads as asked for and returns when all have ended; `body` gets 0 …< count.
func runThreads(_ name: String, count: Int, _ body: @escaping @Sendable (Int) -> Void) throws(CommandError) {
    var threads: [pthread_t] = []
    defer { for thread in threads { pthread_join(thread, nil) } }
    for index in 0..<count {
        threads.append(try createThread(name, attributes: nil) { body(index) })
    }
}

private final class ThreadBody {
    let name: String
    let run: @Sendable () -> Void
    init(_ name: String, _ run: @escaping @Sendable () -> Void) {
        self.name = name
        self.run = run
    }
}

private func createThread(
    _ name: String,
    attributes: UnsafePointer<pthread_attr_t>?,
    _ body: @escaping @Sendable () -> Void
) throws(CommandError) -> pthread_t {
    let start = Unmanaged.passRetained(ThreadBody(name, body))
    var thread = pthread_t()
    let code = pthread_create(
        &thread,
        attributes,
        { argument in
            guard let argument else { return nil }
            let body = Unmanaged<ThreadBody>.fromOpaque(argument).takeRetainedValue()
            o3_set_thread_name(body.name)
            body.run()
            return nil
        },
        start.toOpaque()
    )
    guard code == 0 else {
        start.release()
        throw CommandError("start a thread", errno: code)
    }
    return thread
}
