@testable import O3LSM

/// A sealed memtable in a region of its own, for tests that look at it, or damage it, without a store.
struct PrivateMemtable {
    let region: Region
    let memtable: Memtable

    /// `count` entries whose values have `valueBytes`, in one shard; every tenth a range tombstone if `hasTombstones`.
    init(count: Int, valueBytes: Int, hasTombstones: Bool = false, regionBytes: Int = 32 << 20) throws {
        region = try Region.createPrivate(size: regionBytes)
        let allocator = SlabAllocator(slabCount: region.slabCount)
        guard
            let memtable = Memtable.create(
                id: 7, region: region, allocator: allocator, boundaries: [], memtableSize: 1 << 20)
        else { throw EngineError.closed }
        self.memtable = memtable
        memtable.activate(firstSequence: 1)
        var splice = Splice()
        let shard = memtable.map.shards[0]
        for number in 1...count {
            let isTombstone = hasTombstones && number % 10 == 0
            let key = Array("key\(100_000 + number)".utf8)
            let value = isTombstone ? key + [0] : [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: valueBytes)
            let height = 1 + number.trailingZeroBitCount / 2
            let bytes = Shard.allocationBytes(height: height, key: key.count, value: value.count)
            let offset = memtable.reserve(shard, bytes, UInt64(number))
            guard offset != 0 else { throw EngineError.closed }
            key.withUnsafeBytes { key in
                value.withUnsafeBytes { value in
                    let kind: EntryKind = isTombstone ? .rangeDelete : .put
                    shard.fill(
                        offset, kind: kind.rawValue | RegionLayout.Entry.batchEndFlag, height: height,
                        sequence: UInt64(number), key: key, value: value)
                }
            }
            if isTombstone { shard.countTombstone() } else { shard.insert(offset, splice: &splice) }
        }
        region.visibleSequence = UInt64(count)
        memtable.seal(lastSequence: UInt64(count))
    }

    var descriptor: FlushDescriptor {
        FlushDescriptor(
            sources: [FlushDescriptor.Source(memtableID: memtable.id, slot: memtable.slot, shard: 0)], lowerBound: [], upperBound: nil, fileNumber: 1,
            snapshots: [], blockSize: 4096, compression: .none, bloomBitsPerKey: 10)
    }
}
