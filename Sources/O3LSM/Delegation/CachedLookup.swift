extension Memtable {
    /// As `lookup`, with one access of the entry in place of the filter's and the index's when the cache knows
    /// where it lies.
    ///
    /// The cache speaks for sealed memtables only, one at a time: newer memtables are asked before this one,
    /// as without it, and range tombstones are the caller's in both cases. It holds the newest entry of a key
    /// in the memtable; a reader of an older state takes it only if it is not newer than that state.
    func lookup(_ key: UnsafeRawBufferPointer, hash: UInt64, _ sequence: SequenceNumber, _ cache: OffsetCache)
        throws(EngineError) -> LookupResult
    {
        let immutableSince = self.immutableSince
        guard immutableSince != Memtable.isMutable else { return try lookup(key, hash: hash, sequence) }
        if let place = cache.place(hash, memtable: id) {
            if fabric != nil { payForAccess() }
            let map = self.map
            let found = map.references[map.route(key)]._withUnsafeGuaranteedRef { shard -> LookupResult? in
                guard shard.index == place.shard, let entry = shard.soundEntry(place.offset),
                    compareKeys(entry.key, key) == 0, entry.sequence <= sequence
                else { return nil }
                return answer(entry)
            }
            if let found {
                cache.countHit(hash)
                return found
            }
        }
        if fabric != nil { payForAccess() }
        guard filter.mayContain(hash) else { return .notFound }
        cache.countMiss(hash)
        let map = self.map
        let reference = map.references[map.route(key)]
        if fabric != nil { payForSearch(key, .seek(sequence)) }
        let found = reference._withUnsafeGuaranteedRef { shard -> LookupResult in
            let (offset, found) = walk(shard, key, sequence)
            // An older state may have found an older entry.
            if offset != 0, sequence >= immutableSince {
                cache.store(hash, memtable: id, OffsetCache.Place(shard: shard.index, offset: offset))
            }
            return found
        }
        if case .notFound = found, let error = reference._withUnsafeGuaranteedRef({ $0.corruptionMet }) { throw error }
        return found
    }
}

extension Shard {
    /// The entry at an offset that may be wrong itself: unlike `entryWithValue` it does not take that for damage of the
    /// shard. The caller compares keys.
    @inline(__always)
    func soundEntry(_ offset: UInt32) -> EntryView? {
        let slab = Int(offset >> RegionLayout.slabShift)
        let inSlab = Int(offset) & (RegionLayout.slabBytes - 1)
        guard slab < slabCount.load(ordering: .acquiring), inSlab <= RegionLayout.slabBytes - Entry.links, inSlab & 7 == 0,
            offset >= UInt32(Root.firstEntry)
        else { return nil }
        let view = EntryView(pointer: bases[slab] + inSlab)
        guard view.headerAndKeyBytes + view.valueLength <= RegionLayout.slabBytes - inSlab else { return nil }
        return view
    }
}
