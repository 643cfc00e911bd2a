import Synchronization

/// Opens tables on demand and keeps them open. Thread-safe.
///
/// At most `capacity` tables are held. The first ones stay with the metadata of their files for as long as that is in use,
/// where a reader finds them without a lock; when they are three quarters of the capacity, all others share the rest, and
/// the most recently used ones of those stay open. One that is evicted stays open until its last reader lets go. Files are
/// opened outside of the locks: when two threads open the same table at once, one of the two objects is dropped.
final class TableCache: Sendable {
    private let storage: any Storage
    private let layout: StoreLayout
    let blockCache: BlockCache
    private let shards: [Shard]
    /// Tables that stay with their metadata, and how many may.
    private let residents = OpenTableCounter()
    private let mostResidents: Int

    private static let shardCount = 16

    init(storage: any Storage, layout: StoreLayout, capacity: Int, blockCache: BlockCache) {
        self.storage = storage
        self.layout = layout
        self.blockCache = blockCache
        mostResidents = capacity / 4 * 3
        let rest = capacity - mostResidents
        let count = max(1, min(Self.shardCount, rest))
        shards = (0..<count).map { _ in Shard(capacity: max(1, rest / count)) }
    }

    /// The open table of the file. Throws what opening it throws, and `.corruption` when the file is
    /// not of the size that the manifest says.
    ///
    /// - Parameter isTopLevel: whether its filter and index are kept in memory before others' (`BlockCache.pin`); of
    ///   tables that are opened by this call.
    @inline(__always)
    func table(_ file: FileMetadata, isTopLevel: Bool = false) throws(EngineError) -> Table {
        if let table = file.table.unmanaged { return table.takeUnretainedValue() }
        return try find(file, isTopLevel)
    }

    @inline(never)
    private func find(_ file: FileMetadata, _ isTopLevel: Bool) throws(EngineError) -> Table {
        let shard = shard(file.number)
        if let table = shard.find(file.number) { return table }
        let path = layout.table(file.number)
        let opened = try storage.openForReading(path)
        guard opened.size == file.size else {
            throw .corruption(
                file: path,
                offset: min(opened.size, file.size),
                expected: "a table of \(file.size) bytes",
                found: "\(opened.size) bytes"
            )
        }
        let stays = residents.count.load(ordering: .relaxed) < mostResidents
        let table = try Table.open(
            opened,
            number: file.number,
            cache: blockCache,
            isTopLevel: isTopLevel,
            counter: stays ? residents : nil
        )
        guard stays else { return shard.insert(table) }
        if file.table.set(table) { return table }
        return file.table.unmanaged?.takeUnretainedValue() ?? table
    }

    /// A table that no version knows yet, opened afresh so that what is checked is what is on storage.
    ///
    /// - Parameter attempt: the attempt that its name carries; nil when it has its own name.
    func openForVerification(number: UInt64, attempt: UInt64? = nil) throws(EngineError) -> Table {
        try Table.open(
            try storage.openForReading(layout.table(number, attempt: attempt)),
            number: number,
            cache: nil
        )
    }

    /// Forgets the table and its blocks: its file, whose metadata is gone, is about to be removed.
    func evict(number: UInt64) {
        shard(number).remove(number)
        blockCache.removeAll(file: number)
    }

    /// Tables that are held open.
    var openCount: Int { shards.reduce(residents.count.load(ordering: .relaxed)) { $0 + $1.count } }

    private func shard(_ number: UInt64) -> Shard { shards[Int(truncatingIfNeeded: number % UInt64(shards.count))] }

    /// Tables whose numbers share a remainder, evicted by CLOCK.
    private final class Shard: Sendable {
        private struct Slot {
            var table: Table
            var wasUsed: Bool
        }
        private struct State {
            var places: [UInt64: Int] = [:]
            var slots: [Slot] = []
            var hand = 0
        }

        private let capacity: Int
        private let state = Mutex(State())

        init(capacity: Int) { self.capacity = capacity }

        var count: Int { state.withLock { $0.slots.count } }

        func find(_ number: UInt64) -> Table? {
            state.withLock { state in
                guard let place = state.places[number] else { return nil }
                if !state.slots[place].wasUsed { state.slots[place].wasUsed = true }
                return state.slots[place].table
            }
        }

        /// Answers the table to use. What is evicted closes after the lock is released.
        func insert(_ table: Table) -> Table {
            let (resident, _) = state.withLock { state -> (Table, Table?) in
                if let place = state.places[table.number] { return (state.slots[place].table, nil) }
                guard state.slots.count >= capacity else {
                    state.places[table.number] = state.slots.count
                    state.slots.append(Slot(table: table, wasUsed: false))
                    return (table, nil)
                }
                while state.slots[state.hand].wasUsed {
                    state.slots[state.hand].wasUsed = false
                    state.hand = (state.hand + 1) % state.slots.count
                }
                let victim = state.slots[state.hand].table
                state.places[victim.number] = nil
                state.places[table.number] = state.hand
                state.slots[state.hand] = Slot(table: table, wasUsed: false)
                state.hand = (state.hand + 1) % state.slots.count
                return (table, victim)
            }
            return resident
        }

        func remove(_ number: UInt64) {
            let removed = state.withLock { state -> Table? in
                guard let place = state.places.removeValue(forKey: number) else { return nil }
                let table = state.slots[place].table
                let last = state.slots.count - 1
                if place != last {
                    state.slots[place] = state.slots[last]
                    state.places[state.slots[place].table.number] = place
                }
                state.slots.removeLast()
                if state.hand >= state.slots.count { state.hand = 0 }
                return table
            }
            _ = removed
        }
    }
}
