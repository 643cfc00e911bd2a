import Glibc
import Synchronization

/// One shard of a memtable: an arena of slabs in DM that holds the entries of one key range in arrival
/// order, indexed by a skiplist whose links are arena offsets (`ShardIndex.swift`).
///
/// An arena offset is (slab index << 20 | offset in the slab), relative to the shard's own slab table,
/// so that a shard can be copied anywhere byte for byte. Offset 0 is nil. This object is the private view
/// of one process: it keeps checked base addresses of the slabs, and everything else lives in DM.
///
/// Reserving space is for one thread at a time (the write path's lock); filling, linking and reading are
/// for all threads at once. Close relatives: Pebble's arenaskl, RocksDB's InlineSkipList.
final class Shard: @unchecked Sendable {
    // @unchecked: see the rules above; what threads share is atomic.
    typealias Entry = RegionLayout.Entry
    typealias Root = RegionLayout.ShardRoot

    let region: Region
    let memtableID: UInt64
    let index: Int
    /// First key the shard may hold.
    let lowerBound: [UInt8]

    /// Base addresses of the slabs, filled before `slabCount` says so.
    let bases: UnsafeMutablePointer<UnsafeMutableRawPointer>
    private(set) var slabs: [UInt32] = []
    let slabCount = Atomic<Int>(0)
    /// Where the next entry goes. Reserving thread only.
    private(set) var nextOffset = 0
    /// Bytes reserved for entries, without the unused ends of slabs. Written by the reserving thread; whoever learns
    /// boundaries from the shard reads it meanwhile.
    var reservedBytes: Int { storedReservedBytes.load(ordering: .relaxed) }
    private let storedReservedBytes = Atomic<Int>(0)
    /// No entry of the shard has a greater sequence; the greatest of all as long as this process does not know. Written
    /// before an entry of that sequence can be visible.
    var newestSequence: SequenceNumber { storedNewestSequence.load(ordering: .acquiring) }
    private let storedNewestSequence = Atomic<SequenceNumber>(0)
    /// Reserving thread only: below this, no try to split.
    var splitThreshold = 0
    /// Set when a reader met an offset or length that cannot be.
    let corruptOffset = Atomic<UInt32>(0)

    /// An empty shard. `slot` is the address of its row in the memtable directory.
    init(region: Region, memtableID: UInt64, index: Int, lowerBound: [UInt8]) {
        self.region = region
        self.memtableID = memtableID
        self.index = index
        self.lowerBound = lowerBound
        bases = .allocate(capacity: Root.maximumSlabs)
    }

    deinit { bases.deallocate() }

    var isEmpty: Bool { slabCount.load(ordering: .acquiring) == 0 }
    /// The first slab. Only when the shard is not empty.
    @inline(__always) var root: UnsafeMutableRawPointer { bases[0] }

    /// Arena offset after the last reserved entry, as DM has it.
    var used: Int {
        guard !isEmpty else { return 0 }
        return Int(truncatingIfNeeded: sharedWord64(root + Root.used).pointee.load(ordering: .acquiring))
    }
    var entryCount: UInt64 {
        guard !isEmpty else { return 0 }
        return sharedWord64(root + Root.entryCount).pointee.load(ordering: .relaxed)
    }
    /// Whether the slab table has little room left: the memtable should be sealed.
    var isNearlyFull: Bool { slabs.count > Root.maximumSlabs - 64 }

    /// Bytes an entry takes in the arena.
    @inline(__always)
    static func allocationBytes(height: Int, key: Int, value: Int) -> Int {
        (Entry.links + 4 * height + key + value + 7) & ~7
    }

    // MARK: Reserving (one thread at a time)

    /// Takes room for an entry and marks it with its size and sequence, so that a scan in arrival order
    /// can step over it whatever happens to its writer.
    ///
    /// - Returns: the entry's offset, or 0 when no slab could be had.
    func reserve(_ bytes: Int, sequence: SequenceNumber, allocator: SlabAllocator) -> UInt32 {
        let room = slabs.count * RegionLayout.slabBytes - nextOffset
        if room < bytes {
            if room >= 8, !slabs.isEmpty {
                address(nextOffset).storeBytes(of: Entry.skipRest, as: UInt32.self)
            }
            guard appendSlab(allocator) else { return 0 }
        }
        let offset = nextOffset
        let entry = address(offset)
        entry.storeBytes(of: UInt32(bytes), toByteOffset: Entry.allocation, as: UInt32.self)
        // Whatever stood here must not look like an entry that recovery has taken out.
        entry.storeBytes(of: 0, toByteOffset: Entry.keyLength, as: UInt32.self)
        entry.storeBytes(of: sequence, toByteOffset: Entry.sequence, as: UInt64.self)
        if sequence > newestSequence { storedNewestSequence.store(sequence, ordering: .releasing) }
        nextOffset = offset + bytes
        storedReservedBytes.store(reservedBytes + bytes, ordering: .relaxed)
        let count = sharedWord64(root + Root.entryCount)
        count.pointee.store(count.pointee.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        sharedWord64(root + Root.used).pointee.store(UInt64(nextOffset), ordering: .releasing)
        return UInt32(truncatingIfNeeded: offset)
    }

    /// Takes back the room of an entry that will not be written, as recovery would: scans pass over it.
    func cancel(_ offset: UInt32) {
        let entry = address(Int(offset))
        entry.storeBytes(of: Entry.deadKind, toByteOffset: Entry.kind, as: UInt8.self)
        // Its sequence goes to another entry, and a scan may be looking at this one.
        entry.storeBytes(of: 0, toByteOffset: Entry.sequence, as: UInt64.self)
        let count = sharedWord64(root + Root.entryCount)
        count.pointee.store(count.pointee.load(ordering: .relaxed) &- 1, ordering: .relaxed)
    }

    /// Recovery only: the greatest sequence of an entry, by a look at all of them.
    func setNewestSequence(_ sequence: SequenceNumber) { storedNewestSequence.store(sequence, ordering: .releasing) }

    private func appendSlab(_ allocator: SlabAllocator) -> Bool {
        guard slabs.count < Root.maximumSlabs, let slab = allocator.allocate(), let base = region.slab(slab) else {
            return false
        }
        let position = slabs.count
        bases[position] = base
        nextOffset = position * RegionLayout.slabBytes
        if position == 0 {
            memset(base, 0, Root.firstEntry)
            base.storeBytes(of: Root.magicValue, toByteOffset: Root.magic, as: UInt32.self)
            base.storeBytes(of: UInt32(index), toByteOffset: Root.shardIndex, as: UInt32.self)
            base.storeBytes(of: memtableID, toByteOffset: Root.memtableID, as: UInt64.self)
            sharedWord32(base + Root.maximumHeight).pointee.store(1, ordering: .relaxed)
            nextOffset = Root.firstEntry
            sharedWord64(base + Root.used).pointee.store(UInt64(nextOffset), ordering: .relaxed)
        }
        root.storeBytes(of: slab, toByteOffset: Root.slabTable + 4 * position, as: UInt32.self)
        slabs.append(slab)
        sharedWord32(root + Root.slabCount).pointee.store(UInt32(slabs.count), ordering: .releasing)
        slabCount.store(slabs.count, ordering: .releasing)
        return true
    }

    /// For offsets this process has itself reserved.
    @inline(__always)
    func address(_ offset: Int) -> UnsafeMutableRawPointer {
        bases[offset >> Int(RegionLayout.slabShift)] + (offset & (RegionLayout.slabBytes - 1))
    }

    // MARK: Filling (any thread, its own entry)

    /// Copies an entry into the room reserved for it and seals it with its checksum.
    @inline(__always)
    func fill(
        _ offset: UInt32, kind: UInt8, height: Int, sequence: SequenceNumber,
        key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer
    ) {
        let entry = address(Int(offset))
        entry.storeBytes(of: UInt16(truncatingIfNeeded: key.count), toByteOffset: Entry.keyLength, as: UInt16.self)
        entry.storeBytes(of: kind, toByteOffset: Entry.kind, as: UInt8.self)
        entry.storeBytes(of: UInt8(truncatingIfNeeded: height), toByteOffset: Entry.height, as: UInt8.self)
        entry.storeBytes(of: UInt32(truncatingIfNeeded: value.count), toByteOffset: Entry.valueLength, as: UInt32.self)
        let body = entry + Entry.links + 4 * height
        if let source = key.baseAddress { memcpy(body, source, key.count) }
        if let source = value.baseAddress { memcpy(body + key.count, source, value.count) }
        entry.storeBytes(of: EntryView.checksum(entry), toByteOffset: Entry.checksum, as: UInt32.self)
    }

    // MARK: Reading (any thread)

    /// The entry at an offset that came from shared memory; nil (and the shard is marked corrupt) when no
    /// entry can lie there.
    @inline(__always)
    func entry(_ offset: UInt32) -> EntryView? {
        let slab = Int(offset >> RegionLayout.slabShift)
        let inSlab = Int(offset) & (RegionLayout.slabBytes - 1)
        if slab < slabCount.load(ordering: .relaxed), inSlab <= RegionLayout.slabBytes - Entry.links, inSlab & 7 == 0 {
            let view = EntryView(pointer: bases[slab] + inSlab)
            if view.headerAndKeyBytes <= RegionLayout.slabBytes - inSlab { return view }
        }
        corruptOffset.store(max(offset, 1), ordering: .relaxed)
        return nil
    }

    /// As `entry`, with the value's bounds checked too.
    @inline(__always)
    func entryWithValue(_ offset: UInt32) -> EntryView? {
        guard let view = entry(offset) else { return nil }
        let inSlab = Int(offset) & (RegionLayout.slabBytes - 1)
        guard view.headerAndKeyBytes + view.valueLength <= RegionLayout.slabBytes - inSlab else {
            corruptOffset.store(max(offset, 1), ordering: .relaxed)
            return nil
        }
        return view
    }

    /// What a reader has met that cannot be, since the shard was opened; nil in good order.
    @inline(__always)
    var corruptionMet: EngineError? {
        let offset = corruptOffset.load(ordering: .relaxed)
        return offset == 0 ? nil : corruption(at: offset, "an entry within its slab", "an impossible offset or length")
    }

    func corruption(at offset: UInt32, _ expected: String, _ found: String) -> EngineError {
        .corruption(
            file: "DM region \(region.name), memtable \(memtableID), shard \(index)", offset: UInt64(offset),
            expected: expected, found: found)
    }

    // MARK: Attaching to a shard that is already in DM

    /// Rebuilds the private view of a shard whose root is `rootSlab`, checking every number.
    ///
    /// - Parameters:
    ///   - isReader: leave the shard as it is: another process owns it.
    ///   - claim: called for each slab; false means that the slab cannot belong to this shard.
    func attach(rootSlab: UInt32, isReader: Bool = false, claim: (UInt32) -> Bool) throws(EngineError) {
        guard let base = region.slab(rootSlab), claim(rootSlab) else {
            throw corruption(at: 0, "a slab of its own", "slab \(rootSlab)")
        }
        guard base.load(fromByteOffset: Root.magic, as: UInt32.self) == Root.magicValue,
            base.load(fromByteOffset: Root.memtableID, as: UInt64.self) == memtableID,
            base.load(fromByteOffset: Root.shardIndex, as: UInt32.self) == UInt32(index)
        else { throw corruption(at: 0, "the root of this shard", "another slab") }
        let count = Int(sharedWord32(base + Root.slabCount).pointee.load(ordering: .acquiring))
        guard count >= 1, count <= Root.maximumSlabs else {
            throw corruption(at: UInt32(Root.slabCount), "1 to \(Root.maximumSlabs) slabs", "\(count)")
        }
        let stored = sharedWord64(base + Root.used).pointee.load(ordering: .acquiring)
        guard stored >= UInt64(Root.firstEntry), stored <= UInt64(count * RegionLayout.slabBytes), stored % 8 == 0
        else { throw corruption(at: UInt32(Root.used), "an end within \(count) slabs", "\(stored)") }
        let end = Int(stored)
        // The last slab of the table may have been appended by a writer that died before using it. It is
        // given back: the next entry must not begin in the slab before it and end in it.
        let needed = (end + RegionLayout.slabBytes - 1) / RegionLayout.slabBytes
        for position in 0..<needed {
            let slab = base.load(fromByteOffset: Root.slabTable + 4 * position, as: UInt32.self)
            guard let address = region.slab(slab), position == 0 ? slab == rootSlab : claim(slab) else {
                throw corruption(at: UInt32(Root.slabTable + 4 * position), "a slab of its own", "slab \(slab)")
            }
            bases[position] = address
            slabs.append(slab)
        }
        if !isReader { sharedWord32(base + Root.slabCount).pointee.store(UInt32(needed), ordering: .releasing) }
        slabCount.store(needed, ordering: .releasing)
        nextOffset = end
        storedNewestSequence.store(.max, ordering: .releasing)
        storedReservedBytes.store(end - Root.firstEntry, ordering: .relaxed)
    }
}

/// One entry in an arena. The pointer is checked by who makes the view (`Shard.entry`).
struct EntryView {
    typealias Entry = RegionLayout.Entry
    let pointer: UnsafeMutableRawPointer

    @inline(__always) init(pointer: UnsafeMutableRawPointer) { self.pointer = pointer }

    @inline(__always) var allocation: UInt32 { pointer.load(fromByteOffset: Entry.allocation, as: UInt32.self) }
    @inline(__always) var keyLength: Int { Int(pointer.load(fromByteOffset: Entry.keyLength, as: UInt16.self)) }
    @inline(__always) var kindByte: UInt8 { pointer.load(fromByteOffset: Entry.kind, as: UInt8.self) }
    @inline(__always) var height: Int { Int(pointer.load(fromByteOffset: Entry.height, as: UInt8.self)) }
    @inline(__always) var sequence: SequenceNumber { pointer.load(fromByteOffset: Entry.sequence, as: UInt64.self) }
    @inline(__always) var valueLength: Int { Int(pointer.load(fromByteOffset: Entry.valueLength, as: UInt32.self)) }
    @inline(__always) var headerAndKeyBytes: Int { Entry.links + 4 * height + keyLength }
    @inline(__always) var isLastOfBatch: Bool { kindByte & Entry.batchEndFlag != 0 }
    @inline(__always) var kind: EntryKind? { EntryKind(rawValue: kindByte & ~Entry.batchEndFlag) }
    @inline(__always) var trailer: Trailer {
        Trailer(rawValue: sequence << 8 | UInt64(kindByte & ~Entry.batchEndFlag))
    }
    @inline(__always) var key: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: pointer + Entry.links + 4 * height, count: keyLength)
    }
    @inline(__always) var value: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: pointer + headerAndKeyBytes, count: valueLength)
    }

    /// Whether the entry fits its allocation and its checksum holds. `room`: bytes to the end of its slab.
    func isIntact(room: Int) -> Bool {
        let allocation = Int(self.allocation)
        guard allocation <= room, headerAndKeyBytes + valueLength <= allocation else { return false }
        return pointer.load(fromByteOffset: Entry.checksum, as: UInt32.self) == EntryView.checksum(pointer)
    }

    /// CRC32C of everything in the entry that never changes (links do).
    @inline(__always)
    static func checksum(_ entry: UnsafeMutableRawPointer) -> UInt32 {
        let view = EntryView(pointer: entry)
        let seed = CRC32C.checksum(UnsafeRawBufferPointer(start: entry + Entry.keyLength, count: 16))
        return CRC32C.checksum(
            UnsafeRawBufferPointer(
                start: entry + Entry.links + 4 * view.height, count: view.keyLength + view.valueLength),
            seed: seed)
    }
}

extension Shard {
    /// Counts a range tombstone, which is an entry of the arena but not of the index.
    func countTombstone() {
        _ = sharedWord32(root + Root.tombstoneCount).pointee.wrappingAdd(1, ordering: .relaxed)
    }

    /// Range tombstones among `entryCount`.
    var tombstoneCount: UInt64 {
        guard !isEmpty else { return 0 }
        return UInt64(sharedWord32(root + Root.tombstoneCount).pointee.load(ordering: .relaxed))
    }
}
