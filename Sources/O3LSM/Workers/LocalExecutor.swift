import Synchronization

/// Threads of the compute node that execute jobs from the job table, as a worker process would.
final class LocalExecutor: Sendable {
    private let jobs: JobTable
    private let node: Int
    private let flush: FlushExecutor
    private let compact: @Sendable (_ descriptor: [UInt8], _ shouldStop: () -> Bool) throws(EngineError) -> [UInt8]
    private let isStopping = Atomic<Bool>(false)
    private let threads = Mutex<[BackgroundThread]>([])

    /// A local job is watched by its own process, so that its lease only has to outlast any job.
    private static let leaseNanoseconds: UInt64 = 24 * 3600 * 1_000_000_000

    init(
        jobs: JobTable, node: Int, flush: FlushExecutor,
        compact: @escaping @Sendable (_ descriptor: [UInt8], _ shouldStop: () -> Bool) throws(EngineError) -> [UInt8]
    ) {
        self.jobs = jobs
        self.node = node
        self.flush = flush
        self.compact = compact
    }

    func start(flushThreads: Int, compactionThreads: Int) throws(EngineError) {
        for index in 0..<flushThreads { try addThread("o3-flush-\(index)", .flush) }
        for index in 0..<compactionThreads { try addThread("o3-compact-\(index)", .compaction) }
    }

    /// Lets running jobs end (compactions are cut short) and joins the threads.
    func stop() {
        isStopping.store(true, ordering: .releasing)
        jobs.ringPosted()
        let joined = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in joined { thread.join() }
    }

    private func addThread(_ name: String, _ kind: JobKind) throws(EngineError) {
        let thread = try BackgroundThread(name) { [self] in loop(kind) }
        threads.withLock { $0.append(thread) }
    }

    private func loop(_ kind: JobKind) {
        while !isStopping.load(ordering: .acquiring) {
            let ticket = jobs.postedTicket
            if let claim = jobs.claim([kind], node: node, leaseNanoseconds: LocalExecutor.leaseNanoseconds) {
                execute(claim)
            } else {
                jobs.waitForPost(since: ticket, milliseconds: 500)
            }
        }
    }

    private func execute(_ claim: JobTable.Claim) {
        do throws(EngineError) {
            let result: [UInt8]
            switch claim.kind {
            case .flush:
                guard let descriptor = FlushDescriptor.decode(claim.descriptor) else {
                    throw .invalidArgument("the flush descriptor cannot be read")
                }
                result = try flush.run(descriptor).encode()
            case .compaction:
                result = try compact(claim.descriptor) { isStopping.load(ordering: .relaxed) }
            }
            jobs.finish(claim.slot, claim.generation, result: result)
        } catch {
            jobs.fail(claim.slot, claim.generation, JobFailure(error).encode())
        }
    }
}

/// An error on its way through the job table: the errno first, so that a full disk is known as one.
struct JobFailure {
    let code: Int32
    let message: String

    init(_ error: EngineError) {
        code = error.posixCode
        message = error.description
    }

    init(encoded: String) {
        let parts = encoded.split(separator: " ", maxSplits: 1)
        code = parts.first.flatMap { Int32($0) } ?? 5
        message = parts.count > 1 ? String(parts[1]) : encoded
    }

    func encode() -> String { "\(code) \(message)" }
}
