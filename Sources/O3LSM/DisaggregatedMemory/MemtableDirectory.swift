import Glibc
import Synchronization

/// The memtable slots of a region: what survives the death of every process and says which memtables
/// there are, in which state, and where their shards begin.
struct MemtableDirectory: @unchecked Sendable {
    // @unchecked: slots are written by the compute node only, states atomically.
    typealias Slot = RegionLayout.MemtableSlot

    private let region: Region

    init(_ region: Region) { self.region = region }

    var count: Int { Slot.count }

    /// The first free slot; nil when all are taken.
    ///
    /// - Parameter taken: slots that somebody fills and that do not count yet.
    func freeSlot(except taken: [Int] = []) -> Int? {
        (0..<Slot.count).first { state($0) == .free && !taken.contains($0) }
    }

    /// Share of the slots that are taken, 0 ... 1.
    var occupancy: Double { Double((0..<Slot.count).count { state($0) != .free }) / Double(Slot.count) }

    /// nil for a value that no version of the layout has used.
    func state(_ slot: Int) -> MemtableState? {
        MemtableState(rawValue: stateWord(slot).pointee.load(ordering: .acquiring))
    }

    func setState(_ slot: Int, _ state: MemtableState) {
        stateWord(slot).pointee.store(state.rawValue, ordering: .releasing)
    }

    /// Writes a slot's fields while it is free; `setState(.active)` makes it count.
    func initialise(_ slot: Int, memtableID: UInt64, filter: MemtableFilter) {
        let row = address(slot)
        memset(row, 0, Slot.bytes)
        row.storeBytes(of: memtableID, toByteOffset: Slot.memtableID, as: UInt64.self)
        row.storeBytes(of: filter.firstSlab + 1, toByteOffset: Slot.filterSlab, as: UInt32.self)
        row.storeBytes(
            of: UInt32(filter.slabs * RegionLayout.slabBytes), toByteOffset: Slot.filterBytes, as: UInt32.self)
    }

    func memtableID(_ slot: Int) -> UInt64 { address(slot).load(fromByteOffset: Slot.memtableID, as: UInt64.self) }
    func firstSequence(_ slot: Int) -> SequenceNumber {
        address(slot).load(fromByteOffset: Slot.firstSequence, as: UInt64.self)
    }
    func setFirstSequence(_ slot: Int, _ sequence: SequenceNumber) {
        address(slot).storeBytes(of: sequence, toByteOffset: Slot.firstSequence, as: UInt64.self)
    }
    func lastSequence(_ slot: Int) -> SequenceNumber {
        address(slot).load(fromByteOffset: Slot.lastSequence, as: UInt64.self)
    }
    func setLastSequence(_ slot: Int, _ sequence: SequenceNumber) {
        address(slot).storeBytes(of: sequence, toByteOffset: Slot.lastSequence, as: UInt64.self)
    }

    func filter(_ slot: Int) -> MemtableFilter? {
        let stored = address(slot).load(fromByteOffset: Slot.filterSlab, as: UInt32.self)
        let bytes = address(slot).load(fromByteOffset: Slot.filterBytes, as: UInt32.self)
        guard stored > 0 else { return nil }
        return MemtableFilter(
            region: region, firstSlab: stored - 1, slabs: Int(bytes) / RegionLayout.slabBytes)
    }

    /// Shards of a slot; a number above `maximumShards` is reported as it is, for the caller to refuse.
    func shardCount(_ slot: Int) -> Int {
        Int(sharedWord32(address(slot) + Slot.shardCount).pointee.load(ordering: .acquiring))
    }

    /// Adds a shard; it counts from the moment `shardCount` says so.
    func appendShard(_ slot: Int, lowerBound: [UInt8]) {
        let index = shardCount(slot)
        let row = shardAddress(slot, index)
        row.storeBytes(of: 0, toByteOffset: Slot.Shard.rootSlab, as: UInt32.self)
        row.storeBytes(of: UInt32(lowerBound.count), toByteOffset: Slot.Shard.boundaryLength, as: UInt32.self)
        lowerBound.withUnsafeBytes { source in
            if let base = source.baseAddress { memcpy(row + Slot.Shard.boundary, base, source.count) }
        }
        sharedWord32(address(slot) + Slot.shardCount).pointee.store(UInt32(index + 1), ordering: .releasing)
    }

    /// Names the first slab of a shard, which until then is empty.
    func setRootSlab(_ slot: Int, shard: Int, slab: UInt32) {
        sharedWord32(shardAddress(slot, shard) + Slot.Shard.rootSlab).pointee.store(slab + 1, ordering: .releasing)
    }

    /// nil while the shard is empty.
    func rootSlab(_ slot: Int, shard: Int) -> UInt32? {
        let stored = sharedWord32(shardAddress(slot, shard) + Slot.Shard.rootSlab).pointee.load(ordering: .acquiring)
        return stored == 0 ? nil : stored - 1
    }

    /// nil when the stored length is impossible.
    func lowerBound(_ slot: Int, shard: Int) -> [UInt8]? {
        let row = shardAddress(slot, shard)
        let length = Int(row.load(fromByteOffset: Slot.Shard.boundaryLength, as: UInt32.self))
        guard length <= Slot.Shard.maximumBoundaryLength else { return nil }
        return [UInt8](UnsafeRawBufferPointer(start: row + Slot.Shard.boundary, count: length))
    }

    private func stateWord(_ slot: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        sharedWord32(address(slot) + Slot.state)
    }
    private func address(_ slot: Int) -> UnsafeMutableRawPointer {
        region.base + Slot.offset + slot * Slot.bytes
    }
    private func shardAddress(_ slot: Int, _ shard: Int) -> UnsafeMutableRawPointer {
        address(slot) + Slot.shards + shard * Slot.shardBytes
    }
}
