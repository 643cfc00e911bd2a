import Synchronization

/// A walk over a shard's entries in arrival order, which is the order of their sequence numbers. It needs
/// no index: the entries are the truth.
struct ShardScan {
    private let shard: Shard
    private(set) var offset: Int
    private(set) var current: EntryView?
    /// Offset of `current`.
    private(set) var currentOffset: UInt32 = 0

    init(_ shard: Shard) {
        self.shard = shard
        offset = RegionLayout.ShardRoot.firstEntry
    }

    /// Steps to the next entry that was reserved before now; false at the end. The entry is complete only
    /// when its sequence is visible. Entries that recovery took out are passed over.
    ///
    /// - Throws: `.corruption` when an allocation leads out of its slab.
    mutating func next() throws(EngineError) -> Bool {
        current = nil
        guard !shard.isEmpty else { return false }
        let end = shard.used
        let slabBytes = RegionLayout.slabBytes
        while offset < end {
            let slab = offset >> Int(RegionLayout.slabShift)
            let room = slabBytes - (offset & (slabBytes - 1))
            guard slab < shard.slabCount.load(ordering: .acquiring) else {
                throw shard.corruption(at: UInt32(truncatingIfNeeded: offset), "an entry", "no slab")
            }
            let pointer = shard.address(offset)
            let allocation = pointer.load(as: UInt32.self)
            if allocation == RegionLayout.Entry.skipRest {
                offset += room
                continue
            }
            guard allocation >= UInt32(RegionLayout.Entry.links), Int(allocation) <= room, allocation % 8 == 0 else {
                throw shard.corruption(
                    at: UInt32(truncatingIfNeeded: offset), "an allocation of at most \(room) bytes", "\(allocation)")
            }
            let view = EntryView(pointer: pointer)
            currentOffset = UInt32(truncatingIfNeeded: offset)
            offset += Int(allocation)
            if view.kindByte == RegionLayout.Entry.deadKind { continue }
            current = view
            return true
        }
        return false
    }
}
