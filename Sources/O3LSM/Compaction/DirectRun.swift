import Synchronization

/// A compaction on a thread of its own, for descriptors that do not fit the job table. Its tables have their own names
/// from the beginning: whoever starts one collects its outcome or stops it.
final class DirectRun: Sendable {
    private let state = Mutex<Result<CompactionResult, EngineError>?>(nil)
    private let isStopping = Atomic<Bool>(false)
    private let thread = Mutex<BackgroundThread?>(nil)

    init(_ executor: CompactionExecutor, _ descriptor: CompactionDescriptor) {
        do throws(EngineError) {
            let started = try BackgroundThread("o3-compact", priority: .low) { [self] in
                let outcome: Result<CompactionResult, EngineError>
                do throws(EngineError) {
                    outcome = .success(
                        try executor.run(descriptor) { [self] in isStopping.load(ordering: .relaxed) })
                } catch {
                    outcome = .failure(error)
                }
                state.withLock { $0 = outcome }
            }
            thread.withLock { $0 = started }
        } catch {
            state.withLock { $0 = .failure(error) }
        }
    }

    /// nil while it runs.
    var outcome: Result<CompactionResult, EngineError>? { state.withLock { $0 } }

    /// Waits for its end.
    func join() {
        let running = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        running?.join()
    }

    /// Cuts it short, which removes what it has written, and waits for its end.
    func stop() {
        isStopping.store(true, ordering: .relaxed)
        join()
    }
}
