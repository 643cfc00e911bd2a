/// What each process has done of one kind of background work. Belongs to the thread that collects jobs.
struct ExecutorAccounts: Sendable {
    /// A process, as the owner of the store sees it.
    struct Executor: Hashable, Sendable {
        var isOwner: Bool
        var processID: Int32

        /// Those whose own accounts have been given up.
        static let former = Executor(isOwner: false, processID: 0)
    }

    private(set) var shares: [Executor: Statistics.Executor.Share] = [:]
    /// When an account was last written to, by `clock`.
    private var lastUse: [Executor: UInt64] = [:]
    private var clock: UInt64 = 0

    /// Workers may come and go without end.
    static let maximumAccounts = 64

    /// A job whose result is used.
    mutating func done(_ executor: Executor, read: UInt64, written: UInt64) {
        change(executor) { share in
            share.jobs += 1
            share.bytesRead += read
            share.bytesWritten += written
        }
    }

    /// An attempt that came to nothing.
    mutating func failed(_ executor: Executor) { change(executor) { $0.failedJobs += 1 } }

    private mutating func change(_ executor: Executor, _ body: (inout Statistics.Executor.Share) -> Void) {
        clock += 1
        lastUse[executor] = clock
        body(&shares[executor, default: .init()])
        guard shares.count > ExecutorAccounts.maximumAccounts,
            let oldest = lastUse.filter({ $0.key != .former && !$0.key.isOwner }).min(by: { $0.value < $1.value })?.key,
            let share = shares.removeValue(forKey: oldest)
        else { return }
        lastUse[oldest] = nil
        var former = shares[.former] ?? .init()
        former.jobs += share.jobs
        former.failedJobs += share.failedJobs
        former.bytesRead += share.bytesRead
        former.bytesWritten += share.bytesWritten
        shares[.former] = former
        lastUse[.former] = clock
    }

    /// The accounts of both kinds of work, by executor: the owner, then workers by process id.
    static func joined(flush: ExecutorAccounts, compaction: ExecutorAccounts) -> [Statistics.Executor] {
        let all = Set(flush.shares.keys).union(compaction.shares.keys)
        return all.sorted { ($0.isOwner ? 0 : 1, $0.processID) < ($1.isOwner ? 0 : 1, $1.processID) }.map { executor in
            Statistics.Executor(
                pid: executor.processID, role: executor.isOwner ? "daemon" : "worker",
                flush: flush.shares[executor] ?? .init(), compaction: compaction.shares[executor] ?? .init())
        }
    }
}
