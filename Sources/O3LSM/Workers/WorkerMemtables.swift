import Synchronization

/// What a worker reads of sealed memtables in DM: a copy of the shard for each job, and of each memtable the range
/// tombstones, which are read once for the jobs of all its shards. Thread-safe.
final class WorkerMemtables: Sendable {
    private struct Tombstones {
        var memtableID: UInt64
        var list: [RangeTombstone]
    }

    private let region: Region
    private let known = Mutex<[Tombstones]>([])
    private static let kept = 4

    init(_ region: Region) { self.region = region }

    /// A memtable with the shard that a flush is about, and with all its range tombstones.
    ///
    /// - Throws: `.corruption` when the slot does not hold a sound memtable.
    /// - Returns: nil when the slot holds another one.
    func memtable(_ wanted: FlushDescriptor.Source) throws(EngineError) -> Memtable? {
        let source = MemtableCopy(region, slot: wanted.slot, memtableID: wanted.memtableID)
        guard let tombstones = try tombstones(of: wanted.memtableID, source),
            let copy = try source.shard(wanted.shard)
        else { return nil }
        for tombstone in tombstones { copy.tombstones.add(tombstone) }
        return copy
    }

    private func tombstones(of memtableID: UInt64, _ source: MemtableCopy) throws(EngineError) -> [RangeTombstone]? {
        if let found = known.withLock({ $0.first { $0.memtableID == memtableID } }) { return found.list }
        guard let list = try source.tombstones() else { return nil }
        known.withLock { known in
            known.insert(Tombstones(memtableID: memtableID, list: list), at: 0)
            if known.count > WorkerMemtables.kept { known.removeLast() }
        }
        return list
    }
}
