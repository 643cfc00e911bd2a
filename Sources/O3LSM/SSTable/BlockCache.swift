/// Keeps blocks of tables in memory, up to a budget of bytes that is never exceeded. Thread-safe.
///
/// Sharded by the hash of (file number, offset); a hit takes one short lock and moves nothing. Data,
/// index and filter blocks live by the same rules. A block that is evicted while someone reads it
/// lives on until they let go, outside of the budget.
///
/// Open tables pin their filter and the top of their index, so that a look-up finds them without asking the cache
/// (RocksDB's `pin_l0_filter_and_index_blocks_in_cache` and `pin_top_level_index_and_filter`). They are counted in the
/// budget: those of the tree's top levels may take half of it, all others only what of the first quarter is left.
final class BlockCache: Sendable {
    struct Statistics: Equatable, Sendable {
        var hits: UInt64 = 0
        var misses: UInt64 = 0
        var usedBytes = 0
        /// Of `usedBytes`: what is not evicted.
        var pinnedBytes = 0
        var capacity = 0
        var blockCount = 0
    }

    private let shards: [CacheShard]
    private let shardShift: UInt64
    /// Bytes of a shard.
    private let share: Int
    /// The budget in bytes, overhead of the blocks included.
    let capacity: Int
    /// The greatest `Block.charge` that is ever kept.
    let maximumCharge: Int

    /// A shard holds at least this much, so that a filter of a large table (ten million keys) still fits in one.
    private static let leastShardBytes = 16 << 20
    private static let mostShards = 64

    /// - Parameter capacity: the budget in bytes; below a block's size, nothing is kept.
    init(capacity: Int) {
        var count = 1
        while count < Self.mostShards, capacity / (count * 2) >= Self.leastShardBytes { count *= 2 }
        let share = max(0, capacity) / count
        self.share = share
        self.capacity = capacity
        maximumCharge = min(share / 4 * 3, Int(UInt32.max))
        shardShift = UInt64(64 - count.trailingZeroBitCount)
        shards = (0..<count).map { _ in CacheShard(capacity: share) }
    }

    /// The block at `offset` of the file, if it is here. `touch` is false for readers whose visits say
    /// nothing about the next one (scans).
    @inline(__always)
    func lookup(file: UInt64, offset: UInt64, touch: Bool = true) -> Block? {
        let hash = Self.hash(file, offset)
        return shard(hash).lookup(CacheKey(file: file, offset: offset), hash, touch: touch)
    }

    /// Adds the block, unless it is too large or the key has one already. Answers the block to use:
    /// that of whoever came first.
    func insert(_ block: Block, file: UInt64, offset: UInt64) -> Block {
        guard block.charge <= maximumCharge else { return block }
        let hash = Self.hash(file, offset)
        return shard(hash).insert(block, CacheKey(file: file, offset: offset), hash)
    }

    /// Adds the block and keeps it until `unpin`, while there is room for pinned blocks.
    ///
    /// - Parameter isTopLevel: whether its table is in one of the levels that almost every look-up visits.
    /// - Returns: the block to use; nil: it is not pinned.
    func pin(_ block: Block, file: UInt64, offset: UInt64, isTopLevel: Bool) -> Block? {
        guard block.charge <= maximumCharge else { return nil }
        let hash = Self.hash(file, offset)
        return shard(hash).pin(
            block,
            CacheKey(file: file, offset: offset),
            hash,
            share: share / (isTopLevel ? 2 : 4)
        )
    }

    /// Ends one `pin`.
    func unpin(file: UInt64, offset: UInt64) {
        let hash = Self.hash(file, offset)
        shard(hash).unpin(CacheKey(file: file, offset: offset), hash)
    }

    /// Lets go of every block of a file that nobody will ask for again. Walks the whole cache.
    func removeAll(file: UInt64) {
        for shard in shards { shard.removeAll(file: file) }
    }

    var statistics: Statistics {
        var result = Statistics(capacity: capacity)
        for shard in shards { shard.addStatistics(to: &result) }
        return result
    }

    @inline(__always)
    private func shard(_ hash: UInt64) -> CacheShard {
        // A shift by 64 (one shard) gives 0.
        shards[Int(truncatingIfNeeded: hash >> shardShift)]
    }

    @inline(__always)
    private static func hash(_ file: UInt64, _ offset: UInt64) -> UInt64 {
        let product = (file &* 0x9e37_79b9_7f4a_7c15 ^ offset).multipliedFullWidth(by: 0xbb67_ae85_84ca_a73b)
        return (product.high ^ product.low) &* 0x9e37_79b9_7f4a_7c15
    }
}

/// What a cached block is found by.
struct CacheKey: Equatable, Sendable {
    var file: UInt64
    var offset: UInt64
}
