/// Finds the memtables that a region holds after its owner has died, in whatever state it died.
struct RegionRecovery {
    /// Oldest first; the last one is active, unless the owner died while it switched memtables.
    var memtables: [Memtable] = []
    /// Entries of batches that had not become visible.
    var droppedEntries: UInt64 = 0
    /// Everything up to here is in tables or in `memtables`.
    var visible: SequenceNumber = 0

    /// - Parameters:
    ///   - flushed: everything up to here is in tables.
    ///   - visible: everything up to here had become visible.
    /// - Throws: `.corruption` when the region cannot be what an owner left behind; nothing in it is to be
    ///   trusted then.
    static func run(
        _ region: Region, _ allocator: SlabAllocator, flushed: SequenceNumber, visible: SequenceNumber
    ) throws(EngineError) -> RegionRecovery {
        let directory = MemtableDirectory(region)
        var recovery = RegionRecovery()
        func corrupt(_ expected: String, _ found: String) -> EngineError {
            .corruption(file: "DM region \(region.name)", offset: 0, expected: expected, found: found)
        }
        guard visible >= flushed, visible <= maximumSequenceNumber else {
            throw corrupt("a visible sequence of at least \(flushed)", "\(visible)")
        }
        recovery.visible = visible
        let isStaged = region.placement == .staged
        for slot in 0..<directory.count {
            guard let state = directory.state(slot) else { throw corrupt("a memtable state in slot \(slot)", "another value") }
            switch state {
            case .free: continue
            case .flushed:
                directory.setState(slot, .free)
                continue
            case .sealed, .flushing:
                // Its commit may have been the owner's last act.
                if directory.lastSequence(slot) <= flushed {
                    directory.setState(slot, .free)
                    continue
                }
            case .active:
                // Made by an owner that was still reading the log into it: the log is read again.
                if isStaged {
                    directory.setState(slot, .free)
                    continue
                }
            }
            recovery.memtables.append(
                try Memtable.attach(region: region, slot: slot, allocator: allocator) { allocator.claim($0) })
        }
        recovery.memtables.sort { ($0.firstSequence, $0.id) < ($1.firstSequence, $1.id) }
        if isStaged { recovery.keepPrefix(flushed, allocator) }
        try recovery.settle(flushed, recovery.visible, corrupt)
        return recovery
    }

    /// Memtables arrive in a staged region in any order: what lies behind a gap comes from the log.
    private mutating func keepPrefix(_ flushed: SequenceNumber, _ allocator: SlabAllocator) {
        var end = flushed
        var kept: [Memtable] = []
        for memtable in memtables {
            if memtable.firstSequence == end + 1, memtable.lastSequence <= visible {
                end = max(end, memtable.lastSequence)
                kept.append(memtable)
            } else {
                memtable.setState(.free)
                memtable.discard()
            }
        }
        memtables = kept
        visible = end
    }

    private mutating func settle(
        _ flushed: SequenceNumber, _ visible: SequenceNumber, _ corrupt: (String, String) -> EngineError
    ) throws(EngineError) {
        var expected = flushed + 1
        for (index, memtable) in memtables.enumerated() {
            let isActive = memtable.state == .active
            guard !isActive || index == memtables.count - 1 else { throw corrupt("one active memtable, the newest", "another") }
            let needsTrim = isActive || memtable.lastSequence > visible
            if needsTrim {
                let first = min(memtable.firstSequence, visible + 1)
                memtable.correct(firstSequence: first, lastSequence: isActive ? nil : visible)
            }
            guard memtable.firstSequence == expected else {
                throw corrupt("a memtable that begins with sequence \(expected)", "\(memtable.firstSequence)")
            }
            if needsTrim {
                for findings in try ShardTrimming.run(memtable.map.shards, to: visible) {
                    droppedEntries += findings.dropped
                    for tombstone in findings.tombstones { memtable.tombstones.add(tombstone) }
                }
            } else {
                for shard in memtable.map.shards {
                    for tombstone in try shard.collectTombstones() { memtable.tombstones.add(tombstone) }
                }
            }
            // Each sequence is there once: a damaged end or root of a shard must not hide entries.
            if needsTrim, memtable.entryCount != visible + 1 - memtable.firstSequence {
                throw corrupt(
                    "\(visible + 1 - memtable.firstSequence) entries in memtable \(memtable.id)", "\(memtable.entryCount)")
            }
            if !isActive {
                memtable.setState(.sealed)
                expected = memtable.lastSequence + 1
            } else {
                expected = visible + 1
            }
        }
        guard expected == visible + 1 else {
            throw corrupt("memtables up to sequence \(visible)", "up to \(expected - 1)")
        }
    }
}
