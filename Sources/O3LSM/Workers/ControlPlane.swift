import CSystem
import Glibc
import Synchronization

/// The thread that decides: what is flushed and compacted and in which order, what is committed, how fast
/// writers may go, and when the log is brought up to date. It executes nothing itself.
final class ControlPlane: @unchecked Sendable {
    // @unchecked: `flushes`, `compactions`, `loads` and `nextSealAt` belong to the thread; what others see is copied under `shared`.
    private let context: FlushScheduler.Context
    private let writes: WritePath
    private let log: WriteAheadLog
    private let flushes: FlushScheduler
    /// nil when memtables are born in DM.
    private let offload: OffloadScheduler?
    private let compactions: CompactionScheduler
    private let obsolete: ObsoleteFiles
    private let executor: LocalExecutor
    private let node: Int

    /// A request of a caller that waits for background work.
    private struct Waiter {
        enum Goal {
            case flushed(SequenceNumber)
            case compacted(UInt64)
            case settled
        }
        var goal: Goal
        var done: Completion
    }
    private struct Shared {
        var waiters: [Waiter] = []
        /// The thread has ended.
        var isStopped = false
        var manual: [CompactionScheduler.ManualRequest] = []
        var nextManualID: UInt64 = 1
        var flush = Statistics.Work()
        var compaction = Statistics.Work()
        /// The newest failure of a flush, a compaction or the log, and when it was.
        var lastFailure: (error: EngineError, time: UInt64)?
        var postedJobs = 0
        var executors: [Statistics.Executor] = []
        var flushedShards: [UInt64: Set<Int>] = [:]
        var busyShares: [Int: Double] = [:]
    }
    private var loads = NodeLoads()
    private let shared = Mutex(Shared())
    private let isStopping = Atomic<Bool>(false)
    private var thread: BackgroundThread?
    private var logThread: BackgroundThread?
    private var populateThread: BackgroundThread?
    private let logBell = PrivateDoorbell()
    /// Whether writers are told of a full disk and of a log that fails. Recovery is not: what it reads is there already.
    private let isJudging = Atomic<Bool>(false)
    /// Why the log thread could not keep the commit interval; nil once it has caught up.
    private let logFailure = Mutex<EngineError?>(nil)

    /// Whether the region's object has lost its name, so that no later process would find what is in it.
    private let isRegionUnnamed = Atomic<Bool>(false)

    /// When deletions on a full disk may be sealed again, see `sealDeletions`.
    private var nextSealAt: UInt64 = 0
    private static let sealNanoseconds: UInt64 = 300_000_000
    /// Writers wait for space that is being given back, not longer than this after the last of it came.
    private static let hopeNanoseconds: UInt64 = 5_000_000_000
    /// Since space has been about to come back: the most that was free, and until when there is hope for more.
    private var scarcity: (mostFree: UInt64, hopeUntil: UInt64)?
    private var waitsForSpace = false

    /// How long the thread sleeps when nothing rings, in milliseconds.
    private static let idleMilliseconds = 200

    init(
        context: FlushScheduler.Context, writes: WritePath, log: WriteAheadLog,
        compactions: CompactionScheduler, offload: OffloadScheduler?, obsolete: ObsoleteFiles, executor: LocalExecutor,
        node: Int
    ) {
        self.context = context
        self.writes = writes
        self.log = log
        self.compactions = compactions
        self.offload = offload
        self.obsolete = obsolete
        self.executor = executor
        self.node = node
        flushes = FlushScheduler(context) { offload?.mayFlush($0) ?? true }
    }

    func start() throws(EngineError) {
        try offload?.start()
        thread = try BackgroundThread("o3-control") { [self] in loop() }
        populateThread = try BackgroundThread("o3-populate", priority: .idle) { [self] in
            touchAhead()
        }
        if context.options.writeAheadLog {
            logThread = try BackgroundThread("o3-log") { [self] in commitLoop() }
        }
    }

    /// The store is open: from now on writers are told of a full disk, and of a log that cannot be written.
    func beginJudging() {
        isJudging.store(true, ordering: .releasing)
        context.jobs.ringFinished()
    }

    /// Ends both threads. Jobs that run are not waited for: stop the executors first or afterwards.
    func stop() {
        isStopping.store(true, ordering: .releasing)
        context.jobs.ringFinished()
        logBell.ring()
        thread?.join()
        logThread?.join()
        populateThread?.join()
        offload?.stop()
        compactions.stop()
        let waiters = shared.withLock { shared in
            shared.isStopped = true
            defer { shared.waiters = [] }
            return shared.waiters
        }
        for waiter in waiters { waiter.done.finish(.closed) }
        obsolete.remove()
    }

    /// Waits until everything up to `sequence` is in tables. The memtable that holds it must be sealed.
    func waitForFlush(through sequence: SequenceNumber) throws(EngineError) {
        try wait { _ in .flushed(sequence) }
    }

    /// Rewrites a key range (nil: unbounded) down to the bottom of the tree and waits for it.
    func compact(_ begin: [UInt8]?, _ end: [UInt8]?) throws(EngineError) {
        try wait { shared in
            let identifier = shared.nextManualID
            shared.nextManualID += 1
            shared.manual.append(CompactionScheduler.ManualRequest(id: identifier, begin: begin, end: end))
            return .compacted(identifier)
        }
    }

    /// Waits until no sealed memtable is left to flush and no compaction runs or is due.
    func waitUntilSettled() throws(EngineError) { try wait { _ in .settled } }

    func fill(_ statistics: inout Statistics) {
        shared.withLock { shared in
            statistics.flush = shared.flush
            statistics.compaction = shared.compaction
            statistics.executors = shared.executors
            if let offload { statistics.offload = offload.statistics }
            statistics.writeError = writes.currentFailure?.description
            if let failure = shared.lastFailure {
                statistics.lastFailure = failure.error.description
                statistics.lastFailureAgeSeconds = Double(monotonicNanoseconds() - failure.time) / 1e9
            }
        }
    }

    /// Whether what is in DM dies with this process: somebody has deleted the region's object, or put another in its
    /// place. It is looked at every second.
    @inline(__always)
    var hasLostMemory: Bool { isRegionUnnamed.load(ordering: .relaxed) }

    /// Shards whose tables are written while their memtables wait for others, see `FlushScheduler`.
    var flushedShards: [UInt64: Set<Int>] { shared.withLock { $0.flushedShards } }

    /// How busy nodes have been lately, by row of the node table, 0 ... 1.
    var busyShares: [Int: Double] { shared.withLock { $0.busyShares } }

    /// Jobs that are in the table and that somebody will collect, as of the thread's last round.
    var postedJobs: Int { shared.withLock { $0.postedJobs } }

    /// - Parameter begin: asks for what is waited for, and says what that is.
    private func wait(_ begin: (inout Shared) -> Waiter.Goal) throws(EngineError) {
        let done = Completion()
        let isClosed = shared.withLock { shared in
            // Nobody would answer.
            if shared.isStopped { return true }
            shared.waiters.append(Waiter(goal: begin(&shared), done: done))
            return false
        }
        if isClosed { throw .closed }
        context.jobs.ringFinished()
        if let error = done.wait() { throw error }
    }

    // MARK: The control thread

    private func loop() {
        var lastBeat: UInt64 = 0
        while true {
            // Before the look at the flag: a ring after it ends the wait.
            let ticket = context.jobs.finishedTicket
            if isStopping.load(ordering: .acquiring) { return }
            do throws(EngineError) { try step() } catch { stopWriting(error) }
            let hasOrphans = obsolete.remove(orphanLimit: 1)
            let now = monotonicNanoseconds()
            if now - lastBeat > 1_000_000_000 {
                NodeTable(context.region).beat(node)
                watchRegion()
                lastBeat = now
            }
            context.jobs.waitForFinish(
                since: ticket, milliseconds: flushes.mustLookAgain || hasOrphans ? 1 : ControlPlane.idleMilliseconds)
        }
    }

    /// From the moment that the region is found without its name, writes wait for the log before they return; what has
    /// returned before is appended by the log's thread, and again a second later what has meanwhile passed between the two.
    private func watchRegion() {
        if !hasLostMemory {
            guard !context.region.isCurrent else { return }
            isRegionUnnamed.store(true, ordering: .sequentiallyConsistent)
        }
        logBell.ring()
    }

    private func step() throws(EngineError) {
        let nodes = context.nodes
        nodes.refresh()
        if loads.look({ NodeTable(context.region).attachedRows() }) {
            shared.withLock { $0.busyShares = loads.shares }
        }
        let situation = flushSituation()
        executor.setWorkers(
            flush: nodes.hasWorkers(for: .flush), compaction: nodes.hasWorkers(for: .compaction),
            isMemoryScarce: situation.isMemoryScarce)
        if let offload {
            let freed = try offload.step(
                context.holder, flushBytesPerSecond: flushes.bytesPerSecond, backlogBytes: flushes.pendingBytes,
                hasWorkers: nodes.hasWorkers(for: .flush))
            if freed { writes.roomFreed() }
        }
        flushes.planSealedMemtables(situation)
        let offloadedBefore = flushes.work.offloadedJobs
        let (committed, flushFailure, refusal) = try flushes.step(situation)
        if flushes.work.offloadedJobs > offloadedBefore { executor.workerHasFlushed() }
        var releaseFailure: EngineError?
        if let last = committed.last {
            // Files that cannot be released take room, and keep nobody from writing.
            do throws(EngineError) { try log.flushed(through: last.lastSequence) } catch { releaseFailure = error }
        }
        if let refusal {
            if !committed.isEmpty { writes.roomFreed() }
            throw refusal
        }
        let manual = shared.withLock { shared in
            defer { shared.manual = [] }
            return shared.manual
        }
        compactions.add(manual)
        let space = storageSpace()
        if space.isScarce { sealDeletions() }
        let (changed, compactionFailure) = try compactions.step(space: space)
        if !committed.isEmpty || changed { writes.roomFreed() }
        judge(space, flushFailure, compactionFailure ?? releaseFailure, progressed: !committed.isEmpty)
        setPace()
        writes.judged()
        answerWaiters(flushing: flushFailure, compacting: flushFailure ?? compactionFailure ?? compactions.obstacle)
    }

    /// Share of DM in use, 0 ... 1: of its slabs, or of the places for memtables, which small ones may fill before.
    private var memoryOccupancy: Double {
        max(offload?.dmOccupancy ?? writes.allocator.occupancy, MemtableDirectory(context.region).occupancy)
    }

    private func flushSituation() -> FlushSchedule.Situation {
        FlushSchedule.Situation(
            slots: context.options.flushThreads + context.nodes.capacity(for: .flush),
            occupancy: memoryOccupancy,
            level0Depth: compactions.l0Depth(context.versions.current),
            level0Trigger: context.options.l0CompactionTrigger)
    }

    /// Failed background work becomes a failure of writes when it would lose or stall them, and stops being
    /// one as soon as work succeeds again.
    private func judge(_ space: StorageSpace, _ flush: EngineError?, _ compaction: EngineError?, progressed: Bool) {
        let isJudging = isJudging.load(ordering: .acquiring)
        waitsForSpace = isJudging && mayHopeForSpace(space)
        if waitsForSpace {
            if writes.currentFailure?.isOutOfSpace ?? false { writes.setFailure(nil) }
        } else if isJudging, space.isScarce {
            writes.setFailure(.io(operation: "write to", path: context.layout.root, code: ENOSPC))
        } else if let flush {
            writes.setFailure(flush)
        } else if isJudging, let failure = logFailure.withLock({ $0 }) {
            writes.setFailure(failure)
        } else if writes.stop.load(ordering: .relaxed) == WritePath.stoppedForLevel0, let obstacle = compactions.obstacle {
            // Nothing is at work that would let writers go on.
            writes.setFailure(obstacle)
        } else if writes.currentFailure != nil, flushes.isIdle || progressed {
            if case .readOnly = writes.currentFailure { return }
            writes.setFailure(nil)
        }
        let executors = ExecutorAccounts.joined(flush: flushes.accounts, compaction: compactions.accounts)
        shared.withLock { shared in
            shared.flush = flushes.work
            shared.compaction = compactions.work
            shared.flushedShards = flushes.flushedShards
            shared.executors = executors
            if let failure = flush ?? compaction ?? logFailure.withLock({ $0 }) {
                shared.lastFailure = (failure, monotonicNanoseconds())
            }
            shared.postedJobs = flushes.postedJobs + compactions.postedJobs
        }
    }

    /// Whether storage is scarce and something that was deleted is about to give room.
    private func mayHopeForSpace(_ space: StorageSpace) -> Bool {
        let canHope = space.isScarce
            && (compactions.isReclaiming || context.holder.current.memtables.contains { !$0.tombstones.isEmpty })
        guard case .scarce(let free) = space, canHope else {
            scarcity = nil
            return false
        }
        let now = monotonicNanoseconds()
        guard let known = scarcity, free <= known.mostFree + 1 << 20 else {
            scarcity = (free, now + Self.hopeNanoseconds)
            return true
        }
        return now < known.hopeUntil
    }

    private func storageSpace() -> StorageSpace {
        guard let space = try? context.storage.space(context.layout.root) else { return .ample }
        return StorageSpace(
            free: space.free, total: space.total,
            unflushed: UInt64(context.holder.current.memtables.reduce(0) { $0 + $1.reservedBytes }))
    }

    /// On a full disk what deletes something must reach the tables soon, for only there it frees space.
    private func sealDeletions() {
        let now = monotonicNanoseconds()
        guard flushes.isIdle, now >= nextSealAt else { return }
        nextSealAt = now + ControlPlane.sealNanoseconds
        writes.sealIfRoom()
    }

    /// Slows writers in proportion as the region fills or L0 grows, before they would have to stop.
    private func setPace() {
        let depth = compactions.l0Depth(context.versions.current)
        let options = context.options
        let wasStopped = writes.stop.load(ordering: .relaxed) != 0
        let mustStop = depth >= options.l0StopTrigger && !options.disableAutomaticCompaction
        writes.stop.store(
            mustStop ? WritePath.stoppedForLevel0 : waitsForSpace ? WritePath.stoppedForSpace : 0, ordering: .releasing)
        if wasStopped, !mustStop, !waitsForSpace { writes.roomFreed() }

        let dmPressure = max(0, (memoryOccupancy - 0.6) / 0.4)
        let l0Pressure =
            options.disableAutomaticCompaction || depth < options.l0SlowdownTrigger
            ? 0
            : Double(depth - options.l0SlowdownTrigger + 1)
                / Double(options.l0StopTrigger - options.l0SlowdownTrigger + 1)
        let pressure = max(dmPressure, l0Pressure)
        guard pressure > 0, flushes.bytesPerSecond > 0 else {
            writes.throttle.setRate(0, cause: .dmPressure)
            return
        }
        // At the first sign of pressure writers may go twice as fast as the drain; at the end, half as fast.
        let drain = l0Pressure > dmPressure ? compactions.l0BytesPerSecond : flushes.bytesPerSecond
        let rate = max(drain, 4e6) * (2 - 1.5 * min(pressure, 1))
        writes.throttle.setRate(Int(rate), cause: l0Pressure > dmPressure ? .l0Pressure : .dmPressure)
    }

    /// - Parameters:
    ///   - flushing: why flushes have failed; compactions that fail are no trouble of theirs.
    ///   - compacting: why compactions have failed, or the flushes that come first.
    private func answerWaiters(flushing: EngineError?, compacting: EngineError?) {
        let flushed = context.versions.flushedSequence
        let finished = shared.withLock { shared -> [(Completion, EngineError?)] in
            var finished: [(Completion, EngineError?)] = []
            shared.waiters.removeAll { waiter in
                let isDone: Bool
                var failure = compacting
                switch waiter.goal {
                case .flushed(let sequence):
                    isDone = flushed >= sequence
                    failure = flushing
                case .compacted(let identifier): isDone = compactions.isFinished(identifier)
                case .settled: isDone = context.holder.current.memtables.count == 1 && compactions.isIdle
                }
                if isDone { finished.append((waiter.done, nil)) } else if let failure {
                    finished.append((waiter.done, failure))
                }
                return isDone || failure != nil
            }
            return finished
        }
        for (completion, error) in finished { completion.finish(error) }
        if compacting != nil { compactions.dropRequests() }
    }

    /// What the manifest could not record is tried again as long as storage may mend; damage is for good.
    private func stopWriting(_ error: EngineError) {
        // Also those who began to wait after writing had ended for good: nobody else answers them.
        defer { answerWaiters(flushing: error, compacting: error) }
        if case .readOnly = writes.currentFailure { return }
        if case .io = error { writes.setFailure(error) } else { writes.setFailure(.readOnly(reason: error.description)) }
    }

    /// Maps memory of the region shortly before writers come to it: the faults of a large region all at once would
    /// take a processor, and the bandwidth of memory, from everybody for seconds.
    private func touchAhead() {
        let region = context.region
        let allocator = offload?.allocator ?? writes.allocator
        let ahead = 2 * (context.options.memtableSize / RegionLayout.slabBytes + 1)
        var touched = 0
        while touched < region.slabCount {
            let ticket = context.jobs.finishedTicket
            if isStopping.load(ordering: .acquiring) { return }
            let goal = min(region.slabCount, allocator.highWaterMark + ahead)
            while touched < goal, !isStopping.load(ordering: .relaxed) {
                region.touch(slabs: touched..<touched + 1)
                touched += 1
            }
            // Writers come to new memory where they seal a memtable, which rings.
            context.jobs.waitForFinish(since: ticket, milliseconds: 10_000)
        }
    }

    // MARK: The log thread

    /// Keeps un-synced operations from growing older than the commit interval.
    ///
    /// What lies in sealed memtables is about to become durable by its flush, and a log of it would be
    /// written in vain: it is given three quarters of the interval before the log takes it after all.
    private func commitLoop() {
        let interval = context.options.commitIntervalMilliseconds
        var schedule = CommitSchedule(
            intervalNanoseconds: UInt64(interval) * 1_000_000, now: monotonicNanoseconds(),
            visible: context.region.visibleSequence)
        var nextTry: UInt64 = 0
        while true {
            // Before the look at the flag: a ring after it ends the wait.
            let ticket = logBell.ticket
            if isStopping.load(ordering: .acquiring) { return }
            logBell.wait(since: ticket, milliseconds: schedule.lookMilliseconds)
            if isStopping.load(ordering: .acquiring) { return }
            // What cannot be released is tried again, and told by the next flush.
            try? log.tidy()
            // A failure is for the writers that wait for the log, and for the next sync, to tell.
            if hasLostMemory { try? log.append(through: context.region.visibleSequence) }
            var now = monotonicNanoseconds()
            var isCaughtUp = false
            if now >= nextTry, schedule.isDue(now, durable: log.durableSequence) {
                do throws(EngineError) {
                    try log.sync()
                    isCaughtUp = true
                } catch {
                    // A log that cannot be written breaks the promise of the commit interval: say so to writers,
                    // for as long as it is so.
                    logFailure.withLock { $0 = error }
                    context.jobs.ringFinished()
                    // Every try begins another file.
                    nextTry = now + UInt64(max(interval / 2, 5)) * 1_000_000
                }
            }
            // Also when somebody else's sync or a flush has come first: nothing is due then, and nobody would try.
            isCaughtUp = isCaughtUp || log.durableSequence >= context.region.visibleSequence
            if isCaughtUp, logFailure.withLock({ $0.take() }) != nil {
                nextTry = 0
                context.jobs.ringFinished()
            }
            now = monotonicNanoseconds()
            schedule.looked(now, visible: context.region.visibleSequence)
        }
    }
}

/// Something one thread waits for and another finishes, once.
final class Completion: Sendable {
    private let word = Atomic<UInt32>(0)
    private let error = Mutex<EngineError?>(nil)

    func finish(_ failure: EngineError?) {
        error.withLock { $0 = failure }
        word.store(1, ordering: .releasing)
        withUnsafePointer(to: word) { word in
            _ = o3_futex_wake(UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), Int32.max)
        }
    }

    func wait() -> EngineError? {
        while word.load(ordering: .acquiring) == 0 {
            withUnsafePointer(to: word) { word in
                _ = o3_futex_wait(UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), 0, nil)
            }
        }
        return error.withLock { $0 }
    }
}
