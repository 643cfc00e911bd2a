import Foundation
import O3FileSystem
import O3LSM
import Synchronization

/// What is wrong with a store, and what a person can do about it. Keys in JSON are stable.
struct Trouble: Codable, Equatable, Sendable {
    /// One sentence.
    var what: String
    var wayOut: String
    /// How often it was met, where it is counted, and when last, seconds since 1970.
    var count: UInt64?
    var last: UInt64?

    enum CodingKeys: String, CodingKey {
        case what, count, last
        case wayOut = "way_out"
    }
}

/// Remembers the failures that programs were answered with, for `o3fs status`. Thread-safe.
final class TroubleLedger: Sendable {
    private struct Noted {
        /// The same for what is told once.
        var cause: String
        var trouble: Trouble
    }

    private let troubles = Mutex<[Noted]>([])

    /// Different ones that are remembered; the oldest make room.
    private static let limit = 8

    func note(_ error: FileSystemError) {
        var cause = error.description
        // Each try of the log begins another file: it is the directory that storage refuses.
        if case .engine(.io(let operation, let path, let code)) = error {
            cause = "\(operation) \((path as NSString).deletingLastPathComponent) \(code)"
        }
        let noted = Trouble(what: error.description, wayOut: Self.wayOut(error), count: 1, last: UInt64(clamping: time(nil)))
        troubles.withLock { troubles in
            var trouble = noted
            if let known = troubles.firstIndex(where: { $0.cause == cause }) {
                trouble.count = (troubles.remove(at: known).trouble.count ?? 0) + 1
            } else if troubles.count == Self.limit {
                troubles.removeFirst()
            }
            troubles.append(Noted(cause: cause, trouble: trouble))
        }
    }

    /// Of a damaged table that a scrub has found.
    func note(_ error: EngineError) { note(.engine(error)) }

    /// What is wrong now, the worst first: refused writes, a full store, failed work in the background, and what was
    /// noted, the newest first.
    func report(_ statistics: Statistics, space: FileSystemSpace?, workers: WorkerSupervisor.Health? = nil) -> [Trouble] {
        var found: [Trouble] = []
        if let error = statistics.writeError {
            let isFull = space?.freeBlocks == 0
            found.append(
                Trouble(
                    what: "writes are refused: \(error)",
                    wayOut: isFull
                        ? Self.makeRoom
                        : "reads go on; see to the storage, then unmount and mount again: what was not synced since may "
                            + "be lost if the machine fails before"))
        } else if space?.freeBlocks == 0 {
            found.append(Trouble(what: "there is no space left for data", wayOut: Self.makeRoom))
        }
        if let space, space.totalInodes > 0, space.freeInodes == 0 {
            found.append(
                Trouble(
                    what: "the store has as many files as --max-inodes allows",
                    wayOut: "delete files, or mount with a higher --max-inodes"))
        }
        found += Self.stalls(statistics)
        if statistics.dm.isNameLost {
            found.append(
                Trouble(
                    what: "the store's object in /dev/shm was deleted or replaced: a daemon that comes later does not "
                        + "find it",
                    wayOut: "nothing is lost, but every write waits for the log, and workers have left: o3fs upgrade, or "
                        + "unmounting and mounting again, makes new memory; see to what deletes files there (RemoveIPC= "
                        + "in logind.conf)"))
        }
        if let failure = statistics.lastFailure, let age = statistics.lastFailureAgeSeconds, age < Self.recentSeconds,
            statistics.writeError == nil
        {
            found.append(
                Trouble(
                    what: "work in the background failed \(duration(age)) ago and is done again: \(failure)",
                    wayOut: "see to the storage if it goes on; nothing is lost"))
        }
        if let workers, workers.deaths > 0, workers.running < workers.wanted || Self.isRecent(workers.last) {
            found.append(
                Trouble(
                    what: "a worker of this mount died, the last by \(workers.lastCause); \(workers.running) of "
                        + "\(workers.wanted) run now",
                    wayOut: "nothing is lost: others are started, and the daemon does what they do not; the mount's log tells "
                        + "of each",
                    count: workers.deaths, last: UInt64(clamping: workers.last)))
        }
        for worker in statistics.workers where worker.heartbeatAgeSeconds >= Self.longSilenceSeconds {
            found.append(
                Trouble(
                    what: "worker \(worker.pid) has given no sign of life for \(duration(worker.heartbeatAgeSeconds))",
                    wayOut: "nothing is lost, and others do its work; end the process if it hangs"))
        }
        if let note = statistics.recovery.note {
            found.append(
                Trouble(
                    what: "the memory of the last daemon could not be used: \(note)",
                    wayOut: "nothing to be done: what was synced, or the log had, is there"))
        }
        return found + troubles.withLock { $0.reversed().map(\.trouble) }
    }

    /// Writers that wait, for so long that a person may ask why.
    private static func stalls(_ statistics: Statistics) -> [Trouble] {
        func waited(_ cause: StallCause) -> String? {
            guard let stall = statistics.stalls[cause.rawValue], stall.longestWaitSeconds >= longWaitSeconds else { return nil }
            return "writers have waited for \(duration(stall.longestWaitSeconds))"
        }
        var found: [Trouble] = []
        if let waited = waited(.dmFull) {
            let size = readableBytes(UInt64(clamping: statistics.dm.regionBytes))
            found.append(
                Trouble(
                    what: "\(waited): the \(size) of disaggregated memory are full of what has to be flushed first",
                    wayOut: "nothing is lost, and they go on as flushes do; if it lasts: faster storage, more workers, or a "
                        + "larger --dm-size"))
        }
        if let waited = waited(.l0Full) {
            found.append(
                Trouble(
                    what: "\(waited): level 0 has \(statistics.levels.first?.files ?? 0) tables that have to be compacted first",
                    wayOut: "nothing is lost, and they go on as compactions do; if it lasts: faster storage, or more workers"))
        }
        return found
    }

    private static func isRecent(_ seconds: time_t) -> Bool { Double(time(nil) - seconds) < recentSeconds }

    private static let longWaitSeconds = 2.0
    private static let longSilenceSeconds = 10.0
    private static let recentSeconds = 600.0
    private static let makeRoom =
        "delete files or snapshots (o3fs snapshot list), give the disk room, or mount with a higher --max-size; "
        + "o3fs compact gives back what overwritten data takes"

    private static func wayOut(_ error: FileSystemError) -> String {
        switch error {
        case .corruptRow: return "unmount, then o3fs repair says what it can make right"
        case .engine(.corruption), .engine(.unsupportedFormat):
            return "o3fs scrub names all damaged tables; take back what is in them from a backup (o3fs import), or unmount, "
                + "and o3fs repair says what can be read of them; then look to the disk"
        case .engine(.readOnly): return "see to the storage, then unmount and mount again"
        case .engine(let error) where error.isOutOfSpace: return makeRoom
        default: return "see to the storage, and to o3fs.log in the store"
        }
    }
}
