import Glibc
import Synchronization

/// Where the newest entry of a key lies in a sealed memtable: a cache of fixed size in memory of the compute
/// node, which replaces the walk through the skiplist of that memtable. Thread-safe and lock-free.
///
/// A slot has two words of 64 bits. The second one alone is the truth: memtable, shard and offset of an entry
/// that was the newest of *its* key when the memtable was sealed. The first, the hash of the key, only says
/// where to look. Whoever has a place compares the key of the entry there with the one it looks for; so the
/// halves of two slots that threads write at once may mix, and cost a miss, but never a wrong answer.
///
/// A sealed memtable does not change and its id is never given out again: a place stays right for as long as
/// anybody can ask for it, and dies with its memtable without being looked for. What is not in a memtable is
/// not remembered.
///
/// Slots lie in sets of four, one line of the processor's cache each. The idea of the cache is that of O3-LSM
/// (arXiv 2603.05439).
final class OffsetCache: @unchecked Sendable {
    // @unchecked: all access to the words is atomic; the rest is immutable.

    /// The place of an entry within a memtable.
    struct Place: Equatable {
        /// `Shard.index`.
        var shard: Int
        /// The entry's offset in the shard's arena.
        var offset: UInt32
    }

    static let slotBytes = 16
    private static let ways = 4
    static let setBytes = slotBytes * ways

    // Memtable (33 bits) | shard (5) | offset / 8 (26). Entries begin at multiples of 8, and never at 0: an
    // empty slot is 0 and names nothing.
    private static let offsetBits: UInt64 = 26
    private static let shardBits: UInt64 = 5
    /// Memtables with greater ids are not cached. At 1 MiB each that is after 8 PiB of writes.
    static let maximumMemtableID = UInt64(1) << (64 - offsetBits - shardBits) - 1

    /// Bytes of the slots.
    let capacityBytes: Int
    private let sets: UInt64
    private let words: UnsafeMutableRawPointer

    /// Counters, one line of the processor's cache for each stripe of the hashes: hits, misses.
    private let counters: UnsafeMutableRawPointer
    private static let stripes = 16
    private static let stripeBytes = 64

    /// - Parameter budgetBytes: what the slots may take; they take it as they are filled.
    /// - Returns: nil when the budget is below one set of slots.
    /// - Throws: `.memoryUnavailable`.
    init?(budgetBytes: Int) throws(EngineError) {
        // The fields of a word must hold whatever the layout allows.
        precondition(RegionLayout.ShardRoot.maximumSlabs * RegionLayout.slabBytes / 8 <= 1 << Self.offsetBits)
        precondition(RegionLayout.MemtableSlot.maximumShards <= 1 << Self.shardBits)
        let count = budgetBytes / Self.setBytes
        guard count > 0 else { return nil }
        let bytes = count * Self.setBytes
        // Pages that nobody has touched are zero and cost nothing.
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        guard let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, flags, -1, 0), memory != MAP_FAILED else {
            throw .memoryUnavailable(wantedBytes: UInt64(bytes), availableBytes: 0)
        }
        // Look-ups are random: large pages spare their translations.
        madvise(memory, bytes, MADV_HUGEPAGE)
        words = memory
        capacityBytes = bytes
        sets = UInt64(count)
        counters = .allocate(byteCount: Self.stripes * Self.stripeBytes, alignment: Self.stripeBytes)
        memset(counters, 0, Self.stripes * Self.stripeBytes)
    }

    deinit {
        munmap(words, capacityBytes)
        counters.deallocate()
    }

    // MARK: Places

    /// Where the newest entry of the key with this hash may lie. The caller compares the keys.
    ///
    /// - Parameter memtable: id of a sealed memtable.
    @inline(__always)
    func place(_ hash: UInt64, memtable: UInt64) -> Place? {
        let set = self.set(hash)
        for way in 0..<Self.ways {
            let slot = set + way * Self.slotBytes
            guard sharedWord64(slot).pointee.load(ordering: .relaxed) == hash else { continue }
            // Acquiring: who wrote the place had seen the entry.
            let word = sharedWord64(slot + 8).pointee.load(ordering: .acquiring)
            if word >> (Self.offsetBits + Self.shardBits) == memtable, word != 0 { return Self.place(word) }
        }
        return nil
    }

    /// The newest memtable of which the cache knows a place for this hash.
    ///
    /// - Parameter memtables: newest first.
    /// - Returns: its index.
    func newestPlace(_ hash: UInt64, in memtables: ArraySlice<Memtable>) -> Int? {
        let set = self.set(hash)
        var newest: Int?
        for way in 0..<Self.ways {
            let slot = set + way * Self.slotBytes
            guard sharedWord64(slot).pointee.load(ordering: .relaxed) == hash else { continue }
            let word = sharedWord64(slot + 8).pointee.load(ordering: .relaxed)
            guard word != 0 else { continue }
            let memtable = word >> (Self.offsetBits + Self.shardBits)
            var index = memtables.startIndex
            while index < newest ?? memtables.endIndex {
                if memtables[index].id == memtable { newest = index }
                index += 1
            }
        }
        return newest
    }

    /// Remembers a place, and forgets another one of the set: the one of the oldest memtable, which will go
    /// first or has gone already.
    ///
    /// - Parameters:
    ///   - memtable: id of a sealed memtable.
    ///   - place: of the newest entry of a key in it.
    func store(_ hash: UInt64, memtable: UInt64, _ place: Place) {
        guard memtable <= Self.maximumMemtableID else { return }
        let new =
            memtable << (Self.offsetBits + Self.shardBits) | UInt64(place.shard) << Self.offsetBits
            | UInt64(place.offset >> 3)
        let set = self.set(hash)
        var victim = set
        var oldest = UInt64.max
        // Ways of one memtable take turns, in an order that differs from entry to entry.
        let first = Int(place.offset >> 3)
        for step in 0..<Self.ways {
            let slot = set + ((first + step) & (Self.ways - 1)) * Self.slotBytes
            let word = sharedWord64(slot + 8).pointee.load(ordering: .relaxed)
            let memtableThere = word >> (Self.offsetBits + Self.shardBits)
            if word != 0, memtableThere == memtable, sharedWord64(slot).pointee.load(ordering: .relaxed) == hash {
                victim = slot
                break
            }
            // An empty slot is older than any memtable.
            let age = word == 0 ? 0 : memtableThere + 1
            if age < oldest {
                oldest = age
                victim = slot
            }
        }
        sharedWord64(victim + 8).pointee.store(new, ordering: .releasing)
        sharedWord64(victim).pointee.store(hash, ordering: .relaxed)
    }

    @inline(__always)
    private func set(_ hash: UInt64) -> UnsafeMutableRawPointer {
        words + Int(truncatingIfNeeded: hash.multipliedFullWidth(by: sets).high) * Self.setBytes
    }

    @inline(__always)
    private static func place(_ word: UInt64) -> Place {
        Place(
            shard: Int(word >> offsetBits & (1 << shardBits - 1)),
            offset: UInt32(truncatingIfNeeded: word & (1 << offsetBits - 1)) << 3)
    }

    // MARK: Counting

    @inline(__always)
    func countHit(_ hash: UInt64) { _ = counter(hash, 0).pointee.wrappingAdd(1, ordering: .relaxed) }

    @inline(__always)
    func countMiss(_ hash: UInt64) { _ = counter(hash, 8).pointee.wrappingAdd(1, ordering: .relaxed) }

    /// Lookups in sealed memtables that the cache answered, and walks that were made.
    var statistics: Statistics.OffsetCache {
        var sum = Statistics.OffsetCache(capacityBytes: capacityBytes)
        for stripe in 0..<UInt64(Self.stripes) {
            sum.hits += counter(stripe, 0).pointee.load(ordering: .relaxed)
            sum.misses += counter(stripe, 8).pointee.load(ordering: .relaxed)
        }
        return sum
    }

    @inline(__always)
    private func counter(_ hash: UInt64, _ offset: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
        sharedWord64(counters + Int(hash & UInt64(Self.stripes - 1)) * Self.stripeBytes + offset)
    }
}
