import Glibc
import Synchronization

/// One memtable: shards of disjoint key ranges in DM, a filter, and the range tombstones.
///
/// The object is this process's view of a slot of the memtable directory. It is released when the last
/// reader lets go of it; its slabs go back to the allocator then, if it has been flushed by that time.
/// Reservation belongs to the write path's lock, everything else to all threads.
final class Memtable: @unchecked Sendable {
    // @unchecked: fields that change are atomic or belong to the write path's lock.
    let id: UInt64
    let slot: Int
    let filter: MemtableFilter
    let tombstones = MemtableTombstones()

    /// What this process pays for accesses to the memtable's memory, see `MemtableDistance`; nil: nothing.
    let fabric: FabricDistance?
    private let region: Region
    private let directory: MemtableDirectory
    private let allocator: SlabAllocator
    /// Every map ever published; readers hold unretained references for the life of the memtable.
    private var maps: [ShardMap]
    private let currentMap: Atomic<UnsafeRawPointer>
    /// Batches reserved and not yet published.
    let inFlight = Atomic<Int>(0)
    /// Bytes reserved in all shards.
    private let storedBytes = Atomic<Int>(0)
    private let isReleasable = Atomic<Bool>(false)
    private let storedFirstSequence = Atomic<UInt64>(0)
    /// Valid once sealed.
    private let sealedLastSequence = Atomic<UInt64>(0)
    private let storedImmutableSince = Atomic<UInt64>(Memtable.isMutable)

    private init(
        id: UInt64, slot: Int, firstSequence: SequenceNumber, filter: MemtableFilter, shards: [Shard],
        region: Region, allocator: SlabAllocator
    ) {
        self.id = id
        self.slot = slot
        storedFirstSequence.store(firstSequence, ordering: .relaxed)
        self.filter = filter
        self.region = region
        fabric = region.fabric
        self.allocator = allocator
        directory = MemtableDirectory(region)
        let map = ShardMap(shards)
        maps = [map]
        currentMap = Atomic(UnsafeRawPointer(Unmanaged.passUnretained(map).toOpaque()))
        allocator.owners.add(self)
    }

    deinit {
        allocator.owners.remove(self)
        guard isReleasable.load(ordering: .acquiring) else { return }
        // The slot goes first: a crash in between leaks nothing, since free slabs are derived.
        directory.setState(slot, .free)
        allocator.release(map.shards.flatMap(\.slabs) + filter.slabNumbers)
    }

    /// A new memtable, not yet active: `activate` makes it count.
    ///
    /// - Parameters:
    ///   - id: never given to another memtable of the store's region, see `Region.takeMemtableID`.
    ///   - boundaries: first keys of the shards after the first, ascending.
    /// - Returns: nil when the region has no slot or no slabs for it.
    static func create(
        id: UInt64, region: Region, allocator: SlabAllocator, boundaries: [[UInt8]], memtableSize: Int
    ) -> Memtable? {
        let directory = MemtableDirectory(region)
        let filterSlabs = MemtableFilter.slabCount(memtableSize: memtableSize)
        guard let slot = directory.freeSlot(), let firstSlab = allocator.allocate(contiguous: filterSlabs) else {
            return nil
        }
        guard let filter = MemtableFilter(region: region, firstSlab: firstSlab, slabs: filterSlabs) else { return nil }
        if let base = filter.bytes.baseAddress { memset(base, 0, filter.bytes.count) }
        directory.initialise(slot, memtableID: id, filter: filter)
        var shards: [Shard] = []
        for (index, bound) in ([[]] + boundaries.prefix(RegionLayout.MemtableSlot.maximumShards - 1)).enumerated() {
            directory.appendShard(slot, lowerBound: bound)
            shards.append(Shard(region: region, memtableID: id, index: index, lowerBound: bound))
        }
        return Memtable(
            id: id, slot: slot, firstSequence: 0, filter: filter, shards: shards, region: region,
            allocator: allocator)
    }

    /// The view of a memtable that is already in DM; every number is checked.
    ///
    /// - Parameters:
    ///   - isReader: leave it as it is: another process owns it.
    ///   - claim: told of each slab the memtable names; false refuses it.
    static func attach(
        region: Region, slot: Int, allocator: SlabAllocator, isReader: Bool = false, claim: (UInt32) -> Bool
    ) throws(EngineError) -> Memtable {
        let directory = MemtableDirectory(region)
        func corrupt(_ expected: String, _ found: String) -> EngineError {
            .corruption(
                file: "DM region \(region.name), memtable slot \(slot)",
                offset: UInt64(RegionLayout.MemtableSlot.offset + slot * RegionLayout.MemtableSlot.bytes),
                expected: expected, found: found)
        }
        let id = directory.memtableID(slot)
        guard let filter = directory.filter(slot), filter.slabNumbers.allSatisfy(claim) else {
            throw corrupt("a filter with slabs of its own", "none")
        }
        let count = directory.shardCount(slot)
        guard count >= 1, count <= RegionLayout.MemtableSlot.maximumShards else {
            throw corrupt("1 to \(RegionLayout.MemtableSlot.maximumShards) shards", "\(count)")
        }
        var shards: [Shard] = []
        for index in 0..<count {
            guard let bound = directory.lowerBound(slot, shard: index) else {
                throw corrupt("a boundary of shard \(index)", "an impossible length")
            }
            let shard = Shard(region: region, memtableID: id, index: index, lowerBound: bound)
            if let root = directory.rootSlab(slot, shard: index) { try shard.attach(rootSlab: root, isReader: isReader, claim: claim) }
            shards.append(shard)
        }
        shards.sort { compareKeys($0.lowerBound, $1.lowerBound) < 0 }
        guard shards[0].lowerBound.isEmpty else { throw corrupt("a shard for the smallest keys", "none") }
        let memtable = Memtable(
            id: id, slot: slot, firstSequence: directory.firstSequence(slot), filter: filter, shards: shards,
            region: region, allocator: allocator)
        memtable.storedBytes.store(shards.reduce(0) { $0 + $1.reservedBytes }, ordering: .relaxed)
        memtable.sealedLastSequence.store(directory.lastSequence(slot), ordering: .relaxed)
        return memtable
    }

    /// Whether it lies in DM, where every process can reach it, or in memory of this process alone.
    var isInDM: Bool { !region.isPrivate }

    var state: MemtableState { directory.state(slot) ?? .free }
    func setState(_ state: MemtableState) {
        directory.setState(slot, state)
        if state == .sealed { storedImmutableSince.store(lastSequence, ordering: .releasing) }
    }

    /// The greatest sequence of a sealed memtable.
    var lastSequence: SequenceNumber { sealedLastSequence.load(ordering: .acquiring) }

    /// `immutableSince` of a memtable that is not sealed.
    static let isMutable = SequenceNumber.max

    /// The greatest sequence of a sealed memtable, `isMutable` of another. Who reads at this sequence or above
    /// sees all that the memtable will ever hold. Unlike `lastSequence` it says nothing of a memtable whose
    /// sealing a crash cut short.
    @inline(__always)
    var immutableSince: SequenceNumber { storedImmutableSince.load(ordering: .acquiring) }

    /// The sequence of the first entry the memtable may hold.
    var firstSequence: SequenceNumber { storedFirstSequence.load(ordering: .relaxed) }

    /// From here on the memtable is the one that is written, and recovery finds it.
    func activate(firstSequence: SequenceNumber) {
        storedFirstSequence.store(firstSequence, ordering: .relaxed)
        directory.setFirstSequence(slot, firstSequence)
        directory.setState(slot, .active)
    }

    /// Gives back a memtable that was never activated.
    func discard() { isReleasable.store(true, ordering: .releasing) }

    /// No entry may be reserved after this.
    func seal(lastSequence: SequenceNumber) {
        sealedLastSequence.store(lastSequence, ordering: .releasing)
        directory.setLastSequence(slot, lastSequence)
        setState(.sealed)
    }

    /// Recovery: the last owner died after sealing and before every reserved batch was visible, or while it sealed.
    ///
    /// - Parameter lastSequence: nil for a memtable that goes on being written.
    func correct(firstSequence: SequenceNumber, lastSequence: SequenceNumber?) {
        storedFirstSequence.store(firstSequence, ordering: .relaxed)
        directory.setFirstSequence(slot, firstSequence)
        sealedLastSequence.store(lastSequence ?? 0, ordering: .releasing)
        directory.setLastSequence(slot, lastSequence ?? 0)
    }

    /// Lets the slabs go when the last reader does. Only after the flush of the memtable is durable.
    func markReleasable() {
        directory.setState(slot, .flushed)
        isReleasable.store(true, ordering: .releasing)
    }

    /// The newest shard map. Valid while the memtable is held. Load it after the sequence to read at.
    @inline(__always)
    var map: ShardMap {
        Unmanaged<ShardMap>.fromOpaque(currentMap.load(ordering: .acquiring))._withUnsafeGuaranteedRef { $0 }
    }

    /// Bytes reserved for entries.
    var reservedBytes: Int { storedBytes.load(ordering: .relaxed) }
    /// Whether nothing was ever written to it. Look after loading the sequence to read at.
    var isUntouched: Bool { map.shards.allSatisfy { $0.isEmpty } }
    var entryCount: UInt64 { map.shards.reduce(0) { $0 &+ $1.entryCount } }
    /// Slabs held, filter included.
    var slabCount: Int { map.shards.reduce(filter.slabs) { $0 + $1.slabCount.load(ordering: .relaxed) } }

    // MARK: Reservation (under the write path's lock)

    private var hasFullShard = false
    /// Whether a shard's slab table has little room left, or range tombstones are many: the memtable must be sealed, however
    /// much it holds.
    var isExhausted: Bool { hasFullShard || tombstones.isCrowded }

    /// Room for one entry in a shard of the current map.
    ///
    /// - Returns: 0 when the region has no slab left; the caller has made sure that it has.
    func reserve(_ shard: Shard, _ bytes: Int, _ sequence: SequenceNumber) -> UInt32 {
        let wasEmpty = shard.slabs.isEmpty
        let offset = shard.reserve(bytes, sequence: sequence, allocator: allocator)
        if shard.isNearlyFull { hasFullShard = true }
        guard offset != 0 else { return 0 }
        if wasEmpty, let root = shard.slabs.first { directory.setRootSlab(slot, shard: shard.index, slab: root) }
        storedBytes.wrappingAdd(bytes, ordering: .relaxed)
        return offset
    }

    /// Splits a shard that has outgrown its share at its upper end, when the key that comes is beyond
    /// everything in it: sequential loads stay balanced and nothing moves.
    ///
    /// - Returns: whether the map has changed.
    func splitIfOutgrown(_ shard: Shard, for key: UnsafeRawBufferPointer, fairShare: Int) -> Bool {
        guard shard.reservedBytes >= max(fairShare, shard.splitThreshold) else { return false }
        // Whatever comes of it, the next try waits for a noticeable change.
        shard.splitThreshold = shard.reservedBytes + max(fairShare / 8, 4096)
        guard key.count <= RegionLayout.MemtableSlot.Shard.maximumBoundaryLength,
            map.shards.count < RegionLayout.MemtableSlot.maximumShards, waitForQuiet(),
            let last = shard.entry(shard.findLast()), compareKeys(last.key, key) < 0
        else { return false }
        let bound = [UInt8](key)
        let index = map.shards.count
        directory.appendShard(slot, lowerBound: bound)
        var shards = map.shards
        guard let position = shards.firstIndex(where: { $0 === shard }) else { return false }
        shards.insert(Shard(region: region, memtableID: id, index: index, lowerBound: bound), at: position + 1)
        let newMap = ShardMap(shards)
        maps.append(newMap)
        currentMap.store(UnsafeRawPointer(Unmanaged.passUnretained(newMap).toOpaque()), ordering: .releasing)
        return true
    }

    /// Waits a moment until every reserved batch is published; new ones are kept out by the lock.
    private func waitForQuiet() -> Bool {
        for _ in 0..<200 {
            if inFlight.load(ordering: .acquiring) == 0 { return true }
            sched_yield()
        }
        return false
    }

    /// Takes back room that was reserved for an entry that will not be written.
    func cancel(_ shard: Shard, _ offset: UInt32) { shard.cancel(offset) }

    // MARK: Reading

    /// The newest entry of a key at or below `sequence`. Range tombstones are not looked at.
    @inline(__always)
    func lookup(_ key: UnsafeRawBufferPointer, hash: UInt64, _ sequence: SequenceNumber) throws(EngineError)
        -> LookupResult
    {
        if fabric != nil { payForAccess() }
        guard filter.mayContain(hash) else { return .notFound }
        let map = self.map
        let reference = map.references[map.route(key)]
        if fabric != nil { payForSearch(key, .seek(sequence)) }
        let found = reference._withUnsafeGuaranteedRef { shard -> LookupResult in
            walk(shard, key, sequence).1
        }
        if case .notFound = found, let error = reference._withUnsafeGuaranteedRef({ $0.corruptionMet }) { throw error }
        return found
    }

    /// Looks a key up in the index of its shard.
    ///
    /// - Returns: the offset of the entry found, or 0, and the answer.
    @inline(__always)
    func walk(_ shard: Shard, _ key: UnsafeRawBufferPointer, _ sequence: SequenceNumber) -> (UInt32, LookupResult) {
        let offset = shard.findAtOrAfter(key, .seek(sequence))
        guard offset != 0, let entry = shard.entryWithValue(offset), compareKeys(entry.key, key) == 0 else {
            return (0, .notFound)
        }
        return (offset, answer(entry))
    }

    /// What a point entry of this memtable says of its key.
    @inline(__always)
    func answer(_ entry: EntryView) -> LookupResult {
        if entry.kind == .put { return .put(PinnedValue(bytes: entry.value, owner: self), entry.sequence) }
        return .deleted(entry.sequence)
    }

    /// A cursor over the point entries of all shards.
    func makeIterator() -> InternalIterator {
        MemtableIterator(map: map, owner: self)
    }
}
