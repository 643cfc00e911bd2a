import FUSE
import Glibc
import Synchronization

/// A thread's work and what became of it.
private final class Job: @unchecked Sendable {
    // Unchecked: the thread that made it waits for the end before it looks.
    let body: () throws -> Void
    var error: (any Error)?

    init(_ body: @escaping () throws -> Void) { self.body = body }
}

private func run(_ job: Job) throws -> pthread_t {
    var thread = pthread_t()
    let result = pthread_create(
        &thread, nil,
        { argument in
            guard let argument else { return nil }
            let job = Unmanaged<Job>.fromOpaque(argument).takeRetainedValue()
            do { try job.body() } catch { job.error = error }
            return nil
        }, Unmanaged.passRetained(job).toOpaque())
    guard result == 0 else { throw Errno(result) }
    return thread
}

/// Runs `body` on a thread of its own and waits.
func onOwnThread(_ body: () throws -> Void) throws {
    try withoutActuallyEscaping(body) { body in
        let job = Job(body)
        pthread_join(try run(job), nil)
        if let error = job.error { throw error }
    }
}

/// Runs `body` on `count` threads at once and waits for all; throws the first error.
func inParallel(_ count: Int, _ body: (Int) throws -> Void) throws {
    try withoutActuallyEscaping(body) { body in
        let jobs = (0..<count).map { index in Job { try body(index) } }
        let threads = try jobs.map(run)
        for thread in threads { pthread_join(thread, nil) }
        for job in jobs { if let error = job.error { throw error } }
    }
}
