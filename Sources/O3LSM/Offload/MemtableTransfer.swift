import Glibc
import Synchronization

/// The copy of one sealed memtable from private memory to DM, in pieces that threads copy at once.
///
/// Entries and links are copied byte for byte: they are relative to their shard's arena. Only the table of
/// slabs in each shard's root is written anew, since it says where the arena lies. The memtable counts in DM
/// from the moment its slot says *sealed*, which `finish` does last; a crash before that leaves a free slot.
/// This is the paper's memtable offloading.
final class MemtableTransfer: Sendable {
    /// One unit of work, for any thread.
    struct Piece: Sendable {
        enum Content: Sendable {
            case filter
            case shard(Shard, slabs: [UInt32])
        }
        var content: Content
        let transfer: MemtableTransfer
    }

    let source: Memtable
    let startedAt = monotonicNanoseconds()
    private let region: Region
    private let allocator: SlabAllocator
    private let slot: Int
    private let filter: MemtableFilter
    /// By shard index; the slabs in DM, as many as the shard has here.
    private let shardSlabs: [(shard: Shard, slabs: [UInt32])]
    private let unfinished: Atomic<Int>

    private init(
        source: Memtable, region: Region, allocator: SlabAllocator, slot: Int, filter: MemtableFilter,
        shardSlabs: [(shard: Shard, slabs: [UInt32])]
    ) {
        self.source = source
        self.region = region
        self.allocator = allocator
        self.slot = slot
        self.filter = filter
        self.shardSlabs = shardSlabs
        unfinished = Atomic(shardSlabs.count + 1)
    }

    /// Takes the room in DM; nil when there is none. For one thread at a time.
    ///
    /// - Parameters:
    ///   - source: sealed, and everything in it visible.
    ///   - running: transfers that have not been finished; their slots are free as yet.
    static func begin(
        _ source: Memtable, to region: Region, _ allocator: SlabAllocator, beside running: [MemtableTransfer]
    ) -> MemtableTransfer? {
        let directory = MemtableDirectory(region)
        guard let slot = directory.freeSlot(except: running.map(\.slot)), let first = allocator.allocate(contiguous: source.filter.slabs),
            let filter = MemtableFilter(region: region, firstSlab: first, slabs: source.filter.slabs)
        else { return nil }
        var taken = filter.slabNumbers
        var shardSlabs: [(shard: Shard, slabs: [UInt32])] = []
        for shard in source.map.shards.sorted(by: { $0.index < $1.index }) {
            var slabs: [UInt32] = []
            for _ in shard.slabs {
                guard let slab = allocator.allocate() else {
                    allocator.release(taken)
                    return nil
                }
                taken.append(slab)
                slabs.append(slab)
            }
            shardSlabs.append((shard, slabs))
        }
        directory.initialise(slot, memtableID: source.id, filter: filter)
        for (shard, _) in shardSlabs { directory.appendShard(slot, lowerBound: shard.lowerBound) }
        return MemtableTransfer(
            source: source, region: region, allocator: allocator, slot: slot, filter: filter, shardSlabs: shardSlabs)
    }

    /// Slabs that a memtable takes in DM.
    static func slabsNeeded(_ source: Memtable) -> Int { source.slabCount }

    var pieces: [Piece] {
        [Piece(content: .filter, transfer: self)]
            + shardSlabs.map { Piece(content: .shard($0.shard, slabs: $0.slabs), transfer: self) }
    }

    /// Whether every piece has been copied.
    var isCopied: Bool { unfinished.load(ordering: .acquiring) == 0 }

    /// Copies a piece. Each piece once, by any thread.
    ///
    /// - Returns: whether it was the last one.
    func copy(_ piece: Piece) -> Bool {
        switch piece.content {
        case .filter:
            // Both filters were made with the same number of slabs.
            if let target = filter.bytes.baseAddress, let origin = source.filter.bytes.baseAddress {
                memcpy(target, origin, filter.bytes.count)
                region.fabric?.transfer(filter.bytes.count)
            }
        case .shard(let shard, let slabs): copy(shard, to: slabs)
        }
        FaultPoint.midTransfer.hit()
        return unfinished.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0
    }

    private func copy(_ shard: Shard, to slabs: [UInt32]) {
        typealias Root = RegionLayout.ShardRoot
        let used = shard.used
        for (position, slab) in slabs.enumerated() {
            // The allocator hands out slabs of the region only.
            guard let target = region.slab(slab) else { continue }
            let bytes = min(RegionLayout.slabBytes, used - position * RegionLayout.slabBytes)
            if bytes > 0 { memcpy(target, shard.bases[position], bytes) }
        }
        region.fabric?.transfer(used)
        guard let first = slabs.first, let root = region.slab(first) else { return }
        for (position, slab) in slabs.enumerated() {
            root.storeBytes(of: slab, toByteOffset: Root.slabTable + 4 * position, as: UInt32.self)
        }
    }

    /// Makes the copy count, and answers its view.
    ///
    /// - Throws: `.corruption` when the copy is not what the source was; its room has been given back then.
    func finish() throws(EngineError) -> Memtable {
        let directory = MemtableDirectory(region)
        for (index, (_, slabs)) in shardSlabs.enumerated() {
            if let root = slabs.first { directory.setRootSlab(slot, shard: index, slab: root) }
        }
        directory.setFirstSequence(slot, source.firstSequence)
        directory.setLastSequence(slot, source.lastSequence)
        let memtable: Memtable
        do throws(EngineError) {
            memtable = try Memtable.attach(region: region, slot: slot, allocator: allocator) { _ in true }
        } catch {
            allocator.release(filter.slabNumbers + shardSlabs.flatMap(\.slabs))
            throw error
        }
        for tombstone in source.tombstones.tombstones(from: nil, to: nil) { memtable.tombstones.add(tombstone) }
        FaultPoint.beforeInstall.hit()
        memtable.setState(.sealed)
        return memtable
    }
}
