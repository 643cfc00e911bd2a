import Glibc
import Synchronization

/// A place in the engine where a test may let the process die, as kill -9 would.
///
/// A child process of a test names the point and the hit in the environment, `O3LSM_FAULT=mid-insert:17`:
/// the 17th time that any thread comes by, the process kills itself. In release builds nothing of this
/// exists.
enum FaultPoint: String, CaseIterable, Sendable {
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

    /// Dies here if the plan says so.
    @inline(__always)
    func hit() {
        #if DEBUG
            FaultPlan.current?.hit(self)
        #endif
    }
}

#if DEBUG
    /// What the environment asks for. Thread-safe.
    private final class FaultPlan: Sendable {
        static let current = FaultPlan()

        private let point: FaultPoint
        private let remaining: Atomic<Int>

        /// nil when there is no plan, or none that can be read.
        init?() {
            guard let text = getenv("O3LSM_FAULT") else { return nil }
            let parts = String(cString: text).split(separator: ":")
            guard parts.count == 2, let point = FaultPoint(rawValue: String(parts[0])), let hits = Int(parts[1])
            else { return nil }
            self.point = point
            remaining = Atomic(hits)
        }

        func hit(_ point: FaultPoint) {
            guard point == self.point else { return }
            if remaining.wrappingSubtract(1, ordering: .relaxed).newValue == 0 { kill(getpid(), SIGKILL) }
        }
    }
#endif
