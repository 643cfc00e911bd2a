import CSystem
import Glibc
import Synchronization

/// Reads every table of an open store, and of its snapshots, from storage and checks every checksum, in the background
/// and at a bounded rate, so that damage is found while there is still a backup that has none. Thread-safe. Named after
/// what ZFS and btrfs do.
///
/// One scrub runs at a time. It sees the tables of the version with which it began.
final class Scrubber: Sendable {
    private struct Shared {
        var report: ScrubReport?
        /// Of the running scrub, or of the last one.
        var thread: BackgroundThread?
        var repeater: BackgroundThread?
        var nextID: UInt64 = 1
    }
    private let shared = Mutex(Shared())
    private let isStopping = Atomic<Bool>(false)
    private let bell = PrivateDoorbell()
    private let holder: ReadStateHolder
    private let storage: any Storage
    private let layout: StoreLayout

    /// Between the beginning of a scrub and that of the next, where they repeat.
    private static let intervalSeconds = 7 * 86_400

    init(holder: ReadStateHolder, storage: any Storage, layout: StoreLayout) {
        self.holder = holder
        self.storage = storage
        self.layout = layout
    }

    /// The running scrub, or the last one; nil: there was none.
    var report: ScrubReport? { shared.withLock { $0.report } }

    /// Begins a scrub unless one runs.
    ///
    /// - Parameters:
    ///   - bytesPerSecond: nil: no bound.
    ///   - tell: called for each damaged table, from the scrub's thread.
    /// - Returns: the id of the scrub that runs.
    @discardableResult
    func start(bytesPerSecond: UInt64?, tell: @escaping @Sendable (EngineError) -> Void) throws(EngineError) -> UInt64 {
        let outcome = shared.withLock { shared -> Result<UInt64, EngineError> in
            if let report = shared.report, report.state == .running { return .success(report.id) }
            guard !isStopping.load(ordering: .acquiring) else { return .failure(.closed) }
            // The last one's is at its end.
            shared.thread?.join()
            shared.thread = nil
            let files = holder.current.version.levels.flatMap { $0 }
            var report = ScrubReport(id: shared.nextID, state: .running, started: UInt64(clamping: time(nil)))
            report.tablesTotal = files.count
            report.bytesTotal = files.reduce(0) { $0 + $1.size }
            report.bytesPerSecond = bytesPerSecond
            do throws(EngineError) {
                shared.thread = try BackgroundThread("o3-scrub", priority: .low) { [self] in
                    run(files, bytesPerSecond.map { RateLimiter(bytesPerSecond: $0) }, tell)
                }
            } catch { return .failure(error) }
            shared.nextID += 1
            shared.report = report
            return .success(report.id)
        }
        return try outcome.get()
    }

    /// Begins a scrub now and every week from now on. Call once. `tell` is also called for one that cannot begin.
    func startRepeating(bytesPerSecond: UInt64?, tell: @escaping @Sendable (EngineError) -> Void) throws(EngineError) {
        let repeater = try BackgroundThread("o3-scrubs", priority: .low) { [self] in
            while !isStopping.load(ordering: .acquiring) {
                let ticket = bell.ticket
                do throws(EngineError) { try start(bytesPerSecond: bytesPerSecond, tell: tell) } catch {
                    if isStopping.load(ordering: .acquiring) { return }
                    // The next week is another chance.
                    tell(error)
                }
                if isStopping.load(ordering: .acquiring) { return }
                bell.wait(since: ticket, milliseconds: Self.intervalSeconds * 1000)
            }
        }
        shared.withLock { $0.repeater = repeater }
    }

    /// Ends what runs, and waits for it.
    func stop() {
        isStopping.store(true, ordering: .releasing)
        bell.ring()
        let threads = shared.withLock { shared in
            defer { (shared.thread, shared.repeater) = (nil, nil) }
            return [shared.repeater, shared.thread]
        }
        for thread in threads { thread?.join() }
    }

    private func run(_ files: [FileMetadata], _ limiter: RateLimiter?, _ tell: (EngineError) -> Void) {
        let known = SnapshotDirectory.identities(files, layout, storage)
        let (kept, problems) = SnapshotDirectory(store: layout.root, storage: storage).tables(besides: known)
        shared.withLock {
            $0.report?.tablesTotal += kept.count
            $0.report?.bytesTotal += kept.reduce(0) { $0 + $1.file.size }
        }
        for problem in problems { note(problem, tell) }
        let own = files.map { VerifiedTable(path: layout.table($0.number), file: $0, snapshot: nil) }
        for table in own + kept {
            do throws(EngineError) {
                try table.verify(storage) { bytes throws(EngineError) in
                    limiter?.acquire(UInt64(bytes)) { isStopping.load(ordering: .acquiring) }
                    shared.withLock { $0.report?.bytes += UInt64(bytes) }
                    if isStopping.load(ordering: .acquiring) { throw .closed }
                }
            } catch .closed {
                return end(.stopped)
            } catch {
                // A snapshot may be deleted at any time.
                if table.snapshot.map(storage.exists) ?? true { note(error, tell) }
            }
            shared.withLock { $0.report?.tables += 1 }
        }
        end(.done)
    }

    private func note(_ problem: EngineError, _ tell: (EngineError) -> Void) {
        tell(problem)
        shared.withLock { $0.report?.problems.append(problem.description) }
    }

    private func end(_ state: ScrubReport.State) {
        shared.withLock {
            $0.report?.state = state
            $0.report?.ended = UInt64(clamping: time(nil))
        }
    }
}
