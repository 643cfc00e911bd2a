/// Plans the flushes of sealed memtables and commits them, oldest memtable first.
///
/// A memtable's shards are flushed by independent jobs; when the last of them is done and every older
/// memtable has been committed, one version edit installs all the tables and moves the flushed sequence.
/// That is what keeps the store a prefix of its history. Consecutive memtables that wait may be flushed as one
/// (`FlushSchedule`): their overwritten versions never reach storage. Used by the control plane's thread only.
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
        var hasTombstones: Bool
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
        var patience = ExecutorPatience()
        /// A worker has taken too long: only the owner does it now.
        var isForOwner = false
        /// Of the shards, and of L0 over them when the job was planned.
        var bytes: Int
        var level0Depth: Int
    }
    private struct Plan {
        /// Oldest first; all are committed at once.
        var memtables: [Memtable]
        var shards: [ShardJob]
        var bytes: Int { memtables.reduce(0) { $0 + $1.reservedBytes } }
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
    private(set) var accounts = ExecutorAccounts()
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
    var pendingBytes: Int { plans.reduce(waitingBytes) { $0 + $1.bytes } }
    /// Bytes of sealed memtables that are not planned yet.
    private var waitingBytes = 0

    /// Jobs that are in the job table.
    var postedJobs: Int { plans.reduce(0) { $0 + $1.shards.count { $0.ticket != nil } } }

    /// Indices of shards whose tables are written while their memtables wait for others, by memtable.
    var flushedShards: [UInt64: Set<Int>] {
        plans.reduce(into: [:]) { result, plan in
            for source in plan.shards.filter(\.isDone).flatMap(\.descriptor.sources) {
                result[source.memtableID, default: []].insert(source.shard)
            }
        }
    }

    /// Whether a sealed memtable could not be planned yet, because batches in it are not visible.
    private(set) var mustLookAgain = false

    /// Makes plans for memtables that have been sealed since, as soon as executors can take their flushes: those that
    /// wait meanwhile may be flushed as one.
    func planSealedMemtables(_ situation: FlushSchedule.Situation) {
        mustLookAgain = false
        var waiting: [Memtable] = []
        for memtable in context.holder.current.memtables.reversed()
        where memtable.state == .sealed && !plans.contains(where: { $0.memtables.contains { $0 === memtable } }) {
            // A batch that was reserved before the seal may still be on its way.
            guard context.region.visibleSequence >= memtable.lastSequence else {
                mustLookAgain = true
                break
            }
            // Commits go oldest first: younger ones would wait for it.
            guard isReady(memtable) else { break }
            waiting.append(memtable)
        }
        while !waiting.isEmpty, unfinishedJobs < FlushSchedule.window(situation) {
            let count = FlushSchedule.mergeCount(waiting, situation)
            plans.append(plan(Array(waiting[..<count])))
            for memtable in waiting[..<count] { memtable.setState(.flushing) }
            if count > 1 { work.mergedMemtables += count }
            waiting.removeFirst(count)
        }
        waitingBytes = waiting.reduce(0) { $0 + $1.reservedBytes }
    }

    private var unfinishedJobs: Int { plans.reduce(0) { $0 + $1.shards.count { !$0.isDone } } }

    /// - Parameter memtables: with the same boundaries, in one place, oldest first.
    private func plan(_ memtables: [Memtable]) -> Plan {
        let maps = memtables.map(\.map)
        let level0 = context.versions.current.levels[0]
        // Others lie beyond all entries: they keep none of them from hiding another.
        let flushed = context.versions.flushedSequence
        let last = memtables.last?.lastSequence ?? maximumSequenceNumber
        let snapshots = context.snapshots.sequences.filter { $0 > flushed && $0 < last }
        var shards: [ShardJob] = []
        for position in maps[0].shards.indices {
            let lower = maps[0].shards[position].lowerBound
            let upper = maps[0].upperBound(position)
            var sources: [FlushDescriptor.Source] = []
            var points: UInt64 = 0
            var hasTombstones = false
            var bytes = 0
            for (memtable, map) in zip(memtables, maps) {
                let shard = map.shards[position]
                // Counts in DM may be damaged: then the flush finds another number and is refused.
                let count = shard.entryCount &- shard.tombstoneCount
                // A tombstone that begins in one shard may reach over others: they get their piece of it.
                let isCovered = !memtable.tombstones.tombstones(from: lower, to: upper).isEmpty
                guard count > 0 || isCovered else { continue }
                hasTombstones = hasTombstones || isCovered
                sources.append(
                    FlushDescriptor.Source(memtableID: memtable.id, slot: memtable.slot, shard: shard.index))
                points &+= count
                bytes += shard.reservedBytes
            }
            guard !sources.isEmpty else { continue }
            let range = KeyRange(begin: lower, end: upper ?? [], isEndInclusive: false)
            let depth = level0.count { file in
                !KeyRange(file).isBefore(range) && (upper == nil || !range.isBefore(KeyRange(file)))
            }
            shards.append(
                ShardJob(
                    descriptor: FlushDescriptor(
                        sources: sources, lowerBound: lower, upperBound: upper, fileNumber: 0,
                        snapshots: snapshots, blockSize: context.options.blockSize,
                        compression: context.options.compression,
                        bloomBitsPerKey: context.options.bloomBitsPerKey),
                    expectedEntries: points, hasTombstones: hasTombstones, isLocal: !memtables[0].isInDM, bytes: bytes,
                    level0Depth: depth))
        }
        return Plan(memtables: memtables, shards: shards)
    }

    /// Offers the flushes that are due, in their order, as far as the window reaches.
    private func offer(_ situation: FlushSchedule.Situation, _ now: UInt64) {
        var places: [(plan: Int, shard: Int)] = []
        var candidates: [FlushSchedule.Candidate] = []
        for (age, plan) in plans.enumerated() where plan.verdict == nil {
            for (index, job) in plan.shards.enumerated() where !job.isDone && job.ticket == nil && now >= job.retryAt {
                candidates.append(
                    FlushSchedule.Candidate(
                        age: age, bytes: job.bytes, level0Depth: job.level0Depth, index: places.count))
                places.append((age, index))
            }
        }
        let room = max(0, FlushSchedule.window(situation) - postedJobs)
        for candidate in FlushSchedule.order(candidates, situation).prefix(room) {
            let place = places[candidate.index]
            post(&plans[place.plan].shards[place.shard], now)
        }
    }

    /// Collects what is done, offers what waits, commits what is complete.
    ///
    /// - Returns: the memtables that were committed, the error of the newest failed attempt, and why a commit failed.
    /// - Throws: what ends all flushes.
    func step(_ situation: FlushSchedule.Situation) throws(EngineError) -> (
        committed: [Memtable], failure: EngineError?, refusal: EngineError?
    ) {
        var failure: EngineError?
        let now = monotonicNanoseconds()
        for plan in plans.indices where plans[plan].verdict == nil {
            for shard in plans[plan].shards.indices where plans[plan].shards[shard].ticket != nil {
                if let error = collect(&plans[plan].shards[shard], situation, now) { failure = error }
            }
        }
        while let suspect = plans.firstIndex(where: { $0.isSuspect && $0.memtables.count > 1 }) { separate(suspect) }
        // Nobody need hear of what is mended.
        for plan in plans.indices where plans[plan].verdict == nil && plans[plan].isSuspect {
            if try repair(&plans[plan]) { failure = nil }
        }
        offer(situation, now)
        if let verdict = plans.lazy.compactMap(\.verdict).first { throw verdict }
        var committed: [Memtable] = []
        while let plan = plans.first, plan.shards.allSatisfy(\.isDone) {
            if let error = install(&plans[0], now) {
                failure = error
                break
            }
            do throws(EngineError) { try commit(plan) } catch { return (committed, failure, error) }
            committed += plan.memtables
            plans.removeFirst()
        }
        return (committed, failure, nil)
    }

    /// Flushes the memtables of a plan one by one: each that is whole goes its way, and damage is found where it is.
    private func separate(_ index: Int) {
        let merged = plans[index]
        for job in merged.shards { abandon(job) }
        plans.replaceSubrange(index...index, with: merged.memtables.map { plan([$0]) })
        work.mergedMemtables -= merged.memtables.count
    }

    /// Forgets what a job has come to.
    private func abandon(_ job: ShardJob) {
        if let ticket = job.ticket { context.jobs.release(ticket) }
        discardTable(job)
    }

    /// Puts a memtable that has been made again in the place of a damaged one, and begins its flush anew.
    ///
    /// - Returns: false when that has been done before: then the trouble is another one.
    /// - Throws: why that cannot be, which stays so.
    private func repair(_ plan: inout Plan) throws(EngineError) -> Bool {
        let damaged = plan.memtables[0]
        let repair = MemtableRepair(storage: context.storage, layout: context.layout, region: context.region)
        guard plan.damaged == nil else {
            for index in plan.shards.indices { plan.shards[index].isSuspect = false }
            return false
        }
        do throws(EngineError) {
            let whole = try repair.rebuild(damaged)
            for job in plan.shards { abandon(job) }
            whole.setState(.flushing)
            context.holder.update { state in
                ReadState(memtables: state.memtables.map { $0 === damaged ? whole : $0 }, version: state.version)
            }
            plan = self.plan([whole])
            plan.damaged = damaged
            work.repairedMemtables += 1
            return true
        } catch {
            if case .readOnly = error { plan.verdict = error }
            throw error
        }
    }

    private func post(_ job: inout ShardJob, _ now: UInt64) {
        // Every attempt writes a file of its own.
        job.descriptor.fileNumber = context.versions.newFileNumber()
        job.ticket = context.jobs.post(
            .flush, descriptor: job.descriptor.encode(),
            isLocal: job.isLocal || job.isForOwner || distrust.isActive(now))
        job.attempt = job.ticket?.generation ?? 0
        job.startedAt = now
        job.patience = ExecutorPatience()
    }

    private func collect(_ job: inout ShardJob, _ situation: FlushSchedule.Situation, _ now: UInt64) -> EngineError? {
        guard let ticket = job.ticket else { return nil }
        let error: EngineError
        let isOwn: Bool
        switch context.jobs.outcome(ticket) {
        case .posted:
            return nil
        case .claimed(let node):
            if context.nodes.holdsLease(node) {
                let isOver = job.patience.isOver(now, bytes: UInt64(job.bytes), bytesPerSecond: bytesPerSecond)
                guard isOver, !context.nodes.isOwn(node), situation.isMemoryScarce else { return nil }
                // It lives, but its thread hangs or is too slow, and writers wait.
                job.isForOwner = true
                distrust.failed(isOwn: false, now)
            }
            // Nothing is lost, another one does it.
            takeBack(&job, ticket)
            work.lostLeases += 1
            accounts.failed(context.nodes.executor(node))
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
                work.bytesRead += UInt64(job.bytes)
                accounts.done(
                    context.nodes.executor(node), read: UInt64(job.bytes), written: job.file?.size ?? 0)
                distrust.succeeded(isOwn: context.nodes.isOwn(node))
                work.seconds += Double(now - job.startedAt) / 1e9
                return nil
            } catch let refused {
                isOwn = context.nodes.isOwn(node)
                accounts.failed(context.nodes.executor(node))
                if case .corruption = refused { job.isSuspect = isOwn }
                error = refused
            }
        case .failed(let message, let node):
            context.jobs.release(ticket)
            job.ticket = nil
            isOwn = context.nodes.isOwn(node)
            accounts.failed(context.nodes.executor(node))
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
    private func verify(_ result: FlushResult?, _ job: ShardJob) throws(EngineError) -> FileMetadata {
        let path = context.layout.table(job.descriptor.fileNumber, attempt: job.attempt)
        func refuse(_ expected: String, _ found: String) -> EngineError {
            .corruption(file: path, offset: 0, expected: expected, found: found)
        }
        guard let result else { throw refuse("a flush result", "other bytes") }
        guard result.entriesRead == job.expectedEntries else {
            throw refuse("\(job.expectedEntries) entries of the shards", "\(result.entriesRead)")
        }
        guard result.entriesDropped <= result.entriesRead else {
            throw refuse("at most \(result.entriesRead) entries dropped", "\(result.entriesDropped)")
        }
        // The newest entry of a key stays, or else the tombstone that hides it: nothing is planned that leaves no table.
        guard result.wroteTable else { throw refuse("a table of \(result.entriesRead) entries", "none") }
        let table = try context.tables.openForVerification(
            number: job.descriptor.fileNumber, attempt: job.attempt)
        let file = table.properties.metadata(number: job.descriptor.fileNumber, size: table.file.size)
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
        guard file.rangeTombstoneCount > 0 || !job.hasTombstones else {
            throw refuse("the shards' range tombstones", "none")
        }
        work.entriesIn += result.entriesRead
        work.entriesDropped += result.entriesDropped
        work.bytesWritten += file.size
        return file
    }

    private func commit(_ plan: Plan) throws(EngineError) {
        var edit = VersionEdit()
        edit.addedFiles = plan.shards.compactMap { job in job.file.map { (level: 0, file: $0) } }
        edit.flushedSequence = plan.memtables.last?.lastSequence
        FaultPoint.beforeCommit.hit()
        try context.versions.logAndApply(edit)
        FaultPoint.afterCommit.hit()
        let version = context.versions.current
        context.holder.update { state in
            ReadState(memtables: state.memtables.filter { old in !plan.memtables.contains { $0 === old } }, version: version)
        }
        for memtable in plan.memtables { memtable.markReleasable() }
        plan.damaged?.markReleasable()
        let now = monotonicNanoseconds()
        if let started = plan.shards.map(\.startedAt).min() {
            // From the later of its start and the commit before it: flushes of several memtables overlap.
            let seconds = Double(now - max(started, lastCommit)) / 1e9
            let speed = Double(plan.bytes) / max(seconds, 0.001)
            bytesPerSecond = bytesPerSecond == 0 ? speed : bytesPerSecond * 0.7 + speed * 0.3
        }
        lastCommit = now
    }
}
