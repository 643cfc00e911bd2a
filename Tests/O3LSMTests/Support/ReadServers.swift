import Glibc
import Synchronization

@testable import O3LSM

/// A worker that serves reads, in a thread of this process, and is replaced again and again.
final class ReadServers: Sendable {
    private let path: String
    private let isOver = Atomic<Bool>(false)
    private let thread = Mutex<BackgroundThread?>(nil)

    init(_ path: String) { self.path = path }

    func start() throws {
        let made = try BackgroundThread("servers") { [self] in
            while !isOver.load(ordering: .relaxed) {
                var configuration = Worker.Configuration()
                configuration.roles = [.reads]
                guard let worker = try? Worker(path, configuration) else { return }
                let run = try? BackgroundThread("server") { try? worker.run() }
                for _ in 0..<20 where !isOver.load(ordering: .relaxed) { usleep(50_000) }
                worker.stop()
                run?.join()
            }
        }
        thread.withLock { $0 = made }
    }

    func stop() {
        isOver.store(true, ordering: .relaxed)
        thread.withLock { $0 }?.join()
    }
}
