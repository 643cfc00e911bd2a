import Glibc

/// Makes a damaged sealed memtable again, in private memory.
///
/// The entries are the truth: what is whole of them is taken from the arenas, in whatever state links, roots and counts
/// are; what is not is looked for in the log. A sealed memtable holds every sequence number from its first to its
/// last, once: so it is known whether all of it has been found. Control plane only.
struct MemtableRepair {
    private struct Entry {
        var kind: EntryKind
        var isLastOfBatch: Bool
        var key: [UInt8]
        var value: [UInt8]
    }

    let storage: any Storage
    let layout: StoreLayout
    /// DM, for names in sentences and for fresh memtable ids.
    let region: Region

    /// The memtable again, sealed and not known to anybody.
    ///
    /// - Parameter damaged: all of it is visible. It must be held for as long as the result is not flushed: only from
    ///   it can the next owner make it again.
    /// - Throws: `.readOnly` that names the damage, when neither DM nor the log has an entry; `.io`.
    func rebuild(_ damaged: Memtable) throws(EngineError) -> Memtable {
        var entries: [SequenceNumber: Entry] = [:]
        var firstDamage: (shard: Int, offset: Int)?
        for shard in damaged.map.shards {
            let offset = collect(shard, damaged, into: &entries)
            if let offset, firstDamage == nil { firstDamage = (shard.index, offset) }
        }
        let expected = damaged.firstSequence...max(damaged.firstSequence, damaged.lastSequence)
        if entries.count < expected.count { readLog(Set(expected.filter { entries[$0] == nil }), into: &entries) }
        guard entries.count == expected.count else {
            let lost = expected.first { entries[$0] == nil } ?? 0
            throw .readOnly(
                reason: "DM region \(region.name) is damaged in memtable \(damaged.id), shard \(firstDamage?.shard ?? 0), "
                    + "offset \(firstDamage?.offset ?? 0), and the log does not have sequence \(lost); to go back to what "
                    + "was synced, end the daemon, remove /dev/shm\(region.name) and mount again")
        }
        return try copy(entries, expected, like: damaged)
    }

    // MARK: What DM has

    /// Adds every whole entry of a shard; the offset of the first that is not. Beyond one whose length cannot be, the
    /// walk goes on in the next slab, for entries do not cross slabs.
    private func collect(_ shard: Shard, _ memtable: Memtable, into entries: inout [SequenceNumber: Entry]) -> Int? {
        typealias Field = RegionLayout.Entry
        let slabBytes = RegionLayout.slabBytes
        // Where the entries end is not taken from the root: what lies behind has other sequence numbers.
        let end = shard.slabCount.load(ordering: .acquiring) * slabBytes
        var offset = RegionLayout.ShardRoot.firstEntry
        var damage: Int?
        while offset < end {
            let room = slabBytes - offset % slabBytes
            let pointer = shard.address(offset)
            let allocation = room >= Field.links ? Int(pointer.load(as: UInt32.self)) : slabBytes
            guard allocation >= Field.links, allocation <= room, allocation % 8 == 0 else {
                if offset < shard.used, allocation != Int(Field.skipRest), room >= Field.links { damage = damage ?? offset }
                offset += room
                continue
            }
            let view = EntryView(pointer: pointer)
            if view.kindByte == Field.deadKind {
            } else if view.isIntact(room: room), let kind = view.kind {
                if view.sequence >= memtable.firstSequence, view.sequence <= memtable.lastSequence {
                    entries[view.sequence] = Entry(
                        kind: kind, isLastOfBatch: view.isLastOfBatch, key: [UInt8](view.key), value: [UInt8](view.value))
                }
            } else if offset < shard.used {
                damage = damage ?? offset
            }
            offset += allocation
        }
        return damage
    }

    // MARK: What the log has

    private func readLog(_ missing: Set<SequenceNumber>, into entries: inout [SequenceNumber: Entry]) {
        let names = (try? storage.list(layout.logDirectory)) ?? []
        for number in names.compactMap(StoreLayout.number(in:)) {
            let path = layout.log(number)
            var found: [SequenceNumber: Entry] = [:]
            // A file that cannot be read has nothing to give; it may be damaged, too, or be going.
            do throws(EngineError) {
                _ = try LogReader.forEach(storage: storage, path: path, logNumber: number, kind: .writeAhead) {
                    payload, offset throws(EngineError) in
                    _ = try LogRecordReader.forEach(payload, file: path, offset: offset) {
                        sequence, kind, isLast, key, value throws(EngineError) in
                        guard missing.contains(sequence) else { return }
                        found[sequence] = Entry(
                            kind: kind, isLastOfBatch: isLast, key: [UInt8](key), value: [UInt8](value))
                    }
                }
            } catch {}
            entries.merge(found) { old, _ in old }
        }
    }

    // MARK: The new memtable

    private func copy(
        _ entries: [SequenceNumber: Entry], _ sequences: ClosedRange<SequenceNumber>, like damaged: Memtable
    ) throws(EngineError) -> Memtable {
        let bytes = entries.values.reduce(0) {
            $0 + Shard.allocationBytes(height: RegionLayout.Entry.maximumHeight, key: $1.key.count, value: $1.value.count)
        }
        let shardCount = damaged.map.shards.count
        // Up to half of a slab may stay unused behind large entries.
        let slabs = 2 * bytes / RegionLayout.slabBytes + 2 * shardCount + damaged.filter.slabs + 2
        let birthplace = try Region.createPrivate(size: RegionLayout.firstSlabOffset + slabs * RegionLayout.slabBytes)
        let allocator = SlabAllocator(slabCount: birthplace.slabCount)
        guard
            let memtable = Memtable.create(
                id: region.takeMemtableID(), region: birthplace, allocator: allocator,
                boundaries: damaged.map.shards.dropFirst().map(\.lowerBound), memtableSize: bytes)
        else { throw .memoryUnavailable(wantedBytes: UInt64(bytes), availableBytes: 0) }
        memtable.activate(firstSequence: sequences.lowerBound)
        var splice = Splice()
        for sequence in sequences {
            guard let entry = entries[sequence] else { continue }
            try entry.key.withEngineBytes { key throws(EngineError) in
                try entry.value.withEngineBytes { value throws(EngineError) in
                    try insert(entry, sequence, key, value, into: memtable, &splice)
                }
            }
        }
        memtable.seal(lastSequence: sequences.upperBound)
        return memtable
    }

    private func insert(
        _ entry: Entry, _ sequence: SequenceNumber, _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer,
        into memtable: Memtable, _ splice: inout Splice
    ) throws(EngineError) {
        let shard = memtable.map.shards[memtable.map.route(key)]
        // As many levels as a random height would give, for numbers have as many trailing zeros.
        let height = 1 + min(sequence.trailingZeroBitCount / 2, RegionLayout.Entry.maximumHeight - 1)
        let size = Shard.allocationBytes(height: height, key: key.count, value: value.count)
        let offset = memtable.reserve(shard, size, sequence)
        guard offset != 0 else { throw .memoryUnavailable(wantedBytes: UInt64(size), availableBytes: 0) }
        let flag = entry.isLastOfBatch ? RegionLayout.Entry.batchEndFlag : 0
        shard.fill(offset, kind: entry.kind.rawValue | flag, height: height, sequence: sequence, key: key, value: value)
        if entry.kind == .rangeDelete {
            memtable.tombstones.add(RangeTombstone(begin: entry.key, end: entry.value, sequence: sequence))
            shard.countTombstone()
        } else {
            memtable.filter.add(hashKey(key))
            shard.insert(offset, splice: &splice)
        }
    }
}
