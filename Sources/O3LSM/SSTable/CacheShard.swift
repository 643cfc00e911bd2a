import Synchronization

/// One lock's worth of the block cache: an S3-FIFO (Yang et al., "FIFO queues are all you need for
/// cache eviction", SOSP 2023).
///
/// New blocks enter a small queue of a tenth of the budget. Those that are read again while they are
/// in it move to the main queue; the others leave, and only their hash is remembered for a while: a
/// block that comes back soon goes to the main queue at once. A scan so washes through the small
/// queue and leaves the main one alone. A hit counts up to three and moves nothing; the main queue's
/// oldest block goes around once more for each hit.
///
/// A block that is pinned is not evicted. Pinned blocks count towards the budget and have no more than a share of it.
/// Thread-safe.
final class CacheShard: Sendable {
    private let state: Mutex<State>

    init(capacity: Int) { state = Mutex(State(capacity: capacity)) }

    @inline(__always)
    func lookup(_ key: CacheKey, _ hash: UInt64, touch: Bool) -> Block? {
        state.withLock { state in state.lookup(key, hash, touch) }
    }

    /// Answers the block that is in the shard afterwards, or that would be if it fit.
    func insert(_ block: Block, _ key: CacheKey, _ hash: UInt64) -> Block {
        // Evicted blocks die after the lock is released: freeing memory takes its time.
        let (resident, _) = state.withLock { state in state.insert(block, key, hash) }
        return resident
    }

    /// Keeps the block until `unpin`, if no more than `share` bytes are pinned then.
    ///
    /// - Returns: the block that is pinned now; nil when there is no room for it.
    func pin(_ block: Block, _ key: CacheKey, _ hash: UInt64, share: Int) -> Block? {
        let (pinned, _) = state.withLock { state in state.pin(block, key, hash, share) }
        return pinned
    }

    /// Ends one `pin` of the key, whose block may have been removed since.
    func unpin(_ key: CacheKey, _ hash: UInt64) { state.withLock { state in state.unpin(key, hash) } }

    /// Lets go of every block of the file.
    func removeAll(file: UInt64) {
        let removed = state.withLock { state in state.removeAll(file: file) }
        // They die here, after the lock is released.
        withExtendedLifetime(removed) {}
    }

    func addStatistics(to total: inout BlockCache.Statistics) {
        state.withLock { state in
            total.hits += state.hits
            total.misses += state.misses
            total.usedBytes += state.usedBytes
            total.pinnedBytes += state.pinnedBytes
            total.blockCount += state.count
        }
    }

    private struct Node {
        var key: CacheKey
        var hash: UInt64
        var block: Block?
        /// The block's, so that a walk over nodes leaves blocks alone.
        var charge: UInt32
        /// The node that is next to leave the queue; or the next free one.
        var next: Int32 = -1
        var pins: UInt16 = 0
        var hits: UInt8 = 0
        /// Pinned nodes leave their queue when they get to its end.
        var isQueued = false
    }

    private enum QueueName: Int, CaseIterable {
        case small = 0
        case main = 1
    }

    /// Nodes from the oldest to the newest.
    private struct Queue {
        var oldest: Int32 = -1
        var newest: Int32 = -1
        var bytes = 0
    }

    private struct State {
        let capacity: Int
        var hits: UInt64 = 0
        var misses: UInt64 = 0
        var count = 0
        /// Of all blocks, and of those that are pinned.
        private(set) var usedBytes = 0
        private(set) var pinnedBytes = 0
        private var queues = [Queue(), Queue()]
        private var nodes: [Node] = []
        private var freeNode: Int32 = -1
        /// Open addressing, linear probing: node numbers, or -1. At most half full.
        private var buckets: [Int32]
        /// Hashes of blocks that left the small queue. Each has one place; a newer one takes it over.
        private var ghosts: [UInt64]

        private static let mostHits: UInt8 = 3
        /// What an average block is assumed to cost, when the number of ghosts is chosen.
        private static let averageBlockBytes = 8 << 10

        init(capacity: Int) {
            self.capacity = capacity
            buckets = Array(repeating: -1, count: 64)
            var ghostCount = 64
            while ghostCount < capacity / Self.averageBlockBytes { ghostCount *= 2 }
            ghosts = Array(repeating: 0, count: ghostCount)
        }

        @inline(__always)
        mutating func lookup(_ key: CacheKey, _ hash: UInt64, _ touch: Bool) -> Block? {
            let node = find(key, hash)
            guard node >= 0 else {
                misses &+= 1
                return nil
            }
            hits &+= 1
            if touch, nodes[node].hits < Self.mostHits { nodes[node].hits += 1 }
            return nodes[node].block
        }

        mutating func insert(_ block: Block, _ key: CacheKey, _ hash: UInt64) -> (Block, evicted: [Block]) {
            var evicted: [Block] = []
            let present = find(key, hash)
            if present >= 0, let resident = nodes[present].block { return (resident, evicted) }
            while usedBytes + block.charge > capacity {
                guard let victim = evictOne() else { return (block, evicted) }
                evicted.append(victim)
            }
            if (count + 1) * 2 > buckets.count { growBuckets() }
            let node = allocate(Node(key: key, hash: hash, block: block, charge: UInt32(block.charge)))
            usedBytes += block.charge
            link(node)
            let place = ghostPlace(hash)
            if ghosts[place] == hash {
                ghosts[place] = 0
                append(node, to: .main)
            } else {
                append(node, to: .small)
            }
            return (block, evicted)
        }

        mutating func pin(_ block: Block, _ key: CacheKey, _ hash: UInt64, _ share: Int) -> (Block?, evicted: [Block]) {
            let present = find(key, hash)
            let isPinned = present >= 0 && nodes[present].pins > 0
            guard isPinned || pinnedBytes + block.charge <= share else { return (nil, []) }
            let (resident, evicted) = insert(block, key, hash)
            let node = find(key, hash)
            guard node >= 0, nodes[node].pins < .max else { return (nil, evicted) }
            nodes[node].pins += 1
            if nodes[node].pins == 1 { pinnedBytes += Int(nodes[node].charge) }
            return (resident, evicted)
        }

        mutating func unpin(_ key: CacheKey, _ hash: UInt64) {
            let node = find(key, hash)
            guard node >= 0, nodes[node].pins > 0 else { return }
            nodes[node].pins -= 1
            guard nodes[node].pins == 0 else { return }
            pinnedBytes -= Int(nodes[node].charge)
            if !nodes[node].isQueued { append(node, to: .small) }
        }

        // MARK: Eviction

        /// nil when there is nothing left to evict.
        private mutating func evictOne() -> Block? {
            while true {
                let small = queues[QueueName.small.rawValue]
                if small.oldest >= 0, small.bytes > capacity / 10 || queues[QueueName.main.rawValue].oldest < 0 {
                    guard let node = removeOldest(of: .small) else { return nil }
                    if nodes[node].pins > 0 { continue }
                    if nodes[node].hits > 1 {
                        nodes[node].hits = 0
                        append(node, to: .main)
                        continue
                    }
                    ghosts[ghostPlace(nodes[node].hash)] = nodes[node].hash
                    return remove(node)
                }
                guard let node = removeOldest(of: .main) else { return nil }
                if nodes[node].pins > 0 { continue }
                if nodes[node].hits > 0 {
                    nodes[node].hits -= 1
                    append(node, to: .main)
                    continue
                }
                return remove(node)
            }
        }

        private mutating func remove(_ node: Int) -> Block? {
            unlink(node)
            count -= 1
            usedBytes -= Int(nodes[node].charge)
            if nodes[node].pins > 0 { pinnedBytes -= Int(nodes[node].charge) }
            let block = nodes[node].block
            nodes[node].block = nil
            nodes[node].next = freeNode
            freeNode = Int32(node)
            return block
        }

        private func ghostPlace(_ hash: UInt64) -> Int { Int(truncatingIfNeeded: hash >> 20) & (ghosts.count - 1) }

        mutating func removeAll(file: UInt64) -> [Block] {
            var removed: [Block] = []
            for node in nodes.indices
            where nodes[node].block != nil && !nodes[node].isQueued && nodes[node].key.file == file {
                if let block = remove(node) { removed.append(block) }
            }
            for name in QueueName.allCases {
                var rest = queues[name.rawValue].oldest
                queues[name.rawValue] = Queue()
                while rest >= 0 {
                    let node = Int(rest)
                    rest = nodes[node].next
                    if nodes[node].key.file != file {
                        append(node, to: name)
                    } else if let block = remove(node) {
                        removed.append(block)
                    }
                }
            }
            return removed
        }

        // MARK: Queues and nodes

        private mutating func append(_ node: Int, to name: QueueName) {
            let newest = queues[name.rawValue].newest
            nodes[node].next = -1
            if newest >= 0 { nodes[Int(newest)].next = Int32(node) } else { queues[name.rawValue].oldest = Int32(node) }
            queues[name.rawValue].newest = Int32(node)
            queues[name.rawValue].bytes += Int(nodes[node].charge)
            nodes[node].isQueued = true
        }

        private mutating func removeOldest(of name: QueueName) -> Int? {
            let oldest = queues[name.rawValue].oldest
            guard oldest >= 0 else { return nil }
            let node = Int(oldest)
            queues[name.rawValue].oldest = nodes[node].next
            if nodes[node].next < 0 { queues[name.rawValue].newest = -1 }
            queues[name.rawValue].bytes -= Int(nodes[node].charge)
            nodes[node].isQueued = false
            return node
        }

        private mutating func allocate(_ node: Node) -> Int {
            count += 1
            guard freeNode >= 0 else {
                nodes.append(node)
                return nodes.count - 1
            }
            let index = Int(freeNode)
            freeNode = nodes[index].next
            nodes[index] = node
            return index
        }

        // MARK: Hash table

        @inline(__always)
        private func find(_ key: CacheKey, _ hash: UInt64) -> Int {
            let mask = buckets.count - 1
            var bucket = Int(truncatingIfNeeded: hash) & mask
            while true {
                let node = Int(buckets[bucket])
                if node < 0 { return -1 }
                if nodes[node].hash == hash, nodes[node].key == key { return node }
                bucket = (bucket + 1) & mask
            }
        }

        private mutating func link(_ node: Int) {
            let mask = buckets.count - 1
            var bucket = Int(truncatingIfNeeded: nodes[node].hash) & mask
            while buckets[bucket] >= 0 { bucket = (bucket + 1) & mask }
            buckets[bucket] = Int32(node)
        }

        /// Empties the node's bucket and moves up those behind it that it kept from their place.
        private mutating func unlink(_ node: Int) {
            let mask = buckets.count - 1
            var hole = Int(truncatingIfNeeded: nodes[node].hash) & mask
            while buckets[hole] != Int32(node) { hole = (hole + 1) & mask }
            var bucket = hole
            while true {
                bucket = (bucket + 1) & mask
                let next = buckets[bucket]
                if next < 0 { break }
                let home = Int(truncatingIfNeeded: nodes[Int(next)].hash) & mask
                if (bucket - home) & mask >= (bucket - hole) & mask {
                    buckets[hole] = next
                    hole = bucket
                }
            }
            buckets[hole] = -1
        }

        private mutating func growBuckets() {
            let old = buckets
            buckets = Array(repeating: -1, count: old.count * 2)
            for node in old where node >= 0 { link(Int(node)) }
        }
    }
}
