import CSystem
import Glibc

/// The compute node's knowledge of its workers: who lives, who makes progress, who is gone. Used by the control
/// plane's thread.
///
/// A death is noticed through the process's pidfd at the next look; a process that lives and does not beat (it
/// is stopped, or swamped) loses its lease when its heartbeat is older than that.
final class NodeWatch {
    /// How old a heartbeat may be before its node's claims are taken back.
    private let leaseNanoseconds: UInt64
    private static let lookNanoseconds: UInt64 = 20_000_000

    private let nodes: NodeTable
    private let ownNode: Int
    /// By row of the node table.
    private var descriptors: [Int: (processID: Int32, startTime: UInt64, descriptor: Int32)] = [:]
    private var lastLook: UInt64 = 0
    /// Live workers of this build that hold their lease.
    private(set) var workers: [NodeTable.Node] = []

    init(_ region: Region, ownNode: Int, leaseMilliseconds: Int) {
        leaseNanoseconds = UInt64(leaseMilliseconds) * 1_000_000
        nodes = NodeTable(region)
        self.ownNode = ownNode
    }

    deinit { for watched in descriptors.values { close(watched.descriptor) } }

    /// Looks again, if the last look was long enough ago.
    func refresh() {
        let now = monotonicNanoseconds()
        guard now &- lastLook >= NodeWatch.lookNanoseconds else { return }
        lastLook = now
        let rows = nodes.attachedRows().filter { $0.index != ownNode && $0.role == .worker }
        for (index, watched) in descriptors where !rows.contains(where: { $0.index == index && $0.processID == watched.processID && $0.startTime == watched.startTime }) {
            close(watched.descriptor)
            descriptors[index] = nil
        }
        workers = rows.filter { isRunning($0) && $0.build == BuildIdentity.current && !hasLapsed($0, now) }
    }

    /// Whether a claim of this node counts.
    func holdsLease(_ node: Int) -> Bool {
        if node == ownNode || workers.contains(where: { $0.index == node }) { return true }
        // It may have come since the last look.
        lastLook = 0
        refresh()
        return workers.contains { $0.index == node }
    }

    func isOwn(_ node: Int) -> Bool { node == ownNode }

    /// Whose account is charged with what a node does.
    func executor(_ node: Int) -> ExecutorAccounts.Executor {
        .init(isOwner: isOwn(node), processID: node < RegionLayout.Node.count ? nodes.processID(node) : 0)
    }
    /// The owner's account.
    var ownExecutor: ExecutorAccounts.Executor { executor(ownNode) }

    /// Whether somebody else executes jobs of the kind.
    func hasWorkers(for kind: JobKind) -> Bool { workers.contains { $0.roles.contains(kind) } }

    /// Jobs of the kind that workers can execute at once.
    func capacity(for kind: JobKind) -> Int {
        workers.reduce(0) { $0 + ($1.roles.contains(kind) ? Int($1.capacity) : 0) }
    }

    private func hasLapsed(_ node: NodeTable.Node, _ now: UInt64) -> Bool {
        now > node.heartbeat && now - node.heartbeat > leaseNanoseconds
    }

    private func isRunning(_ node: NodeTable.Node) -> Bool {
        if descriptors[node.index] == nil {
            let descriptor = o3_pidfd_open(node.processID)
            // The id may have been given to another process by now: its start tells.
            guard descriptor >= 0, processStartTime(node.processID) == node.startTime else {
                if descriptor >= 0 { close(descriptor) }
                return descriptor == -EPERM || descriptor == -ENOSYS ? nodes.isAlive(node.index) : false
            }
            descriptors[node.index] = (node.processID, node.startTime, descriptor)
        }
        guard let watched = descriptors[node.index] else { return false }
        var question = pollfd(fd: watched.descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&question, 1, 0) == 0
    }
}
