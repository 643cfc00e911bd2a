import Glibc
import Synchronization

/// A process that executes flushes and compactions for the owner of a store, next to the memory.
///
/// It attaches to the store's DM region, now or when there is one, claims jobs, and holds no state of its own:
/// kill it at any instant and nothing is lost. `run` ends when `stop` is called; all other methods may be called
/// from any thread.
public final class Worker: Sendable {
    /// What a worker does.
    public enum Role: String, Sendable, CaseIterable {
        case flush
        case compaction
        /// Answers reads of sealed memtables, with a thread of its own.
        case reads

        /// The jobs it does; nil: none.
        fileprivate var kind: JobKind? {
            switch self {
            case .flush: return .flush
            case .compaction: return .compaction
            case .reads: return nil
            }
        }
    }

    /// How it does it.
    public struct Configuration: Sendable {
        public var roles: Set<Role> = Set(Role.allCases)
        /// Jobs executed at once, 1 … 64. With both roles and two or more, one thread is kept for flushes.
        public var threads = 2
        /// Bytes read and written a second; nil: unbounded.
        public var ioBytesPerSecond: UInt64?

        public init() {}
    }

    /// What a worker tells whoever runs it.
    public enum Event: Sendable, CustomStringConvertible {
        case waiting(store: String)
        case attached(regionBytes: Int)
        case detached

        public var description: String {
            switch self {
            case .waiting(let store): return "waiting for the memory of \(store): it is not mounted"
            case .attached(let bytes): return "attached to a region of \(bytes >> 20) MiB"
            case .detached: return "the region is gone: the store was closed"
            }
        }
    }

    private let layout: StoreLayout
    private let storage: any Storage
    private let configuration: Configuration
    private let limiter: RateLimiter?
    private let isStopping = Atomic<Bool>(false)

    private static let pollMilliseconds = 200

    /// - Throws: `.invalidArgument` for a configuration outside its ranges.
    public init(_ store: String, _ configuration: Configuration, storage: any Storage = POSIXStorage())
        throws(EngineError)
    {
        guard (1...64).contains(configuration.threads) else {
            throw .invalidArgument("a worker has 1 to 64 threads, not \(configuration.threads)")
        }
        guard !configuration.roles.isEmpty else { throw .invalidArgument("a worker needs a role") }
        layout = StoreLayout(root: store)
        self.storage = storage
        self.configuration = configuration
        limiter = configuration.ioBytesPerSecond.map { RateLimiter(bytesPerSecond: $0) }
    }

    /// Asks `run` to end soon: running compactions are cut short, running flushes are finished.
    public func stop() { isStopping.store(true, ordering: .releasing) }

    /// Executes jobs until `stop` is called, through as many lives of the store's owner as there are.
    ///
    /// - Throws: `.storeNotFound`; `.invalidArgument` when the owner is of another build; `.io` when the region
    ///   belongs to somebody else; `.corruption` of the identity.
    public func run(report: (Event) -> Void = { _ in }) throws(EngineError) {
        guard storage.exists(layout.identity) else { throw .storeNotFound(path: layout.root) }
        let identity = try StoreIdentity.load(from: layout.identity, storage: storage)
        var isWaiting = false
        while !isStopping.load(ordering: .acquiring) {
            let (region, _) = try Region.attach(storeID: identity.storeID, bootID: Region.currentBootID())
            guard let region, region.build != 0 else {
                if !isWaiting { report(.waiting(store: layout.root)) }
                isWaiting = true
                usleep(UInt32(Worker.pollMilliseconds) * 1000)
                continue
            }
            isWaiting = false
            guard region.build == BuildIdentity.current else {
                throw .invalidArgument(
                    "the owner of \(layout.root) runs another build of this program: start the worker from the same one")
            }
            try region.protectSlabs()
            try serve(region, report)
        }
    }

    /// Executes jobs of one region until it is gone.
    private func serve(_ region: Region, _ report: (Event) -> Void) throws(EngineError) {
        let nodes = NodeTable(region)
        let jobs = Set(configuration.roles.compactMap(\.kind))
        guard
            let node = nodes.attach(
                role: .worker, roles: jobs, capacity: jobs.isEmpty ? 0 : configuration.threads)
        else {
            throw .io(operation: "find a free row in the node table of", path: region.name, code: EAGAIN)
        }
        report(.attached(regionBytes: region.size))
        let session = WorkerSession(
            region: region, node: node, storage: storage, layout: layout, limiter: limiter,
            openTables: min(WorkerSession.maximumOpenTables, DescriptorLimit.tables / configuration.threads),
            isStopping: { [self] in isStopping.load(ordering: .relaxed) })
        var threads: [BackgroundThread] = []
        let ring = configuration.roles.contains(.reads) ? ReadServer.takeRing(region) : nil
        if let ring {
            threads.append(
                try BackgroundThread("o3-reads") {
                    ReadServer(region, ring).run { session.hasEnded }
                })
        }
        for index in 0..<(jobs.isEmpty ? 0 : configuration.threads) {
            // A long compaction must not stand in the way of the flush that writers wait for, nor take half of the
            // processor that it runs on.
            let kinds: [JobKind] =
                jobs.count == 1 || (index == 0 && configuration.threads > 1)
                ? [jobs.contains(.flush) ? .flush : .compaction] : [.flush, .compaction]
            threads.append(
                try BackgroundThread("o3-worker-\(index)", priority: kinds == [.flush] ? .normal : .low) {
                    session.loop(kinds)
                })
        }
        while !isStopping.load(ordering: .acquiring), region.isCurrent, region.build == BuildIdentity.current {
            nodes.beat(node)
            usleep(UInt32(Worker.pollMilliseconds) * 1000)
        }
        session.end()
        ring?.wakeServer()
        for thread in threads { thread.join() }
        ring?.leave()
        nodes.detach(node)
        if !isStopping.load(ordering: .acquiring) { report(.detached) }
    }
}

/// A worker's time with one region.
private final class WorkerSession: Sendable {
    private let jobs: JobTable
    private let nodes: NodeTable
    private let node: Int
    private let storage: any Storage
    private let layout: StoreLayout
    private let limiter: RateLimiter?
    private let flush: FlushExecutor
    private let isStopping: @Sendable () -> Bool
    private let isOver = Atomic<Bool>(false)

    /// Bytes of blocks (indexes and filters of inputs) that a compaction keeps.
    private static let cacheBytes = 8 << 20
    static let maximumOpenTables = 256
    private let openTables: Int

    init(
        region: Region, node: Int, storage: any Storage, layout: StoreLayout, limiter: RateLimiter?,
        openTables: Int, isStopping: @escaping @Sendable () -> Bool
    ) {
        jobs = JobTable(region)
        nodes = NodeTable(region)
        self.node = node
        self.storage = storage
        self.layout = layout
        self.limiter = limiter
        self.openTables = openTables
        self.isStopping = isStopping
        let memtables = WorkerMemtables(region)
        flush = FlushExecutor(storage: storage, layout: layout, limiter: limiter) {
            source throws(EngineError) in try memtables.memtable(source)
        }
    }

    /// Whether to stop.
    var hasEnded: Bool { isOver.load(ordering: .acquiring) }

    /// Lets running jobs end, and takes no more.
    func end() {
        isOver.store(true, ordering: .releasing)
        jobs.ringPosted()
    }

    func loop(_ kinds: [JobKind]) {
        while true {
            // Before the look at the flags: a ring after it ends the wait.
            let ticket = jobs.postedTicket
            if isOver.load(ordering: .acquiring) || isStopping() { return }
            if let claim = jobs.claim(kinds, node: node, isOwner: false) {
                nodes.countJob(node, 1)
                execute(claim)
                nodes.countJob(node, -1)
            } else {
                jobs.waitForPost(since: ticket, milliseconds: 500)
            }
        }
    }

    private func execute(_ claim: JobTable.Claim) {
        do throws(EngineError) {
            switch claim.kind {
            case .flush:
                guard let descriptor = FlushDescriptor.decode(claim.descriptor) else {
                    throw .invalidArgument("the flush descriptor cannot be read")
                }
                let result = try flush.run(descriptor, attempt: claim.attempt) { jobs.isHeld(claim) }
                if !jobs.finish(claim, result: result.encode()) { discard([descriptor.fileNumber], of: claim) }
            case .compaction:
                let descriptor = try claim.descriptor.withEngineBytes { (bytes) throws(EngineError) in
                    try CompactionDescriptor.decode(bytes, source: "compaction job")
                }
                // Tables are opened anew for each job: one that stays open keeps the space of its file.
                let tables = TableCache(
                    storage: storage, layout: layout, capacity: openTables,
                    blockCache: BlockCache(capacity: WorkerSession.cacheBytes))
                let executor = CompactionExecutor(
                    storage: storage, layout: layout, tables: tables, limiter: limiter)
                let result = try executor.run(descriptor, attempt: claim.attempt) { [self] in
                    isOver.load(ordering: .relaxed) || isStopping() || !jobs.isHeld(claim)
                }
                if !jobs.finish(claim, result: result.encode()) { discard(result.outputs.map(\.number), of: claim) }
            }
        } catch {
            jobs.fail(claim, JobFailure(error).encode())
        }
    }

    /// The claim was lost: nobody will use these tables.
    private func discard(_ numbers: [UInt64], of claim: JobTable.Claim) {
        // Best effort: recovery removes the files of attempts. Never a table's own name: that is the owner's.
        for number in numbers { try? storage.delete(layout.table(number, attempt: claim.attempt)) }
    }
}
