/// What stands in the job table, for those who look on.
extension JobTable {
    /// A job as it stood there.
    struct Posted: Sendable {
        var kind: JobKind
        var state: JobState
        /// Row of the node that has claimed it.
        var node: Int
        var postedAt: UInt64
        var descriptor: [UInt8]
    }

    /// Every job in the table. A slot that changes hands meanwhile is left out.
    func postedJobs() -> [Posted] {
        (0..<Job.count).compactMap { slot in
            let before = load(slot)
            guard before.state != .empty else { return nil }
            let row = address(slot)
            let kind = JobKind(rawValue: row.load(fromByteOffset: Job.kind, as: UInt32.self))
            let postedAt = row.load(fromByteOffset: Job.postedAt, as: UInt64.self)
            let count = Int(row.load(fromByteOffset: Job.descriptorBytes, as: UInt32.self))
            guard let kind, count <= Job.maximumDescriptorBytes else { return nil }
            let descriptor = [UInt8](UnsafeRawBufferPointer(start: row + Job.descriptor, count: count))
            let stored = row.load(fromByteOffset: Job.checksum, as: UInt32.self)
            let after = load(slot)
            guard after.generation == before.generation, after.state != .empty,
                stored == descriptor.withUnsafeBytes({ JobTable.checksum($0, after.generation) })
            else { return nil }
            return Posted(
                kind: kind, state: after.state, node: after.node, postedAt: postedAt, descriptor: descriptor)
        }
    }
}

extension Statistics.Job {
    /// - Parameters:
    ///   - processIDs: of attached nodes, by row.
    ///   - shardBytes: bytes of a shard of a memtable, for those that are there.
    init?(
        _ job: JobTable.Posted, now: UInt64, processIDs: [Int: Int32],
        shardBytes: (_ memtable: UInt64, _ shard: Int) -> UInt64
    ) {
        kind = "\(job.kind)"
        state = "\(job.state)"
        executor = job.state == .posted ? nil : processIDs[job.node]
        ageSeconds = now > job.postedAt ? Double(now - job.postedAt) / 1e9 : 0
        switch job.kind {
        case .flush:
            guard let flush = FlushDescriptor.decode(job.descriptor) else { return nil }
            inputs = flush.sources.map {
                Input(memtable: $0.memtableID, shard: $0.shard, bytes: shardBytes($0.memtableID, $0.shard))
            }
        case .compaction:
            let decoded = try? job.descriptor.withUnsafeBytes {
                try CompactionDescriptor.decode($0, source: "compaction descriptor")
            }
            guard let decoded else { return nil }
            inputs = decoded.inputs.map { input in
                Input(
                    level: input.level, tables: input.files.map(\.number),
                    bytes: input.files.reduce(0) { $0 &+ $1.size })
            }
            outputLevel = decoded.outputLevel
        }
    }
}
