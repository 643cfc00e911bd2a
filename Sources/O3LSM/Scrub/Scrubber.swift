import CSystem
import Glibc
import Synchronization

/// Reads every table of an open store from storage and checks every checksum, in the background and at a bounded rate,
/// so that damage is found while there is still a backup that has none. Thread-safe. Named after what ZFS and btrfs do.
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
    private let bell = Atomic<UInt32>(0)
    private let holder: ReadStateHolder
    private let tables: TableCache

    /// Between the beginning of a scrub and that of the next, where they repeat.
    private static let intervalSeconds = 7 * 86_400

    init(holder: ReadStateHolder, tables: TableCache) {
        self.holder = holder
        self.tables = tables
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

    /// Begins a scrub now and every week from now on. Call once.
    func startRepeating(bytesPerSecond: UInt64?, tell: @escaping @Sendable (EngineError) -> Void) throws(EngineError) {
        let repeater = try BackgroundThread("o3-scrubs", priority: .low) { [self] in
            while !isStopping.load(ordering: .acquiring) {
                let ticket = bell.load(ordering: .acquiring)
                // The next week is another chance.
                _ = try? start(bytesPerSecond: bytesPerSecond, tell: tell)
                if isStopping.load(ordering: .acquiring) { return }
                var week = timespec(tv_sec: Self.intervalSeconds, tv_nsec: 0)
                withUnsafePointer(to: bell) { word in
                    _ = o3_futex_wait(UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), ticket, &week)
                }
            }
        }
        shared.withLock { $0.repeater = repeater }
    }

    /// Ends what runs, and waits for it.
    func stop() {
        isStopping.store(true, ordering: .releasing)
        bell.wrappingAdd(1, ordering: .releasing)
        withUnsafePointer(to: bell) { word in
            _ = o3_futex_wake(UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), Int32.max)
        }
        let threads = shared.withLock { shared in
            defer { (shared.thread, shared.repeater) = (nil, nil) }
            return [shared.repeater, shared.thread]
        }
        for thread in threads { thread?.join() }
    }

    private func run(_ files: [FileMetadata], _ limiter: RateLimiter?, _ tell: (EngineError) -> Void) {
        for file in files {
            do throws(EngineError) {
                try check(file, limiter)
                shared.withLock { $0.report?.tables += 1 }
            } catch .closed {
                return end(.stopped)
            } catch {
                tell(error)
                shared.withLock {
                    $0.report?.tables += 1
                    $0.report?.problems.append(error.description)
                }
            }
        }
        end(.done)
    }

    /// - Throws: `.closed` when the scrub is to end; what is wrong with the table.
    private func check(_ file: FileMetadata, _ limiter: RateLimiter?) throws(EngineError) {
        let table = try tables.openForVerification(number: file.number)
        // What the system remembers of the file says nothing about storage.
        table.file.forgetCached()
        guard table.file.size == file.size, table.properties.entryCount == file.entryCount,
            table.properties.rangeTombstoneCount == file.rangeTombstoneCount
        else {
            throw .corruption(
                file: table.file.path, offset: 0, expected: "\(file.size) bytes, \(file.entryCount) entries",
                found: "\(table.file.size) bytes, \(table.properties.entryCount) entries")
        }
        try table.verify { bytes throws(EngineError) in
            limiter?.acquire(UInt64(bytes)) { isStopping.load(ordering: .acquiring) }
            shared.withLock { $0.report?.bytes += UInt64(bytes) }
            if isStopping.load(ordering: .acquiring) { throw .closed }
        }
    }

    private func end(_ state: ScrubReport.State) {
        shared.withLock {
            $0.report?.state = state
            $0.report?.ended = UInt64(clamping: time(nil))
        }
    }
}
