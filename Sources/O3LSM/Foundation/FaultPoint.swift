import Glibc
import Synchronization

/// A place in the engine where a test may let the process die, as kill -9 would.
///
/// A child process of a test names the point and the hit in the environment, `O3LSM_FAULT=mid-insert:17`:
/// the 17th time that any thread comes by, the process kills itself. `mid-insert:17:stop` stops it instead, until
/// somebody continues it; `mid-insert:17:group` kills its whole process group. In release builds nothing of this
/// exists, unless they are made with `-DFAULT_POINTS`.
package enum FaultPoint: String, CaseIterable, Sendable {
    /// Some entries of a batch have their room, others have none yet.
    case midReserve = "mid-reserve"
    /// An entry is filled and not linked.
    case midInsert = "mid-insert"
    /// An entry is linked on some of its levels.
    case betweenLinks = "between-links"
    /// All entries of a batch are linked; it is not visible.
    case beforePublish = "before-publish"
    /// The old memtable is sealed, the new one not active.
    case midSeal = "mid-seal"
    /// Some pieces of a memtable have been copied to DM.
    case midTransfer = "mid-transfer"
    /// All of it has been copied, and does not count yet.
    case beforeInstall = "before-install"
    /// Some entries of a shard are in the table.
    case midFlush = "mid-flush"
    /// The tables are on storage, the manifest does not name them.
    case beforeCommit = "before-commit"
    /// The edit is in the manifest's file, which is not synced.
    case beforeManifestSync = "before-manifest-sync"
    /// The manifest names the tables, the memtable is still in DM.
    case afterCommit = "after-commit"
    /// A record of the log is in its file, which is not synced.
    case midLogWrite = "mid-log-write"
    /// Some of the log has been read back into DM.
    case midReplay = "mid-replay"
    /// Some of a shard's entries that never became visible have been taken out.
    case midTrim = "mid-trim"
    /// A process has taken a row of the node table and not filled it.
    case midAttach = "mid-attach"
    /// A job is in the table; nobody has seen it.
    case jobPosted = "job-posted"
    /// An executor has claimed a job and not begun.
    case jobClaimed = "job-claimed"
    /// Some entries of a compaction's inputs have been merged.
    case midCompaction = "mid-compaction"
    /// A job's result is in its slot, whose word still says that it is being executed.
    case resultWritten = "result-written"
    /// A job is done; its executor has not rung.
    case jobDone = "job-done"
    /// The owner has seen that a job is done and not taken its result.
    case beforeCollect = "before-collect"
    /// Tables have been checked and do not have their own names.
    case beforeRename = "before-rename"
    /// A request of a mount that must not be done twice is done, and not answered.
    case beforeAnswer = "before-answer"

    /// Those that the engine comes by on its own, without a mount.
    static var ofEngine: [FaultPoint] { allCases.filter { $0 != .beforeAnswer } }

    /// Dies here if the plan says so.
    @inline(__always)
    package func hit() {
        #if DEBUG || FAULT_POINTS
            FaultPlan.current?.hit(self)
        #endif
    }
}

#if DEBUG || FAULT_POINTS
    /// What the environment asks for. Thread-safe.
    private final class FaultPlan: Sendable {
        static let current = FaultPlan()

        private enum Action: String {
            case kill
            case stop
            case group
        }

        private let point: FaultPoint
        private let action: Action
        private let remaining: Atomic<Int>

        /// nil when there is no plan, or none that can be read.
        init?() {
            guard let text = getenv("O3LSM_FAULT") else { return nil }
            let parts = String(cString: text).split(separator: ":")
            guard parts.count == 2 || parts.count == 3, let point = FaultPoint(rawValue: String(parts[0])), let hits = Int(parts[1])
            else { return nil }
            guard let action = parts.count == 3 ? Action(rawValue: String(parts[2])) : .kill else { return nil }
            self.point = point
            self.action = action
            remaining = Atomic(hits)
        }

        func hit(_ point: FaultPoint) {
            guard point == self.point else { return }
            guard remaining.wrappingSubtract(1, ordering: .relaxed).newValue == 0 else { return }
            switch action {
            case .kill: kill(getpid(), SIGKILL)
            case .stop: kill(getpid(), SIGSTOP)
            case .group: kill(0, SIGKILL)
            }
        }
    }
#endif
