/// Plans the flushes of sealed memtables and commits them, oldest memtable first.
///
/// A memtable's shards are flushed by independent jobs; when the last of them is done and every older
/// memtable has been committed, one version edit installs all the tables and moves the flushed sequence.
/// That is what keeps the store a prefix of its history. Used by the control plane's thread only.
final class FlushScheduler {
    /// What the scheduler needs of the rest of the engine.
    struct Context {
        var options: Options
        var jobs: JobTable
        var layout: StoreLayout
        var storage: any Storage
        var versions: VersionSet
        var holder: ReadStateHolder
        var tables: TableCache
        var snapshots: SnapshotList
        var region: Region
        var nodes: NodeWatch
    }

    private struct ShardJob {
        var descriptor: FlushDescriptor
        var expectedEntries: UInt64
        /// The shard lies in memory that only this process has.
        var isLocal: Bool
        var ticket: JobTable.Ticket?
        /// What the name of the newest attempt's table carries.
        var attempt: UInt64 = 0
        var file: FileMetadata?
        var isDone = false
        var isSuspect = false
        var retryAt: UInt64 = 0
        var startedAt: UInt64 = 0
    }
    private struct Plan {
        var memtable: Memtable
        var shards: [ShardJob]
        /// Whether the tables have their own names.
        var isInstalled = false
        /// The memtable in DM whose place a repaired one has taken: it goes when that one is flushed, not before.
        var damaged: Memtable?
        /// The owner has found a shard damaged.
        var isSuspect: Bool { shards.contains(where: \.isSuspect) }
        /// Why it cannot be flushed at all.
        var verdict: EngineError?
    }

    private let context: Context
    private let files: AttemptFiles
    /// Whether a sealed memtable is where it will be flushed from.
    private let isReady: (Memtable) -> Bool
    private var plans: [Plan] = []
    private var distrust = WorkerDistrust()
    private(set) var work = Statistics.Work()
    /// Recent speed of flushing, bytes of memtable a second; 0 before the first flush.
    private(set) var bytesPerSecond = 0.0
    private var lastCommit: UInt64 = 0

    /// How long a failed job waits before it is tried again, in nanoseconds.
    private static let retryNanoseconds: UInt64 = 200_000_000

    init(_ context: Context, isReady: @escaping (Memtable) -> Bool = { _ in true }) {
        self.context = context
        files = AttemptFiles(storage: context.storage, layout: context.layout)
        self.isReady = isReady
    }

    var isIdle: Bool { plans.isEmpty }
    /// Bytes of memtables that wait for their flush to be committed.
    var pendingBytes: Int { plans.reduce(0) { $0 + $1.memtable.reservedBytes } }

    /// Jobs that are in the job table.
    var postedJobs: Int { plans.reduce(0) { $0 + $1.shards.count { $0.ticket != nil } } }

    /// Whether a sealed memtable could not be planned yet, because batches in it are not visible.
    private(set) var mustLookAgain = false

    /// Makes plans for memtables that have been sealed since.
    func planSealedMemtables() {
        mustLookAgain = false
        for memtable in context.holder.current.memtables.reversed()
        where memtable.state == .sealed && !plans.contains(where: { $0.memtable === memtable }) {
            // A batch that was reserved before the seal may still be on its way.
            guard context.region.visibleSequence >= memtable.lastSequence else {
                mustLookAgain = true
                return
            }
            // Commits go oldest first: younger ones would wait for it.
            guard isReady(memtable) else { return }
            plans.append(plan(memtable))
            memtable.setState(.flushing)
        }
    }

    private func plan(_ memtable: Memtable) -> Plan {
        let map = memtable.map
        var shards: [ShardJob] = []
        for (position, shard) in map.shards.enumerated() {
            let upper = map.upperBound(position)
            // Counts in DM may be damaged: then the flush finds another number and is refused.
            let points = shard.entryCount &- shard.tombstoneCount
            // A tombstone that begins in one shard may reach over others: they get their piece of it.
            guard points > 0 || !memtable.tombstones.tombstones(from: shard.lowerBound, to: upper).isEmpty else {
                continue
            }
            shards.append(
                ShardJob(
                    descriptor: FlushDescriptor(
                        memtableID: memtable.id, slot: memtable.slot, shard: shard.index,
                        lowerBound: shard.lowerBound, upperBound: upper, fileNumber: 0,
                        snapshots: context.snapshots.sequences, blockSize: context.options.blockSize,
                        compression: context.options.compression,
                        bloomBitsPerKey: context.options.bloomBitsPerKey),
                    expectedEntries: points, isLocal: !memtable.isInDM))
        }
        return Plan(memtable: memtable, shards: shards)
    }

    /// Posts what waits, collects what is done, commits what is complete.
    ///
    /// - Returns: the memtables that were committed, and the error of the newest failed attempt.
    func step() throws(EngineError) -> (committed: [Memtable], failure: EngineError?) {
        var failure: EngineError?
        let now = monotonicNanoseconds()
        for plan in plans.indices where plans[plan].verdict == nil {
            for shard in plans[plan].shards.indices where !plans[plan].shards[shard].isDone {
                if plans[plan].shards[shard].ticket == nil {
                    post(&plans[plan].shards[shard], now)
                } else if let error = collect(&plans[plan].shards[shard], now) {
                    failure = error
                }
            }
            // Nobody need hear of what is mended.
            if plans[plan].isSuspect, try repair(&plans[plan]) { failure = nil }
        }
        if let verdict = plans.lazy.compactMap(\.verdict).first { throw verdict }
        var committed: [Memtable] = []
        while let plan = plans.first, plan.shards.allSatisfy(\.isDone) {
            if let error = install(&plans[0], now) {
                failure = error
                break
            }
            try commit(plan)
            committed.append(plan.memtable)
            plans.removeFirst()
        }
        return (committed, failure)
    }

    /// Puts a memtable that has been made again in the place of a damaged one, and begins its flush anew.
    ///
    /// - Returns: false when that has been done before: then the trouble is another one.
    /// - Throws: why that cannot be, which stays so.
    private func repair(_ plan: inout Plan) throws(EngineError) -> Bool {
        let damaged = plan.memtable
        let repair = MemtableRepair(storage: context.storage, layout: context.layout, region: context.region)
        guard plan.damaged == nil else {
            for index in plan.shards.indices { plan.shards[index].isSuspect = false }
            return false
        }
        do throws(EngineError) {
            let whole = try repair.rebuild(damaged)
            for job in plan.shards {
                if let ticket = job.ticket { context.jobs.release(ticket) }
                discardTable(job)
            }
            whole.setState(.flushing)
            context.holder.update { state in
                ReadState(memtables: state.memtables.map { $0 === damaged ? whole : $0 }, version: state.version)
            }
            plan = self.plan(whole)
            plan.damaged = damaged
            work.repairedMemtables += 1
            return true
        } catch {
            if case .readOnly = error { plan.verdict = error }
            throw error
        }
    }

    private func post(_ job: inout ShardJob, _ now: UInt64) {
        guard now >= job.retryAt else { return }
        // Every attempt writes a file of its own.
        job.descriptor.fileNumber = context.versions.newFileNumber()
        job.ticket = context.jobs.post(
            .flush, descriptor: job.descriptor.encode(), isLocal: job.isLocal || distrust.isActive(now))
        job.attempt = job.ticket?.generation ?? 0
        job.startedAt = now
    }

    private func collect(_ job: inout ShardJob, _ now: UInt64) -> EngineError? {
        guard let ticket = job.ticket else { return nil }
        let error: EngineError
        let isOwn: Bool
        switch context.jobs.outcome(ticket) {
        case .posted:
            return nil
        case .claimed(let node):
            if context.nodes.holdsLease(node) { return nil }
            // Its executor is dead or does not answer: nothing is lost, another one does it.
            takeBack(&job, ticket)
            work.lostLeases += 1
            return nil
        case .lost:
            takeBack(&job, ticket)
            return nil
        case .done(let bytes, let node):
            context.jobs.release(ticket)
            job.ticket = nil
            do throws(EngineError) {
                job.file = try verify(FlushResult.decode(bytes), job)
                job.isDone = true
                if context.nodes.isOwn(node) { work.localJobs += 1 } else { work.offloadedJobs += 1 }
                distrust.succeeded(isOwn: context.nodes.isOwn(node))
                work.seconds += Double(now - job.startedAt) / 1e9
                return nil
            } catch let refused {
                isOwn = context.nodes.isOwn(node)
                if case .corruption = refused { job.isSuspect = isOwn }
                error = refused
            }
        case .failed(let message, let node):
            context.jobs.release(ticket)
            job.ticket = nil
            isOwn = context.nodes.isOwn(node)
            let failure = JobFailure(encoded: message)
            job.isSuspect = isOwn && failure.isCorruption
            error = .io(operation: "flush (\(failure.message)) into", path: context.layout.table(job.descriptor.fileNumber),
                code: failure.posixCode)
        }
        discardTable(job)
        job.retryAt = now + FlushScheduler.retryNanoseconds
        distrust.failed(isOwn: isOwn, now)
        // What a worker could not do, the owner may: writers need not hear of it before that has failed, too.
        return isOwn ? error : nil
    }

    private func takeBack(_ job: inout ShardJob, _ ticket: JobTable.Ticket) {
        context.jobs.release(ticket)
        job.ticket = nil
        discardTable(job)
    }

    /// Removes what an attempt has written. An executor that comes back finds its claim gone and does the same.
    private func discardTable(_ job: ShardJob) {
        files.discard(AttemptFiles.Name(number: job.descriptor.fileNumber, attempt: job.attempt))
        work.failedJobs += 1
    }

    /// Gives the tables of a memtable their own names, durably; nil when that is done. When it fails, none of them is
    /// trusted: all jobs are to be done again.
    private func install(_ plan: inout Plan, _ now: UInt64) -> EngineError? {
        guard !plan.isInstalled else { return nil }
        do throws(EngineError) {
            try files.install(
                plan.shards.filter { $0.file != nil }.map {
                    AttemptFiles.Name(number: $0.descriptor.fileNumber, attempt: $0.attempt)
                })
            plan.isInstalled = true
            return nil
        } catch {
            for index in plan.shards.indices {
                discardTable(plan.shards[index])
                plan.shards[index].file = nil
                plan.shards[index].isDone = false
                plan.shards[index].retryAt = now + FlushScheduler.retryNanoseconds
            }
            return error
        }
    }

    /// Checks what an executor claims against the shard and against the table itself.
    private func verify(_ result: FlushResult?, _ job: ShardJob) throws(EngineError) -> FileMetadata? {
        let path = context.layout.table(job.descriptor.fileNumber, attempt: job.attempt)
        func refuse(_ expected: String, _ found: String) -> EngineError {
            .corruption(file: path, offset: 0, expected: expected, found: found)
        }
        guard let result else { throw refuse("a flush result", "other bytes") }
        guard result.entriesRead == job.expectedEntries else {
            throw refuse("\(job.expectedEntries) entries of the shard", "\(result.entriesRead)")
        }
        work.entriesIn += result.entriesRead
        work.entriesDropped += result.entriesDropped
        guard result.wroteTable else { return nil }
        let table = try context.tables.openForVerification(
            number: job.descriptor.fileNumber, attempt: job.attempt)
        let file = table.properties.metadata(number: job.descriptor.fileNumber, size: result.fileSize)
        guard file.size == result.fileSize, file.entryCount == result.entriesRead - result.entriesDropped,
            compareKeys(job.descriptor.lowerBound, file.smallest.userKey) <= 0
        else {
            throw refuse(
                "\(result.entriesRead - result.entriesDropped) entries in \(result.fileSize) bytes",
                "\(file.entryCount) in \(file.size)")
        }
        if let upper = job.descriptor.upperBound {
            guard compareKeys(file.largest.userKey, upper) <= 0 else {
                throw refuse("keys below the shard's upper bound", "a greater key")
            }
        }
        work.bytesWritten += file.size
        return file
    }

    private func commit(_ plan: Plan) throws(EngineError) {
        var edit = VersionEdit()
        edit.addedFiles = plan.shards.compactMap { job in job.file.map { (level: 0, file: $0) } }
        edit.flushedSequence = plan.memtable.lastSequence
        FaultPoint.beforeCommit.hit()
        try context.versions.logAndApply(edit)
        FaultPoint.afterCommit.hit()
        let version = context.versions.current
        context.holder.update { state in
            ReadState(memtables: state.memtables.filter { $0 !== plan.memtable }, version: version)
        }
        plan.memtable.markReleasable()
        plan.damaged?.markReleasable()
        work.bytesRead += UInt64(plan.memtable.reservedBytes)
        let now = monotonicNanoseconds()
        if let started = plan.shards.map(\.startedAt).min() {
            // From the later of its start and the commit before it: flushes of several memtables overlap.
            let seconds = Double(now - max(started, lastCommit)) / 1e9
            let speed = Double(plan.memtable.reservedBytes) / max(seconds, 0.001)
            bytesPerSecond = bytesPerSecond == 0 ? speed : bytesPerSecond * 0.7 + speed * 0.3
        }
        lastCommit = now
    }
}
