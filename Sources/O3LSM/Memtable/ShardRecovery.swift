import Glibc
import Synchronization

/// Trims the shards of a memtable side by side: they share nothing, and the processor bounds each.
struct ShardTrimming {
    private struct Progress {
        var next = 0
        var results: [Result<Shard.Findings, EngineError>?]
    }

    /// Below this many bytes for each thread, starting it costs more than it saves.
    private static let bytesPerThread = 8 << 20

    /// `Shard.trim(to:)` of each shard.
    ///
    /// - Parameter processors: at most so many threads, the calling one included.
    /// - Returns: the findings in the order of the shards.
    /// - Throws: what the first shard that failed threw.
    static func run(
        _ shards: [Shard], to visible: SequenceNumber, processors: Int = sysconf(Int32(_SC_NPROCESSORS_ONLN))
    ) throws(EngineError) -> [Shard.Findings] {
        let state = Mutex(Progress(results: Array(repeating: nil, count: shards.count)))
        let work: @Sendable () -> Void = {
            while let index = state.withLock({ state -> Int? in
                guard state.next < shards.count else { return nil }
                state.next += 1
                return state.next - 1
            }) {
                let result: Result<Shard.Findings, EngineError>
                do throws(EngineError) { result = .success(try shards[index].trim(to: visible)) } catch { result = .failure(error) }
                state.withLock { $0.results[index] = result }
            }
        }
        let bytes = shards.reduce(0) { $0 + $1.reservedBytes }
        var helpers: [BackgroundThread] = []
        for _ in 1..<max(1, min(processors, shards.count, bytes / bytesPerThread)) {
            // The calling thread does what no other can be had for.
            guard let helper = try? BackgroundThread("o3-trim", work) else { break }
            helpers.append(helper)
        }
        work()
        for helper in helpers { helper.join() }
        var findings: [Shard.Findings] = []
        for case .some(let result) in state.withLock({ $0.results }) { findings.append(try result.get()) }
        return findings
    }
}

extension Shard {
    /// What a recovery found in a shard.
    struct Findings {
        /// Entries of batches that never became visible, taken out.
        var dropped: UInt64 = 0
        var tombstones: [RangeTombstone] = []
    }

    /// Takes out every entry beyond `visible` and verifies the rest: after this the shard holds exactly
    /// what readers could see when its writers died. Nobody else may use the shard meanwhile, and a crash
    /// in the middle is mended by running it again.
    ///
    /// - Throws: `.corruption` when an entry that was visible is not intact.
    func trim(to visible: SequenceNumber) throws(EngineError) -> Findings {
        var findings = Findings()
        var scan = ShardScan(self)
        var dead: [UInt32] = []
        var live: UInt64 = 0
        var newest: SequenceNumber = 0
        while try scan.next() {
            guard let entry = scan.current else { break }
            guard entry.sequence <= visible else {
                dead.append(scan.currentOffset)
                continue
            }
            let room = RegionLayout.slabBytes - Int(scan.currentOffset) % RegionLayout.slabBytes
            guard entry.isIntact(room: room), let kind = entry.kind else {
                throw corruption(at: scan.currentOffset, "an entry with an intact checksum", "other bytes")
            }
            live += 1
            newest = max(newest, entry.sequence)
            if kind == .rangeDelete { findings.tombstones.append(entry.rangeTombstone) }
        }
        setNewestSequence(newest)
        guard !isEmpty else { return findings }
        if !dead.isEmpty {
            try unlinkEntries(beyond: visible)
            for offset in dead {
                FaultPoint.midTrim.hit()
                address(Int(offset)).storeBytes(
                    of: Entry.deadKind, toByteOffset: Entry.kind, as: UInt8.self)
            }
        }
        sharedWord64(root + Root.entryCount).pointee.store(live, ordering: .relaxed)
        sharedWord32(root + Root.tombstoneCount).pointee.store(
            UInt32(truncatingIfNeeded: findings.tombstones.count), ordering: .relaxed)
        findings.dropped = UInt64(dead.count)
        return findings
    }

    /// The range tombstones of a shard that is known to be whole.
    func collectTombstones() throws(EngineError) -> [RangeTombstone] {
        guard tombstoneCount > 0 else { return [] }
        var tombstones: [RangeTombstone] = []
        var scan = ShardScan(self)
        while try scan.next() {
            guard let entry = scan.current, entry.kind == .rangeDelete else { continue }
            let room = RegionLayout.slabBytes - Int(scan.currentOffset) % RegionLayout.slabBytes
            guard entry.isIntact(room: room) else {
                throw corruption(at: scan.currentOffset, "a range tombstone with an intact checksum", "other bytes")
            }
            tombstones.append(entry.rangeTombstone)
        }
        return tombstones
    }

    /// Takes the nodes beyond a sequence out of the index, upper levels first, so that the list is whole at
    /// every moment.
    ///
    /// - Throws: `.corruption` when the links lead round in circles.
    private func unlinkEntries(beyond visible: SequenceNumber) throws(EngineError) {
        let limit = maximumSteps
        for level in (0..<Entry.maximumHeight).reversed() {
            var before: UInt32 = 0
            var steps = 0
            while true {
                var next = successor(before, level)
                let first = next
                while next != 0, let entry = entry(next), entry.sequence > visible, steps <= limit {
                    next = successor(next, level)
                    steps += 1
                }
                steps += 1
                guard steps <= limit else {
                    throw corruption(at: before, "links in the order of keys", "links that lead back")
                }
                if next != first { setSuccessor(before, level, next) }
                if next == 0 { break }
                before = next
            }
        }
    }
}

extension EntryView {
    /// Only for entries of that kind.
    var rangeTombstone: RangeTombstone {
        RangeTombstone(begin: [UInt8](key), end: [UInt8](value), sequence: sequence)
    }
}
