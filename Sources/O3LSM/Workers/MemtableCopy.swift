import Glibc
import Synchronization

/// One shard of a sealed memtable, and the range tombstones of all of it, copied out of DM by a process that does
/// not own it.
///
/// A late worker may find the slabs of its shard given to another memtable while it reads them. So it reads them
/// once, into memory of its own, and asks afterwards whether the memtable is still there: the owner frees slabs only
/// after the slot has said so, hence what was copied before is the shard. In the copy nothing changes any more
/// between the check of a length or a link and its use, whatever it is. A copy runs at the speed of memory, a walk
/// along links at its latency: across a fabric it would be the better way, too.
struct MemtableCopy {
    private typealias Slot = RegionLayout.MemtableSlot
    private typealias Root = RegionLayout.ShardRoot

    private let region: Region
    private let slot: Int
    private let memtableID: UInt64

    init(_ region: Region, slot: Int, memtableID: UInt64) {
        self.region = region
        self.slot = slot
        self.memtableID = memtableID
    }

    /// Whether the memtable is sealed in its slot, and has been since whatever was read before.
    private var isThere: Bool {
        atomicMemoryFence(ordering: .acquiring)
        let directory = MemtableDirectory(region)
        return directory.memtableID(slot) == memtableID && [.sealed, .flushing].contains(directory.state(slot))
    }

    /// A memtable in private memory that holds the shard with this index; the others are empty in it.
    ///
    /// - Returns: nil when the slot holds another memtable, or does so by the end of the copy.
    /// - Throws: `.corruption` of what is in DM; `.io` without memory.
    func shard(_ index: Int) throws(EngineError) -> Memtable? {
        guard isThere else { return nil }
        do throws(EngineError) {
            let copy = try makeMemtable(keeping: index)
            return isThere ? copy : nil
        } catch {
            // What looks like damage may be another memtable's bytes by now.
            guard isThere else { return nil }
            throw error
        }
    }

    /// The range tombstones of all shards.
    ///
    /// - Returns, Throws: as `shard`.
    func tombstones() throws(EngineError) -> [RangeTombstone]? {
        guard isThere else { return nil }
        let directory = MemtableDirectory(region)
        var found: [RangeTombstone] = []
        for index in 0..<min(directory.shardCount(slot), Slot.maximumShards) {
            guard let number = directory.rootSlab(slot, shard: index), let root = region.slab(number),
                root.load(fromByteOffset: Root.tombstoneCount, as: UInt32.self) > 0
            else { continue }
            guard let copy = try shard(index) else { return nil }
            for shard in copy.map.shards { found += try shard.collectTombstones() }
        }
        return isThere ? found : nil
    }

    private func makeMemtable(keeping index: Int) throws(EngineError) -> Memtable {
        // The row first: what is in it is checked and used only in the copy.
        let row = region.base + Slot.offset + slot * Slot.bytes
        let rootField = Slot.shards + index * Slot.shardBytes + Slot.Shard.rootSlab
        let number = row.load(fromByteOffset: rootField, as: UInt32.self)
        let slabs = number == 0 ? [] : try slabs(from: number - 1, index)
        let copy = try Region.createPrivate(
            size: RegionLayout.firstSlabOffset + (1 + slabs.count) * RegionLayout.slabBytes)
        let target = copy.base + Slot.offset + slot * Slot.bytes
        memcpy(target, row, Slot.bytes)
        // Nobody looks for single keys here: an empty filter of one slab will do.
        target.storeBytes(of: 1, toByteOffset: Slot.filterSlab, as: UInt32.self)
        target.storeBytes(of: UInt32(RegionLayout.slabBytes), toByteOffset: Slot.filterBytes, as: UInt32.self)
        for other in 0..<Slot.maximumShards {
            let field = Slot.shards + other * Slot.shardBytes + Slot.Shard.rootSlab
            target.storeBytes(of: other == index && !slabs.isEmpty ? 2 : 0, toByteOffset: field, as: UInt32.self)
        }
        for (position, slab) in slabs.enumerated() {
            // Both were checked, one when the list was made, the other by the size of the copy.
            guard let from = region.slab(slab), let to = copy.slab(UInt32(position + 1)) else { continue }
            memcpy(to, from, RegionLayout.slabBytes)
        }
        // Only the table of slabs says where the arena lies; everything else is relative to it.
        if let root = slabs.isEmpty ? nil : copy.slab(1) {
            root.storeBytes(of: UInt32(slabs.count), toByteOffset: Root.slabCount, as: UInt32.self)
            for position in slabs.indices {
                root.storeBytes(
                    of: UInt32(position + 1), toByteOffset: Root.slabTable + 4 * position, as: UInt32.self)
            }
        }
        return try Memtable.attach(
            region: copy, slot: slot, allocator: SlabAllocator(slabCount: copy.slabCount), isReader: true
        ) { _ in true }
    }

    /// The slabs of a shard, all of them in the region.
    private func slabs(from first: UInt32, _ index: Int) throws(EngineError) -> [UInt32] {
        func corrupt(_ expected: String, _ found: String) -> EngineError {
            .corruption(
                file: "DM region \(region.name), memtable \(memtableID), shard \(index)", offset: 0,
                expected: expected, found: found)
        }
        guard let root = region.slab(first) else { throw corrupt("a slab of the region", "slab \(first)") }
        let count = Int(root.load(fromByteOffset: Root.slabCount, as: UInt32.self))
        guard count >= 1, count <= Root.maximumSlabs else { throw corrupt("1 to \(Root.maximumSlabs) slabs", "\(count)") }
        var slabs: [UInt32] = [first]
        for position in 1..<max(count, 1) {
            let slab = root.load(fromByteOffset: Root.slabTable + 4 * position, as: UInt32.self)
            guard slab < UInt32(region.slabCount) else { throw corrupt("a slab of the region", "slab \(slab)") }
            slabs.append(slab)
        }
        return slabs
    }
}
