/// Executes a flush: reads shards straight from DM and writes one table. Stateless: everything it needs is
/// in the descriptor, the region and the store.
struct FlushExecutor: Sendable {
    let storage: any Storage
    let layout: StoreLayout
    /// Bounds the bytes read; nil: unbounded.
    var limiter: RateLimiter?
    /// The sealed memtable a source names; nil when there is none any more.
    let memtable: @Sendable (_ source: FlushDescriptor.Source) throws(EngineError) -> Memtable?

    /// Bytes of entries between two looks at the limiter.
    private static let paymentBytes = 256 << 10

    /// Writes, syncs and measures the table. Every entry's checksum is verified on the way.
    ///
    /// An entry is dropped when a newer one of its key, or a range tombstone, hides it from the newest
    /// state and from every snapshot. On an error the table's file is removed.
    ///
    /// - Parameters:
    ///   - attempt: what the table's name carries until it is accepted; its name is not durable until then.
    ///   - isWanted: asked before the file is made and every few hundred KiB; once false, the call ends with
    ///     `.closed`. An executor that was held up must not make a file that nobody will look for.
    func run(_ descriptor: FlushDescriptor, attempt: UInt64, isWanted: () -> Bool = { true }) throws(EngineError)
        -> FlushResult
    {
        var sources: [(shard: Shard, memtable: Memtable)] = []
        for source in descriptor.sources {
            guard let memtable = try memtable(source) else {
                throw .invalidArgument("there is no memtable \(source.memtableID) to flush")
            }
            guard let shard = memtable.map.shards.first(where: { $0.index == source.shard }) else {
                throw .invalidArgument("memtable \(source.memtableID) has no shard \(source.shard)")
            }
            sources.append((shard, memtable))
        }
        let path = layout.table(descriptor.fileNumber, attempt: attempt)
        guard isWanted() else { throw .closed }
        do throws(EngineError) {
            return try write(descriptor, sources, path, isWanted)
        } catch {
            // Best effort: recovery removes what no version names.
            try? storage.delete(path)
            throw error
        }
    }

    private func write(
        _ descriptor: FlushDescriptor, _ sources: [(shard: Shard, memtable: Memtable)], _ path: String,
        _ isWanted: () -> Bool
    ) throws(EngineError) -> FlushResult {
        var tableOptions = TableOptions(Options())
        tableOptions.blockSize = descriptor.blockSize
        tableOptions.compression = descriptor.compression
        tableOptions.bloomBitsPerKey = descriptor.bloomBitsPerKey
        let file = try storage.create(path)
        let builder = TableBuilder(file: file, number: descriptor.fileNumber, options: tableOptions)
        let clipped = sources.flatMap {
            $0.memtable.tombstones.tombstones(
                from: descriptor.lowerBound.isEmpty ? nil : descriptor.lowerBound, to: descriptor.upperBound)
        }
        // Nested ones would take the square of their number in the table.
        let tombstones = FragmentedTombstones(clipped, newestPerStratumOf: descriptor.snapshots)
        let strata = SnapshotStrata(descriptor.snapshots)
        var merge = try FlushMerge(sources)
        var read: UInt64 = 0
        var dropped: UInt64 = 0
        var previousKey = UnsafeRawBufferPointer(start: nil, count: 0)
        var previousStratum = -1
        var unpaid = 0
        while let entry = try merge.entry() {
            read += 1
            FaultPoint.midFlush.hit()
            let key = entry.key
            let stratum = strata.stratum(of: entry.sequence)
            let isHidden = previousStratum == stratum && compareKeys(previousKey, key) == 0
            if isHidden || isDeleted(key, entry.sequence, stratum, tombstones, strata) {
                dropped += 1
            } else {
                try builder.add(key, entry.trailer, entry.value)
            }
            // Keys stay where they are in the arena, so that the pointer outlives the step.
            previousKey = key
            previousStratum = stratum
            unpaid += key.count + entry.valueLength
            if unpaid >= FlushExecutor.paymentBytes {
                guard isWanted() else { throw .closed }
                limiter?.acquire(UInt64(unpaid))
                sources.first?.memtable.fabric?.transfer(unpaid)
                unpaid = 0
            }
            try merge.next()
        }
        for tombstone in tombstones.tombstones() { try builder.addRangeTombstone(tombstone) }
        guard let metadata = try builder.finish() else {
            try file.close()
            try storage.delete(path)
            return FlushResult(wroteTable: false, entriesRead: read, entriesDropped: dropped, fileSize: 0)
        }
        try file.close()
        return FlushResult(
            wroteTable: true, entriesRead: read, entriesDropped: dropped, fileSize: metadata.size)
    }

    private func isDeleted(
        _ key: UnsafeRawBufferPointer, _ sequence: SequenceNumber, _ stratum: Int,
        _ tombstones: FragmentedTombstones, _ strata: SnapshotStrata
    ) -> Bool {
        if tombstones.isEmpty { return false }
        let newest = tombstones.newestCovering(key, upTo: strata.upperEnd(of: stratum))
        return newest > sequence
    }
}

/// Snapshots cut history into strata: of the entries of one key in one stratum, readers can see only the
/// newest.
struct SnapshotStrata: Sendable {
    private let snapshots: [SequenceNumber]

    /// - Parameter snapshots: ascending.
    init(_ snapshots: [SequenceNumber]) { self.snapshots = snapshots }

    /// 0 is the oldest stratum: everything the oldest snapshot sees.
    @inline(__always)
    func stratum(of sequence: SequenceNumber) -> Int {
        if snapshots.isEmpty { return 0 }
        var low = 0
        var high = snapshots.count
        while low < high {
            let middle = (low + high) >> 1
            if snapshots[middle] < sequence { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The greatest sequence that belongs to a stratum.
    @inline(__always)
    func upperEnd(of stratum: Int) -> SequenceNumber {
        stratum < snapshots.count ? snapshots[stratum] : maximumSequenceNumber
    }
}
