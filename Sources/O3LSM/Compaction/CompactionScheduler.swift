import Glibc
import Synchronization

/// Plans compactions, posts them as jobs, verifies what comes back and commits it. Used by the control
/// plane's thread only.
final class CompactionScheduler {
    /// A caller's wish to compact a key range (nil: unbounded; `end` is exclusive).
    struct ManualRequest: Sendable {
        var id: UInt64
        var begin: [UInt8]?
        var end: [UInt8]?
    }

    /// One descriptor on its way through an executor.
    private struct Part {
        var descriptor: CompactionDescriptor
        var ticket: JobTable.Ticket?
        /// What the names of its tables carry; nil when they have their own.
        var attempt: UInt64?
        var patience = ExecutorPatience()
        /// Set when the descriptor is too long for the job table and runs on a thread of its own.
        var direct: DirectRun?
        var result: CompactionResult?
        /// Whose the result is.
        var executor: ExecutorAccounts.Executor?
    }
    private struct Running {
        var compaction: Compaction
        var parts: [Part]
        var failure: EngineError?
        /// A worker died at a part, stopped answering or failed: it is done again, in the end by the owner.
        var hasLostPart = false
        var offloadedParts = 0
        var startedAt: UInt64
        /// Whether the tables have their own names. From then on they stay: a manifest that could not be synced may
        /// name them all the same.
        var isInstalled = false
        /// Committed, or given up.
        var isConcluded = false

        var isOver: Bool { parts.allSatisfy { $0.ticket == nil && $0.direct == nil } }
    }

    private let context: FlushScheduler.Context
    private let executor: CompactionExecutor
    private let files: AttemptFiles
    private(set) var work = Statistics.Work()
    private(set) var accounts = ExecutorAccounts()
    private var running: [Running] = []
    private var manual: [(id: UInt64, work: ManualCompaction)] = []
    private var unfinishedManual = Set<UInt64>()
    /// The number of the newest request; later ones are greater.
    private var lastRequest: UInt64 = 0
    private var distrust = WorkerDistrust()
    /// After want of room nothing is begun before this.
    private var retryAt: UInt64 = 0
    private var failed = FailedCompactions()
    /// Recent speed of emptying L0, bytes a second; 0 before the first compaction.
    private(set) var l0BytesPerSecond = 0.0
    private var depthOf: (version: ObjectIdentifier, depth: Int)?
    /// Tables with range tombstones that were there at the last search for covered tables.
    private var searchedTables = Set<UInt64>()
    /// Sequences that snapshots held then.
    private var searchedSnapshots: [SequenceNumber] = []
    private var space = StorageSpace.ample

    /// Tables to be written again without what range tombstones hide, the one with most of it last.
    private var trims: [(level: Int, file: FileMetadata)] = []
    private var trimsSearchedIn: Version?
    private var nextTrimSearch: UInt64 = 0
    /// Between two searches, while space is not scarce yet.
    private static let trimSearchNanoseconds: UInt64 = 500_000_000

    /// How long the scheduler waits after want of room before it tries again, in nanoseconds.
    private static let retryNanoseconds: UInt64 = 500_000_000

    init(_ context: FlushScheduler.Context) {
        self.context = context
        executor = CompactionExecutor(storage: context.storage, layout: context.layout, tables: context.tables)
        files = AttemptFiles(storage: context.storage, layout: context.layout)
    }

    /// What executes an encoded descriptor in this process.
    static func executor(_ context: FlushScheduler.Context)
        -> @Sendable (_ descriptor: [UInt8], _ attempt: UInt64, _ shouldStop: () -> Bool) throws(EngineError) -> [UInt8]
    {
        let executor = CompactionExecutor(storage: context.storage, layout: context.layout, tables: context.tables)
        return { descriptor, attempt, shouldStop throws(EngineError) in
            try executor.run(encoded: descriptor, attempt: attempt, shouldStop: shouldStop)
        }
    }

    func add(_ requests: [ManualRequest]) {
        for request in requests {
            lastRequest = request.id
            unfinishedManual.insert(request.id)
            manual.append(
                (
                    request.id,
                    ManualCompaction(
                        begin: request.begin, end: request.end, nextFileNumber: context.versions.newFileNumber())
                ))
        }
    }

    /// Whether a request was added, and nothing of it is left.
    func isFinished(_ id: UInt64) -> Bool { id <= lastRequest && !unfinishedManual.contains(id) }

    /// Whether nothing runs and, as far as the last step saw, nothing is due.
    var isIdle: Bool {
        running.isEmpty && manual.isEmpty && failed.error == nil && monotonicNanoseconds() >= retryAt
    }

    /// Why nothing runs although something is due: it has failed and waits, or what was asked for needs more room than
    /// there is. nil: there is no such reason.
    var obstacle: EngineError? {
        guard running.isEmpty else { return nil }
        if let error = failed.error { return error }
        guard !manual.isEmpty, space.freeBytes != nil, monotonicNanoseconds() >= retryAt else { return nil }
        return .io(operation: "compact", path: context.layout.tableDirectory, code: ENOSPC)
    }

    /// Nobody waits for requests any more. What runs for them goes on to its end.
    func dropRequests() {
        manual = []
        unfinishedManual = []
    }

    /// The greatest number of L0 tables over one key.
    func l0Depth(_ version: Version) -> Int {
        if let depthOf, depthOf.version == ObjectIdentifier(version) { return depthOf.depth }
        let depth = Level0Columns(version.levels[0]).maximumDepth
        depthOf = (ObjectIdentifier(version), depth)
        return depth
    }

    /// Collects and commits what is done, then starts what is due.
    ///
    /// - Parameter space: where there is little, only what fits is started, and what frees space comes first.
    /// - Returns: whether the tree has changed, and the error of the newest failed job.
    func step(space: StorageSpace) throws(EngineError) -> (changed: Bool, failure: EngineError?) {
        self.space = space
        var changed = try dropCoveredTables()
        var failure: EngineError?
        for index in running.indices { collect(&running[index]) }
        do {
            // One whose commit throws stays, and is committed again.
            defer { running.removeAll(where: \.isConcluded) }
            for index in running.indices where running[index].isOver {
                if let error = try conclude(&running[index]) { failure = error } else { changed = true }
            }
        }
        let now = monotonicNanoseconds()
        failed.release(now)
        guard now >= retryAt else { return (changed, failure) }
        while let compaction = pick() {
            if compaction.isTrivialMove {
                try move(compaction)
                changed = true
            } else {
                start(compaction)
            }
        }
        return (changed, failure)
    }

    /// Ends what runs on threads of its own; nothing is collected after this.
    func stop() {
        for part in running.flatMap(\.parts) { part.direct?.stop() }
    }

    /// Jobs that are in the job table.
    var postedJobs: Int { running.reduce(0) { $0 + $1.parts.count { $0.ticket != nil } } }

    // MARK: Starting

    /// Parts that may run at once.
    private var capacity: Int { max(context.options.compactionThreads, context.nodes.capacity(for: .compaction)) }
    private var runningParts: Int { running.reduce(0) { $0 + $1.parts.count { $0.result == nil } } }

    private func picker() -> CompactionPicker {
        CompactionPicker(
            levels: context.versions.current.levels, options: context.options,
            inFlight: running.map(\.compaction), spaceBytes: space.freeBytes, isSpaceScarce: space.isScarce,
            oldestSnapshot: context.snapshots.sequences.first)
    }

    private func pick() -> Compaction? {
        let hasRoom = runningParts < capacity
        var index = 0
        while index < manual.count {
            switch manual[index].work.next(picker(), nextFileNumber: context.versions.newFileNumber()) {
            case .compact(let compaction):
                if hasRoom || compaction.isTrivialMove { return compaction }
                return nil
            case .wait:
                index += 1
            case .done:
                unfinishedManual.remove(manual[index].id)
                manual.remove(at: index)
            }
        }
        guard hasRoom, !context.options.disableAutomaticCompaction else { return nil }
        let picker = picker()
        return picker.pick() ?? pickTrim(picker)
    }

    /// On a disk with little room: one table, written again without what range tombstones above it hide. It needs room for itself
    /// only, where the compaction of a table of tombstones needs as much as all that they lie over.
    private func pickTrim(_ picker: CompactionPicker) -> Compaction? {
        guard space.freeBytes != nil else {
            (trims, trimsSearchedIn) = ([], nil)
            return nil
        }
        let version = context.versions.current
        let now = monotonicNanoseconds()
        if trims.isEmpty, trimsSearchedIn !== version, space.isScarce || now >= nextTrimSearch {
            trimsSearchedIn = version
            nextTrimSearch = now + Self.trimSearchNanoseconds
            trims = findTrims(version)
        }
        while let next = trims.popLast() {
            guard version.levels[next.level].contains(where: { $0 === next.file }),
                var trim = picker.assemble(.tombstones, [next.file], from: next.level, to: next.level)
            else { continue }
            let range = KeyRange(next.file)
            trim.tombstoneSources = version.levels.joined().filter {
                $0.rangeTombstoneCount > 0 && $0 !== next.file && KeyRange($0).overlaps(range)
                    && $0.largestSequence > next.file.largestSequence
            }
            return trim
        }
        return nil
    }

    /// A table is worth it when a part of this size, 1/32, is hidden.
    private static let smallestHiddenPart: UInt64 = 32

    private func findTrims(_ version: Version) -> [(level: Int, file: FileMetadata)] {
        // A table that cannot be read is left to its readers, who report it.
        guard
            let covered = try? CoveredTables(
                version: version, snapshots: context.snapshots.sequences, tables: context.tables)
        else { return [] }
        var found: [(bytes: UInt64, level: Int, file: FileMetadata)] = []
        for level in 1..<version.levels.count {
            for file in version.levels[level] where !file.isBeingCompacted.load(ordering: .relaxed) {
                guard let table = try? context.tables.table(file),
                    let bytes = try? covered.hiddenBytes(of: file, table)
                else { continue }
                if bytes > 0, bytes >= file.size / Self.smallestHiddenPart { found.append((bytes, level, file)) }
            }
        }
        return found.sorted { $0.bytes < $1.bytes }.map { ($0.level, $0.file) }
    }

    /// Whether space is about to come back: what deleted data takes, or what inputs take until outputs replace them.
    var isReclaiming: Bool { !running.isEmpty || !trims.isEmpty }

    private func start(_ compaction: Compaction) {
        compaction.setBusy(true)
        let versions = context.versions
        let descriptors = compaction.descriptors(
            options: context.options, snapshots: context.snapshots.sequences,
            maximumParts: max(1, capacity - runningParts)
        ) { count in versions.newFileNumbers(count) }
        var parts: [Part] = []
        for descriptor in descriptors {
            let encoded = descriptor.encode()
            var part = Part(descriptor: descriptor)
            part.ticket = context.jobs.post(
                .compaction, descriptor: encoded, isLocal: distrust.isActive(monotonicNanoseconds()))
            part.attempt = part.ticket?.generation
            if part.ticket == nil { part.direct = DirectRun(executor, descriptor) }
            parts.append(part)
        }
        running.append(
            Running(compaction: compaction, parts: parts, failure: nil, startedAt: monotonicNanoseconds()))
    }

    /// Takes out tables that range tombstones hide whole, once for each table of tombstones that comes, and for each
    /// snapshot that goes.
    private func dropCoveredTables() throws(EngineError) -> Bool {
        let version = context.versions.current
        let sources = Set(version.levels.joined().lazy.filter { $0.rangeTombstoneCount > 0 }.map(\.number))
        let snapshots = context.snapshots.sequences
        let isOneReleased = !Set(searchedSnapshots).isSubset(of: snapshots)
        searchedSnapshots = snapshots
        guard !sources.isSubset(of: searchedTables) || ((isOneReleased || space.isScarce) && !sources.isEmpty),
            !context.options.disableAutomaticCompaction
        else { return false }
        searchedTables = sources
        let covered: CoveredTables
        do throws(EngineError) {
            covered = try CoveredTables(version: version, snapshots: snapshots, tables: context.tables)
        } catch {
            // A damaged table hides nothing for certain; whoever reads it reports it.
            return false
        }
        var edit = VersionEdit()
        for (level, files) in version.levels.enumerated() {
            for file in files where !file.isBeingCompacted.load(ordering: .relaxed) && covered.cover(file) {
                edit.deletedFiles.append((level, file.number))
            }
        }
        guard !edit.deletedFiles.isEmpty else { return false }
        try commit(edit)
        work.droppedTables += edit.deletedFiles.count
        return true
    }

    private func move(_ compaction: Compaction) throws(EngineError) {
        var edit = VersionEdit()
        for input in compaction.inputs {
            edit.deletedFiles += input.files.map { (input.level, $0.number) }
            edit.addedFiles += input.files.map { (compaction.outputLevel, $0) }
        }
        try commit(edit)
        work.trivialMoves += compaction.files.count
    }

    // MARK: Ending

    private func collect(_ run: inout Running) {
        let now = monotonicNanoseconds()
        let isLevel0Deep = l0Depth(context.versions.current) >= context.options.l0SlowdownTrigger
        for index in run.parts.indices {
            if let ticket = run.parts[index].ticket {
                switch context.jobs.outcome(ticket) {
                case .posted: continue
                case .claimed(let node):
                    if context.nodes.holdsLease(node) {
                        let isOver = run.parts[index].patience.isOver(
                            now, bytes: run.compaction.inputBytes, bytesPerSecond: l0BytesPerSecond)
                        guard isOver, !context.nodes.isOwn(node), isLevel0Deep else { continue }
                        // It lives, but its thread hangs or is too slow, and writers are slowed down.
                        distrust.failed(isOwn: false, now)
                    }
                    run.hasLostPart = true
                    work.lostLeases += 1
                    accounts.failed(context.nodes.executor(node))
                case .lost: run.hasLostPart = true
                case .done(let bytes, let node):
                    if !context.nodes.isOwn(node) { run.offloadedParts += 1 }
                    distrust.succeeded(isOwn: context.nodes.isOwn(node))
                    run.parts[index].executor = context.nodes.executor(node)
                    do throws(EngineError) {
                        run.parts[index].result = try bytes.withEngineBytes { bytes throws(EngineError) in
                            try CompactionResult.decode(bytes, source: "compaction result")
                        }
                    } catch { run.failure = error }
                case .failed(let message, let node):
                    let failure = JobFailure(encoded: message)
                    if failure.posixCode == E2BIG {
                        context.jobs.release(ticket)
                        runDirectly(&run.parts[index])
                        continue
                    }
                    let isOwn = context.nodes.isOwn(node)
                    accounts.failed(context.nodes.executor(node))
                    distrust.failed(isOwn: isOwn, now)
                    if isOwn {
                        run.failure = .io(
                            operation: "compact (\(failure.message)) in", path: context.layout.tableDirectory,
                            code: failure.posixCode)
                    } else {
                        run.hasLostPart = true
                    }
                }
                context.jobs.release(ticket)
                run.parts[index].ticket = nil
            } else if let direct = run.parts[index].direct, let outcome = direct.outcome {
                direct.join()
                switch outcome {
                case .success(let result):
                    run.parts[index].result = result
                    run.parts[index].executor = context.nodes.ownExecutor
                case .failure(let error):
                    run.failure = error
                    accounts.failed(context.nodes.ownExecutor)
                }
                run.parts[index].direct = nil
            }
        }
    }

    /// Does a part again whose result is too long for the job table.
    private func runDirectly(_ part: inout Part) {
        work.failedJobs += 1
        part.ticket = nil
        part.attempt = nil
        files.discard(part.descriptor.isOutput)
        part.direct = DirectRun(executor, part.descriptor)
    }

    /// Commits a finished compaction, or gives it up.
    ///
    /// - Throws: what the manifest throws. The compaction is neither done nor given up then.
    private func conclude(_ run: inout Running) throws(EngineError) -> EngineError? {
        if !run.isInstalled {
            if run.failure == nil, run.hasLostPart {
                giveUp(&run)
                return nil
            }
            if let problem = run.failure ?? refusal(of: &run) ?? installation(of: run) {
                giveUp(&run)
                if run.failure == nil, run.offloadedParts > 0 {
                    distrust.failed(isOwn: false, monotonicNanoseconds())
                    return nil
                }
                let now = monotonicNanoseconds()
                if problem.isOutOfSpace {
                    retryAt = now + CompactionScheduler.retryNanoseconds
                } else {
                    failed.add(run.compaction, problem, now)
                }
                return problem
            }
            run.isInstalled = true
        }
        let results = run.parts.compactMap(\.result)
        var edit = VersionEdit()
        for input in run.compaction.inputs { edit.deletedFiles += input.files.map { (input.level, $0.number) } }
        edit.addedFiles = results.flatMap(\.outputs).map { (run.compaction.outputLevel, $0) }
        FaultPoint.beforeCommit.hit()
        try commit(edit)
        account(run, CompactionResult.joining(results))
        run.compaction.setBusy(false)
        failed.forget(run.compaction)
        run.isConcluded = true
        return nil
    }

    private func giveUp(_ run: inout Running) {
        discardTables(run)
        run.compaction.setBusy(false)
        run.isConcluded = true
    }

    /// Removes what the parts have written. An executor that comes back finds its claim gone and does the same.
    private func discardTables(_ run: Running) {
        work.failedJobs += 1
        for executor in run.parts.compactMap(\.executor) { accounts.failed(executor) }
        files.discard { number in run.parts.contains { $0.descriptor.isOutput(number) } }
    }

    /// Gives the tables their own names; nil when that is done.
    private func installation(of run: Running) -> EngineError? {
        do throws(EngineError) {
            try files.install(
                run.parts.flatMap { part in
                    (part.result?.outputs ?? []).map { AttemptFiles.Name(number: $0.number, attempt: part.attempt) }
                })
            return nil
        } catch { return error }
    }

    /// Why the results cannot be installed; nil when they can. Their outputs are then what the tables themselves say.
    private func refusal(of run: inout Running) -> EngineError? {
        do throws(EngineError) {
            let descriptors = run.parts.map(\.descriptor)
            // First what is claimed: only tables with numbers of the job are opened.
            try run.compaction.validate(run.parts.compactMap(\.result), of: descriptors)
            for index in run.parts.indices {
                guard var result = run.parts[index].result else { continue }
                var outputs: [FileMetadata] = []
                for file in result.outputs { outputs.append(try verified(file, run.parts[index].attempt)) }
                result.outputs = outputs
                // Sums of what may be claimed could overflow.
                result.bytesWritten = outputs.reduce(0) { $0 + $1.size }
                result.bytesRead = min(result.bytesRead, run.compaction.inputBytes)
                run.parts[index].result = result
            }
            return nil
        } catch { return error }
    }

    /// What a table says of itself, which must be what its executor has said.
    private func verified(_ claim: FileMetadata, _ attempt: UInt64?) throws(EngineError) -> FileMetadata {
        let table = try context.tables.openForVerification(number: claim.number, attempt: attempt)
        let found = table.properties.metadata(number: claim.number, size: table.file.size)
        guard found.describesSameTable(as: claim) else {
            throw .corruption(
                file: context.layout.table(claim.number, attempt: attempt), offset: 0,
                expected: "the table that its executor described", found: "another")
        }
        return found
    }

    private func commit(_ edit: VersionEdit) throws(EngineError) {
        try context.versions.logAndApply(edit)
        let version = context.versions.current
        context.holder.update { ReadState(memtables: $0.memtables, version: version) }
    }

    private func account(_ run: Running, _ result: CompactionResult) {
        work.offloadedJobs += run.offloadedParts
        work.localJobs += run.parts.count - run.offloadedParts
        for part in run.parts {
            guard let executor = part.executor, let result = part.result else { continue }
            accounts.done(executor, read: result.bytesRead, written: result.bytesWritten)
        }
        work.bytesRead += result.bytesRead
        work.bytesWritten += result.bytesWritten
        work.entriesIn += result.entriesIn
        work.entriesDropped += result.entriesDropped
        let seconds = Double(monotonicNanoseconds() - run.startedAt) / 1e9
        work.seconds += seconds
        let l0Bytes = run.compaction.inputs.filter { $0.level == 0 }.flatMap(\.files).reduce(0) { $0 + $1.size }
        guard l0Bytes > 0 else { return }
        let speed = Double(l0Bytes) / max(seconds, 0.001)
        l0BytesPerSecond = l0BytesPerSecond == 0 ? speed : l0BytesPerSecond * 0.7 + speed * 0.3
    }
}
