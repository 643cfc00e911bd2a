import CSystem
import Glibc
import Synchronization

/// Moves sealed memtables from private memory to DM while writers go on, or decides that they are flushed
/// from where they are. Used by the control plane's thread; the copying is done by threads of its own.
final class OffloadScheduler: @unchecked Sendable {
    // @unchecked: what is not under `queue` or atomic belongs to the control plane's thread.
    private let region: Region
    /// Of DM's slabs.
    let allocator: SlabAllocator
    private let localCapacity: Int
    private let threadCount: Int
    private var running: [MemtableTransfer] = []
    /// Ids of memtables that stay in private memory until they are flushed.
    private var flushedLocally = Set<UInt64>()
    private var threads: [BackgroundThread] = []
    private let queue = Mutex<[MemtableTransfer.Piece]>([])
    private let bell = PrivateDoorbell()
    private let isStopping = Atomic<Bool>(false)
    private let onCopied: @Sendable () -> Void
    private let stored = Mutex(Statistics.Offload())
    /// Bytes a second of recent transfers; what local memory does until one has been measured.
    private var bytesPerSecond = 2e9

    /// - Parameters:
    ///   - region: DM, with the allocator of its slabs.
    ///   - onCopied: rung when a transfer has been copied.
    init(
        options: Options, region: Region, allocator: SlabAllocator, onCopied: @escaping @Sendable () -> Void
    ) {
        self.region = region
        self.allocator = allocator
        self.onCopied = onCopied
        localCapacity = max(2, options.localBuffer / options.memtableSize)
        threadCount = options.transferThreads
    }

    func start() throws(EngineError) {
        for index in 0..<threadCount {
            threads.append(try BackgroundThread("o3-offload-\(index)") { [self] in loop() })
        }
    }

    /// Ends the threads; transfers that are not complete leave nothing behind.
    func stop() {
        isStopping.store(true, ordering: .releasing)
        bell.ring()
        for thread in threads { thread.join() }
        threads = []
    }

    var statistics: Statistics.Offload { stored.withLock { $0 } }

    /// Share of DM in use, 0 … 1.
    var dmOccupancy: Double { allocator.occupancy }

    /// Whether a sealed memtable is where it will be flushed from.
    func mayFlush(_ memtable: Memtable) -> Bool { memtable.isInDM || flushedLocally.contains(memtable.id) }

    /// Puts finished transfers in place, then begins what is due.
    ///
    /// - Parameters:
    ///   - flushBytesPerSecond: recent speed of flushing; 0 for unknown.
    ///   - backlogBytes: of memtables whose flush is planned.
    ///   - hasWorkers: whether another process flushes.
    /// - Returns: whether private memory has come free.
    func step(_ holder: ReadStateHolder, flushBytesPerSecond: Double, backlogBytes: Int, hasWorkers: Bool)
        throws(EngineError) -> Bool
    {
        let freed = try install(holder)
        let sealed = holder.current.memtables.reversed().filter {
            !$0.isInDM && $0.state == .sealed && region.visibleSequence >= $0.lastSequence
        }
        flushedLocally.formIntersection(holder.current.memtables.lazy.filter { !$0.isInDM }.map(\.id))
        for memtable in sealed
        where !flushedLocally.contains(memtable.id) && !running.contains(where: { $0.source === memtable }) {
            let situation = OffloadPolicy.Situation(
                bytes: memtable.reservedBytes, sealedMemtables: sealed.count, localCapacity: localCapacity,
                hasRoomInDM: allocator.available >= MemtableTransfer.slabsNeeded(memtable),
                dmOccupancy: allocator.occupancy, dmBacklogBytes: backlogBytes,
                transferBytesPerSecond: bytesPerSecond, flushBytesPerSecond: flushBytesPerSecond,
                hasWorkers: hasWorkers)
            switch OffloadPolicy.decide(situation) {
            case .offload:
                guard let transfer = MemtableTransfer.begin(memtable, to: region, allocator, beside: running) else { return freed }
                running.append(transfer)
                queue.withLock { $0 += transfer.pieces }
                bell.ring()
            case .flushLocally:
                flushedLocally.insert(memtable.id)
                stored.withLock { $0.flushedLocally += 1 }
            case .wait:
                // Younger ones are flushed after this one: their turn comes later, too.
                return freed
            }
        }
        return freed
    }

    /// Readers find the copy from here on; the original goes when the last of them lets go of it.
    private func install(_ holder: ReadStateHolder) throws(EngineError) -> Bool {
        let finished = running.filter(\.isCopied)
        guard !finished.isEmpty else { return false }
        running.removeAll { transfer in finished.contains { $0 === transfer } }
        for transfer in finished {
            let copy: Memtable
            do throws(EngineError) { copy = try transfer.finish() } catch {
                // Never by itself: memory was damaged. The original is whole, and is flushed from where it is.
                flushedLocally.insert(transfer.source.id)
                stored.withLock { $0.failed += 1 }
                continue
            }
            let source = transfer.source
            holder.update { state in
                ReadState(memtables: state.memtables.map { $0 === source ? copy : $0 }, version: state.version)
            }
            source.markReleasable()
            let bytes = source.reservedBytes
            let seconds = Double(monotonicNanoseconds() - transfer.startedAt) / 1e9
            let speed = Double(bytes) / max(seconds, 1e-6)
            bytesPerSecond = bytesPerSecond * 0.7 + speed * 0.3
            stored.withLock { stored in
                stored.memtables += 1
                stored.bytes += UInt64(bytes)
                stored.seconds += seconds
            }
        }
        return true
    }

    private func loop() {
        while true {
            // Before the look at the flag: a ring after it ends the wait.
            let ticket = bell.ticket
            if isStopping.load(ordering: .acquiring) { return }
            if let piece = queue.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) {
                if piece.transfer.copy(piece) { onCopied() }
                continue
            }
            bell.wait(since: ticket)
        }
    }
}
