/// What the owner of a store tells of its nodes, jobs and memory.
extension EngineCore {
    /// Fills in the nodes and the jobs in the table.
    func fillNodes(_ statistics: inout Statistics) {
        let now = monotonicNanoseconds()
        let shares = control.busyShares
        func row(_ node: NodeTable.Node) -> Statistics.Node {
            Statistics.Node(
                pid: node.processID, roles: node.roles.map { "\($0)" }.sorted(), load: Int(node.load),
                capacity: Int(node.capacity), finishedJobs: node.finished, busyShare: shares[node.index] ?? 0,
                heartbeatAgeSeconds: now > node.heartbeat ? Double(now - node.heartbeat) / 1e9 : 0)
        }
        let nodes = NodeTable(region).nodes()
        statistics.workers = nodes.filter { $0.role == .worker }.map(row)
        // A reader is nobody's owner.
        statistics.owner = options.readOnly ? nil : nodes.first { $0.index == node }.map(row)

        let processIDs = Dictionary(uniqueKeysWithValues: nodes.map { ($0.index, $0.processID) })
        var shardBytes: [UInt64: [Int: Int]] = [:]
        for memtable in statistics.dm.memtables where memtable.isRead {
            for shard in memtable.shards { shardBytes[memtable.id, default: [:]][shard.index] = shard.bytes }
        }
        statistics.jobs = JobTable(region).postedJobs().compactMap { job in
            Statistics.Job(job, now: now, processIDs: processIDs) { memtable, shard in
                UInt64(shardBytes[memtable]?[shard] ?? 0)
            }
        }
    }

    /// Fills in what DM holds: the memtables that reads go to, from new to old, and then those that somebody still
    /// holds on to.
    func fillOccupancy(_ statistics: inout Statistics, _ state: ReadState) {
        var jobs: [UInt64: [Int: String]] = [:]
        for job in JobTable(region).postedJobs() where job.kind == .flush {
            guard let flush = FlushDescriptor.decode(job.descriptor) else { continue }
            for source in flush.sources { jobs[source.memtableID, default: [:]][source.shard] = "\(job.state)" }
        }
        let flushed = control.flushedShards
        func describe(_ memtable: Memtable, isRead: Bool) -> Statistics.MemtableState {
            memtable.occupancy(isRead: isRead, flushed: flushed[memtable.id] ?? [], jobs: jobs[memtable.id] ?? [:])
        }
        statistics.dm.regionBytes = region.size
        statistics.dm.slabs = allocator.slabCount
        statistics.dm.freeSlabs = allocator.available
        let read = Set(state.memtables.map(ObjectIdentifier.init))
        statistics.dm.memtables = state.memtables.map { describe($0, isRead: true) }
            + allocator.owners.map { read.contains(ObjectIdentifier($0)) ? nil : describe($0, isRead: false) }
            .compactMap { $0 }.sorted { $0.id > $1.id }
        let described = statistics.dm.memtables.reduce(0) { $0 + ($1.place == "dm" ? $1.slabs : 0) }
        statistics.dm.slabsOnTheWay = max(0, allocator.slabCount - statistics.dm.freeSlabs - described)
        if let fabric = region.fabric {
            statistics.dm.paidRoundTrips = fabric.paidRoundTrips
            statistics.dm.paidBytes = fabric.paidBytes
        }
    }
}
