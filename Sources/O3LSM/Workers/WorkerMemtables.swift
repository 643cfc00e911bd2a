import Synchronization

/// A worker's views of sealed memtables in DM: made when a job first names one, kept for the jobs of its other
/// shards. Thread-safe.
///
/// The owner frees a memtable once its flush is committed. A worker that is late then reads slabs that hold
/// something else: every offset is checked against the slabs of its view, every entry against its checksum, and
/// its answer is refused; so it can do no harm.
final class WorkerMemtables: Sendable {
    private let region: Region
    private let allocator: SlabAllocator
    private let views = Mutex<[Memtable]>([])
    private static let kept = 2

    init(_ region: Region) {
        self.region = region
        // Only a name for the views: they give nothing back.
        allocator = SlabAllocator(slabCount: region.slabCount)
    }

    /// The memtable that a flush is about.
    ///
    /// - Throws: `.corruption` when the slot does not hold a sound memtable.
    /// - Returns: nil when the slot holds another one.
    func memtable(_ descriptor: FlushDescriptor) throws(EngineError) -> Memtable? {
        if let known = views.withLock({ $0.first { $0.id == descriptor.memtableID } }) { return known }
        let directory = MemtableDirectory(region)
        func isThere() -> Bool {
            directory.memtableID(descriptor.slot) == descriptor.memtableID
                && [.sealed, .flushing].contains(directory.state(descriptor.slot))
        }
        guard isThere() else { return nil }
        let view = try Memtable.attach(region: region, slot: descriptor.slot, allocator: allocator, isReader: true) {
            _ in true
        }
        for shard in view.map.shards {
            for tombstone in try shard.collectTombstones() { view.tombstones.add(tombstone) }
        }
        guard isThere(), view.id == descriptor.memtableID else { return nil }
        views.withLock { views in
            views.insert(view, at: 0)
            if views.count > WorkerMemtables.kept { views.removeLast() }
        }
        return view
    }
}
