import Glibc
import Synchronization

/// Threads of the compute node that execute jobs from the job table, as a worker process would.
final class LocalExecutor: Sendable {
    private let jobs: JobTable
    private let nodes: NodeTable
    private let node: Int
    private let flush: FlushExecutor
    private let compact: Compact
    private let isStopping = Atomic<Bool>(false)
    private let threads = Mutex<[BackgroundThread]>([])

    typealias Compact =
        @Sendable (_ descriptor: [UInt8], _ attempt: UInt64, _ shouldStop: () -> Bool) throws(EngineError) -> [UInt8]

    /// How long jobs are left to workers before a thread of the owner takes them, in nanoseconds, by kind.
    private let flushGrace = Atomic<UInt64>(0)
    private let compactionGrace = Atomic<UInt64>(0)

    /// When a worker last finished a flush, and whether DM has little room left.
    private let lastWorkerFlush = Atomic<UInt64>(0)
    private let isMemoryScarce = Atomic<Bool>(false)

    /// With workers alive, flushes that wait longer than a lease while none is finished show that all of them are slow;
    /// those of workers that get on may queue longer, as long as there is room, and compactions for a while.
    private let leaseNanoseconds: UInt64
    private static let leasesForQueuedFlushes: UInt64 = 4
    private static let leasesForCompactions: UInt64 = 10

    init(
        jobs: JobTable, nodes: NodeTable, node: Int, leaseMilliseconds: Int, flush: FlushExecutor, compact: @escaping Compact
    ) {
        self.jobs = jobs
        self.nodes = nodes
        self.node = node
        leaseNanoseconds = UInt64(leaseMilliseconds) * 1_000_000
        self.flush = flush
        self.compact = compact
    }

    func start(flushThreads: Int, compactionThreads: Int) throws(EngineError) {
        for index in 0..<flushThreads { try addThread("o3-flush-\(index)", .flush) }
        for index in 0..<compactionThreads { try addThread("o3-compact-\(index)", .compaction) }
    }

    /// Control plane: a worker has finished a flush.
    func workerHasFlushed() { lastWorkerFlush.store(monotonicNanoseconds(), ordering: .relaxed) }

    /// Control plane: whether workers take jobs of each kind off this process's hands.
    ///
    /// - Parameter isMemoryScarce: writers wait for flushes, whoever executes them.
    func setWorkers(flush: Bool, compaction: Bool, isMemoryScarce: Bool) {
        self.isMemoryScarce.store(isMemoryScarce, ordering: .relaxed)
        let flushGrace = flush ? leaseNanoseconds : 0
        let compactionGrace = compaction ? leaseNanoseconds * LocalExecutor.leasesForCompactions : 0
        let hadFlush = self.flushGrace.exchange(flushGrace, ordering: .relaxed)
        let hadCompaction = self.compactionGrace.exchange(compactionGrace, ordering: .relaxed)
        // The last one has gone: what was left to it is due now.
        if flushGrace < hadFlush || compactionGrace < hadCompaction { jobs.ringPosted() }
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
        // Writers wait for flushes. Where they wait for compactions they sleep, and leave the processor to them.
        let thread = try BackgroundThread(name, priority: kind == .compaction ? .low : .normal) { [self] in loop(kind) }
        threads.withLock { $0.append(thread) }
    }

    private func loop(_ kind: JobKind) {
        while true {
            // Before the look at the flag: a ring after it ends the wait.
            let ticket = jobs.postedTicket
            if isStopping.load(ordering: .acquiring) { return }
            let claim = jobs.claim([kind], node: node, isOwner: true) { kind in
                kind == .flush ? patienceForFlushes() : compactionGrace.load(ordering: .relaxed)
            }
            if let claim {
                nodes.countJob(node, 1)
                execute(claim)
                nodes.countJob(node, -1)
            } else {
                jobs.waitForPost(since: ticket, milliseconds: 500)
            }
        }
    }

    private func patienceForFlushes() -> UInt64 {
        let grace = flushGrace.load(ordering: .relaxed)
        guard grace > 0, !isMemoryScarce.load(ordering: .relaxed),
            monotonicNanoseconds() &- lastWorkerFlush.load(ordering: .relaxed) < grace
        else { return grace }
        return grace * LocalExecutor.leasesForQueuedFlushes
    }

    private func execute(_ claim: JobTable.Claim) {
        do throws(EngineError) {
            let result: [UInt8]
            switch claim.kind {
            case .flush:
                guard let descriptor = FlushDescriptor.decode(claim.descriptor) else {
                    throw .invalidArgument("the flush descriptor cannot be read")
                }
                result = try flush.run(descriptor, attempt: claim.attempt).encode()
            case .compaction:
                result = try compact(claim.descriptor, claim.attempt) { isStopping.load(ordering: .relaxed) }
            }
            jobs.finish(claim, result: result)
        } catch {
            jobs.fail(claim, JobFailure(error).encode())
        }
    }
}

/// An error on its way through the job table: the errno first, so that a full disk is known as one.
struct JobFailure {
    let code: Int32
    let message: String

    /// EBADMSG: what was read is damaged, as opposed to EIO, where storage did not answer.
    private static let corruptionCode: Int32 = 74

    init(_ error: EngineError) {
        if case .corruption = error { code = JobFailure.corruptionCode } else { code = error.posixCode }
        message = error.description
    }

    init(encoded: String) {
        let parts = encoded.split(separator: " ", maxSplits: 1)
        code = parts.first.flatMap { Int32($0) } ?? 5
        message = parts.count > 1 ? String(parts[1]) : encoded
    }

    /// Whether what was read is damaged.
    var isCorruption: Bool { code == JobFailure.corruptionCode }
    /// The errno for callers, to whom damage is EIO.
    var posixCode: Int32 { isCorruption ? EIO : code }

    func encode() -> String { JobFailure.message(code, message) }

    static func message(_ code: Int32, _ text: String) -> String { "\(code) \(text)" }
}
