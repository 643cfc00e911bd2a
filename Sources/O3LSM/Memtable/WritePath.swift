import CSystem
import Glibc
import Synchronization

/// How a batch gets into the active memtable.
///
/// A short lock gives the batch its sequence numbers and its room; copying and linking happen outside it,
/// by as many threads as there are; then batches become visible one after the other, in sequence order,
/// each with a single store. A batch is whole to every reader and to every recovery, or not there.
/// Thread-safe.
final class WritePath: @unchecked Sendable {
    // @unchecked: `locked` is guarded by `lock`.
    /// Holds the visible sequence.
    private let region: Region
    /// Where memtables are born, and its slabs: the region itself, or private memory.
    private let birthplace: Region
    let allocator: SlabAllocator
    let throttle: WriteThrottle
    private let options: Options
    private let holder: ReadStateHolder
    private let fairShare: Int

    private struct Locked {
        var active: Memtable
        var nextSequence: SequenceNumber
        var random: UInt64
        /// No batch is taken any more.
        var isClosed = false
    }
    private let lock: Mutex<Locked>
    /// One thread at a time switches memtables.
    private let switchLock = Mutex<Void>(())
    /// Rung when slabs or slots have come free, or writers may go on.
    private let roomBell = PrivateDoorbell()
    /// Set by the control plane: why writers must wait, or nil. 0 none, 1 L0 is full.
    let stop = Atomic<Int>(0)
    private let failure = Mutex<EngineError?>(nil)
    private let hasFailure = Atomic<Bool>(false)

    let bytesWritten = Atomic<UInt64>(0)
    let batchesWritten = Atomic<UInt64>(0)
    let handOvers = HandOverCounter()

    /// - Parameters:
    ///   - birthplace: where memtables are made; `allocator` gives out its slabs.
    init(
        region: Region, birthplace: Region, allocator: SlabAllocator, options: Options, holder: ReadStateHolder, active: Memtable,
        nextSequence: SequenceNumber, throttle: WriteThrottle
    ) {
        self.region = region
        self.birthplace = birthplace
        self.allocator = allocator
        self.options = options
        self.holder = holder
        self.throttle = throttle
        fairShare = max(options.memtableSize / options.shards, 1)
        lock = Mutex(Locked(active: active, nextSequence: nextSequence, random: 0x9e37_79b9_7f4a_7c15 ^ active.id))
    }

    // MARK: Writing

    /// Applies a batch. When this returns, the batch is visible and survives the death of any process.
    ///
    /// - Returns: the batch's last sequence number.
    /// - Throws: `.invalidArgument` for keys, values or batches over their limits; what stops the store.
    func write(_ batch: WriteBatch) throws(EngineError) -> SequenceNumber {
        let bytes = try validate(batch)
        if batch.isEmpty { return region.visibleSequence }
        try admit(batch, bytes)
        return try placeWhenThereIsRoom(batch, bytes)
    }

    /// As `write`, but never held up: nil, and nothing done, when a writer would have to wait for memory or storage. It is
    /// not slowed by back-pressure either, so batches should be small. RocksDB's `no_slowdown`.
    func writeWithoutWaiting(_ batch: WriteBatch) throws(EngineError) -> SequenceNumber? {
        let bytes = try validate(batch)
        if batch.isEmpty { return region.visibleSequence }
        if hasFailure.load(ordering: .relaxed) { try throwFailure() }
        guard stop.load(ordering: .relaxed) == 0 else { return nil }
        return try place(batch, bytes, waits: false)
    }

    /// As `write`, for what storage holds already: neither a full disk nor another failure keeps it out, unless memory
    /// is full and flushes fail.
    func replay(_ batch: WriteBatch) throws(EngineError) -> SequenceNumber {
        let bytes = try validate(batch)
        return batch.isEmpty ? region.visibleSequence : try placeWhenThereIsRoom(batch, bytes)
    }

    /// Waits for as long as writers are held up.
    @inline(__always)
    private func admit(_ batch: WriteBatch, _ bytes: Int) throws(EngineError) {
        throttle.admit(bytes)
        // After a failure that is over there may be a stop.
        if hasFailure.load(ordering: .relaxed) { try checkFailure(batch, bytes) }
        if stop.load(ordering: .relaxed) != 0 { try waitWhileStopped(batch, bytes) }
    }

    private func placeWhenThereIsRoom(_ batch: WriteBatch, _ bytes: Int) throws(EngineError) -> SequenceNumber {
        guard let last = try place(batch, bytes, waits: true) else { throw .closed }
        return last
    }

    /// - Returns: the last sequence number; nil when there is no room and the caller does not wait for any.
    @inline(__always)
    private func place(_ batch: WriteBatch, _ bytes: Int, waits: Bool) throws(EngineError) -> SequenceNumber? {
        let room = bytes + batch.count * WritePath.entryOverheadBytes
        try checkFits(room, batch.count)
        var reserved = reserve(batch, room)
        while reserved == nil {
            guard try makeRoom(for: room, batch.count, waits: waits) else { return nil }
            reserved = reserve(batch, room)
        }
        guard let (memtable, first) = reserved else { throw .closed }
        fill(batch, memtable, first)
        let last = first + UInt64(batch.count) - 1
        publish(first, last)
        memtable.inFlight.wrappingSubtract(1, ordering: .releasing)
        bytesWritten.wrappingAdd(UInt64(bytes), ordering: .relaxed)
        batchesWritten.wrappingAdd(1, ordering: .relaxed)
        return last
    }

    /// What an entry takes beside its key and value: its header, links on three levels (more are rare, and made
    /// up for by the many that have one), alignment.
    private static let entryOverheadBytes = RegionLayout.Entry.links + 12 + 7

    /// A batch that the empty region could not hold would wait for ever.
    private func checkFits(_ bytes: Int, _ count: Int) throws(EngineError) {
        let filters = 2 * MemtableFilter.slabCount(memtableSize: options.memtableSize)
        guard slabsNeeded(bytes, count, shards: RegionLayout.MemtableSlot.maximumShards) > allocator.slabCount - filters,
            slabsNeeded(bytes, count, shards: options.shards) > allocator.slabCount - filters
        else { return }
        throw .invalidArgument(
            "a batch of \(bytes) bytes is too large for memtable memory of \(birthplace.size) bytes")
    }

    private func validate(_ batch: WriteBatch) throws(EngineError) -> Int {
        var bytes = 0
        for operation in batch.operations {
            guard operation.keyCount >= 1, operation.keyCount <= EntryLimits.maximumKeyBytes else {
                throw .invalidArgument(
                    "a key must have 1 to \(EntryLimits.maximumKeyBytes) bytes, not \(operation.keyCount)")
            }
            let limit = operation.kind == .rangeDelete ? EntryLimits.maximumKeyBytes : EntryLimits.maximumValueBytes
            guard operation.valueCount <= limit else {
                throw .invalidArgument("a value must have at most \(limit) bytes, not \(operation.valueCount)")
            }
            bytes += operation.keyCount + operation.valueCount
        }
        guard bytes <= EntryLimits.maximumBatchBytes else {
            throw .invalidArgument(
                "a batch must have at most \(EntryLimits.maximumBatchBytes) bytes, not \(bytes)")
        }
        return bytes
    }

    /// Sequence numbers and room for every entry; nil when the memtable has to be switched first.
    private func reserve(_ batch: WriteBatch, _ bytes: Int) -> (Memtable, SequenceNumber)? {
        batch.placements.removeAll(keepingCapacity: true)
        return lock.withLock { locked -> (Memtable, SequenceNumber)? in
            let memtable = locked.active
            let stored = memtable.reservedBytes
            guard !locked.isClosed, stored == 0 || stored + bytes <= options.memtableSize, !memtable.isExhausted,
                hasSlabs(for: bytes, batch.count, memtable)
            else {
                return nil
            }
            let first = locked.nextSequence
            var map = memtable.map
            var sequence = first
            for operation in batch.operations {
                let key = batch.key(of: operation)
                var position = map.route(key)
                // Only between batches: an entry that this one has placed is not linked yet, and the split would
                // not see it.
                if batch.placements.isEmpty, map.shards[position].reservedBytes >= fairShare,
                    memtable.splitIfOutgrown(map.shards[position], for: key, fairShare: fairShare)
                {
                    map = memtable.map
                    position = map.route(key)
                }
                locked.random ^= locked.random << 13
                locked.random ^= locked.random >> 7
                locked.random ^= locked.random << 17
                // Each level holds a quarter of the one below.
                let height = 1 + min(locked.random.trailingZeroBitCount / 2, RegionLayout.Entry.maximumHeight - 1)
                let shard = map.references[position]
                let size = Shard.allocationBytes(height: height, key: operation.keyCount, value: operation.valueCount)
                let offset = memtable.reserve(shard._withUnsafeGuaranteedRef { $0 }, size, sequence)
                // `hasSlabs` has looked for the room, but a memtable that is being made may have taken it since.
                guard offset != 0 else {
                    for placement in batch.placements {
                        placement.shard._withUnsafeGuaranteedRef { memtable.cancel($0, placement.offset) }
                    }
                    batch.placements.removeAll(keepingCapacity: true)
                    return nil
                }
                FaultPoint.midReserve.hit()
                batch.placements.append(
                    WriteBatch.Placement(shard: shard, offset: offset, height: UInt8(height)))
                sequence += 1
            }
            locked.nextSequence = sequence
            memtable.inFlight.wrappingAdd(1, ordering: .relaxed)
            return (memtable, first)
        }
    }

    /// Whether the region surely has the slabs a batch may need: half of a slab may stay unused when its
    /// next entry is large, and each entry may be the first of its shard.
    private func hasSlabs(for bytes: Int, _ count: Int, _ memtable: Memtable) -> Bool {
        allocator.available >= slabsNeeded(bytes, count, shards: memtable.map.shards.count)
    }

    private func slabsNeeded(_ bytes: Int, _ count: Int, shards: Int) -> Int {
        bytes * 2 / RegionLayout.slabBytes + 1 + min(count, shards + 1)
    }

    private func fill(_ batch: WriteBatch, _ memtable: Memtable, _ first: SequenceNumber) {
        let lastIndex = batch.count - 1
        for index in 0...lastIndex {
            let operation = batch.operations[index]
            let placement = batch.placements[index]
            let key = batch.key(of: operation)
            let flag = index == lastIndex ? RegionLayout.Entry.batchEndFlag : 0
            placement.shard._withUnsafeGuaranteedRef { shard in
                shard.fill(
                    placement.offset, kind: operation.kind.rawValue | flag, height: Int(placement.height),
                    sequence: first + UInt64(index), key: key, value: batch.value(of: operation))
                if operation.kind == .rangeDelete {
                    memtable.tombstones.add(
                        RangeTombstone(
                            begin: [UInt8](key), end: [UInt8](batch.value(of: operation)),
                            sequence: first + UInt64(index)))
                    shard.countTombstone()
                } else {
                    memtable.filter.add(hashKey(key))
                    FaultPoint.midInsert.hit()
                    if memtable.fabric != nil {
                        memtable.payForSearch(key, .seek(first + UInt64(index)), more: 1)
                    }
                    shard.insert(placement.offset, splice: &batch.splice)
                }
            }
        }
        batch.splice.shard = nil
    }

    /// Waits for the batches before this one, then makes it visible.
    @inline(__always)
    private func publish(_ first: SequenceNumber, _ last: SequenceNumber) {
        var spins = 0
        while region.visibleSequence != first - 1 {
            spins += 1
            if spins < 64 { o3_cpu_relax() } else { sched_yield() }
        }
        FaultPoint.beforePublish.hit()
        region.visibleSequence = last
    }

    // MARK: Making room

    /// Seals the active memtable and puts a new one in its place; waits, a bounded time and counted, while
    /// the region has no room for one, or answers false.
    private func makeRoom(for bytes: Int, _ count: Int, waits: Bool) throws(EngineError) -> Bool {
        var wait: WriteThrottle.Wait?
        defer { throttle.end(wait) }
        while true {
            let ticket = roomBell.ticket
            if lock.withLock({ $0.isClosed }) { throw .closed }
            if try trySwitch(needing: bytes, count) { return true }
            guard waits else { return false }
            if hasFailure.load(ordering: .relaxed) { try throwFailure() }
            throttle.wait(&wait, for: .dmFull)
            waitForRoom(ticket)
        }
    }

    /// Switches memtables if the active one is still full. False when the region has no room.
    private func trySwitch(needing bytes: Int, _ count: Int) throws(EngineError) -> Bool {
        var isSwitched = false
        let done = switchLock.withLock { _ -> Bool in
            let (active, stored) = lock.withLock { ($0.active, $0.active.reservedBytes) }
            let hasSlabs = self.hasSlabs(for: bytes, count, active)
            if hasSlabs, !active.isExhausted, stored == 0 || stored + bytes <= options.memtableSize { return true }
            // A region that is full for now is no reason to seal a memtable that has room: flushes of
            // the older ones make place, and readers that end. Only when there are none must this one go, unless
            // nothing comes free with it.
            if !hasSlabs, stored < options.memtableSize / 2, holder.current.memtables.count > 1 { return false }
            if !hasSlabs, stored == 0, active.map.shards.count <= max(options.shards, 1) { return false }
            isSwitched = switchMemtable(active)
            return isSwitched
        }
        if isSwitched { wakeControlPlane() }
        return done
    }

    /// A memtable was sealed, or somebody waits for a judgement.
    private func wakeControlPlane() { region.doorbell(RegionLayout.Doorbells.jobFinished).ring() }

    /// Under `switchLock`.
    private func switchMemtable(_ active: Memtable) -> Bool {
        let start = monotonicNanoseconds()
        guard
            let fresh = Memtable.create(
                id: region.takeMemtableID(), region: birthplace, allocator: allocator,
                boundaries: ShardBoundaries.learn(from: active.map, shards: options.shards),
                memtableSize: options.memtableSize)
        else { return false }
        lock.withLock { locked in
            active.seal(lastSequence: locked.nextSequence - 1)
            FaultPoint.midSeal.hit()
            fresh.activate(firstSequence: locked.nextSequence)
            holder.update { ReadState(memtables: [fresh] + $0.memtables, version: $0.version) }
            locked.active = fresh
        }
        handOvers.record(monotonicNanoseconds() - start)
        return true
    }

    /// Seals the active memtable if it holds anything.
    ///
    /// - Returns: the last sequence that was given out.
    func seal() throws(EngineError) -> SequenceNumber {
        var wait: WriteThrottle.Wait?
        defer { throttle.end(wait) }
        while true {
            let ticket = roomBell.ticket
            if let sealed = sealIfRoom() {
                wakeControlPlane()
                return sealed
            }
            if hasFailure.load(ordering: .relaxed) { try throwFailure() }
            throttle.wait(&wait, for: .dmFull)
            waitForRoom(ticket)
        }
    }

    /// As `seal`, but does not wait and rings nobody: nil when the region has no room for another memtable.
    @discardableResult
    func sealIfRoom() -> SequenceNumber? {
        switchLock.withLock { _ -> SequenceNumber? in
            let (active, next) = lock.withLock { ($0.active, $0.nextSequence) }
            if active.reservedBytes == 0 { return next - 1 }
            return switchMemtable(active) ? next - 1 : nil
        }
    }

    /// Takes no batch from here on; those that have their place are finished by their writers, and a `seal`
    /// after this covers them.
    func close() {
        lock.withLock { $0.isClosed = true }
        roomFreed()
    }

    var active: Memtable { lock.withLock { $0.active } }

    /// Control plane: slabs have come free, or a stop was lifted.
    func roomFreed() { roomBell.ring() }

    private func waitForRoom(_ ticket: UInt32) { roomBell.wait(since: ticket, milliseconds: 50) }

    private func waitWhileStopped(_ batch: WriteBatch, _ bytes: Int) throws(EngineError) {
        var wait: WriteThrottle.Wait?
        defer { throttle.end(wait) }
        while true {
            let ticket = roomBell.ticket
            if lock.withLock({ $0.isClosed }) { throw .closed }
            let stop = stop.load(ordering: .acquiring)
            if stop == 0 || stop == WritePath.stoppedForSpace && Self.givesSpaceBack(batch, bytes) { return }
            if hasFailure.load(ordering: .relaxed) { try checkFailure(batch, bytes) }
            throttle.wait(&wait, for: stop == WritePath.stoppedForSpace ? .storageFull : .l0Full)
            waitForRoom(ticket)
        }
    }

    /// Values of `stop` but 0.
    static let stoppedForLevel0 = 1, stoppedForSpace = 2

    // MARK: Failures

    /// Control plane: from now on (or no longer, with nil) writes fail with this error.
    func setFailure(_ error: EngineError?) {
        failure.withLock { $0 = error }
        hasFailure.store(error != nil, ordering: .releasing)
        roomFreed()
    }

    var currentFailure: EngineError? { failure.withLock { $0 } }

    /// On a full disk small batches that delete something still pass: they are how space comes back.
    private func checkFailure(_ batch: WriteBatch, _ bytes: Int) throws(EngineError) {
        guard let error = currentFailure else { return }
        guard error.isOutOfSpace else { throw error }
        if Self.givesSpaceBack(batch, bytes) { return }
        // What was deleted a moment ago may have changed it.
        waitForJudgement()
        if let error = currentFailure { throw error }
    }

    /// How often the control plane has looked at what writes may do.
    private let judgements = Atomic<Int>(0)

    /// Control plane: failure, pace and stop are as of now.
    func judged() {
        judgements.wrappingAdd(1, ordering: .releasing)
        if hasFailure.load(ordering: .relaxed) { roomFreed() }
    }

    /// Waits until the control plane has looked again, from the beginning; a second at most.
    private func waitForJudgement() {
        // The look that is being taken may have begun before this.
        let wanted = judgements.load(ordering: .acquiring) + 2
        let start = monotonicNanoseconds()
        while monotonicNanoseconds() - start < 1_000_000_000 {
            let ticket = roomBell.ticket
            if judgements.load(ordering: .acquiring) >= wanted { return }
            wakeControlPlane()
            waitForRoom(ticket)
        }
    }

    private static func givesSpaceBack(_ batch: WriteBatch, _ bytes: Int) -> Bool {
        bytes <= 4096 && batch.operations.contains { $0.kind != .put }
    }

    private func throwFailure() throws(EngineError) {
        if let error = currentFailure { throw error }
    }
}
