extension Memtable {
    /// What the memtable takes and where.
    ///
    /// - Parameters:
    ///   - isRead: whether reads go to it.
    ///   - flushed: indices of shards whose tables are written.
    ///   - jobs: states of jobs that flush shards, by index of the shard.
    func occupancy(isRead: Bool, flushed: Set<Int>, jobs: [Int: String]) -> Statistics.MemtableState {
        let state = self.state
        let shards = map.shards.map { shard in
            Statistics.MemtableState.ShardState(
                index: shard.index,
                state: state == .active
                    ? "active"
                    : state == .flushed || flushed.contains(shard.index)
                        ? "flushed" : jobs[shard.index] == "claimed" ? "flushing" : "waiting",
                bytes: shard.reservedBytes, entries: shard.entryCount,
                slabs: shard.slabCount.load(ordering: .relaxed))
        }
        return Statistics.MemtableState(
            id: id, state: "\(state)", place: isInDM ? "dm" : "local", isRead: isRead, bytes: reservedBytes,
            entries: shards.reduce(0) { $0 &+ $1.entries }, filterSlabs: filter.slabs,
            slabs: shards.reduce(filter.slabs) { $0 + $1.slabs }, shards: shards)
    }
}

extension SlabOwners {
    /// Something of each memtable that lives, whoever holds it. `body` must not keep the memtable.
    func map<Result: Sendable>(_ body: (Memtable) -> sending Result) -> [Result] {
        memtables.withLock { memtables in
            memtables.values.map { memtable in memtable._withUnsafeGuaranteedRef { body($0) } }
        }
    }
}
