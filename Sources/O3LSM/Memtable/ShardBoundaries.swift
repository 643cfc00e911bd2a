/// Where the next memtable's shards begin, learned from the one that has just been sealed.
///
/// The upper levels of a skiplist are a random sample of its entries, so the key distribution costs
/// nothing to collect. Boundaries stay as they are while the shards are balanced, so that tables of one
/// shard line up across memtables, and are cut anew when they are not.
enum ShardBoundaries {
    /// Up to this many different first bytes, a boundary is put wherever the first byte changes: the row
    /// types of a file system grow at their own ends, and a shard that ends with its row type can be split
    /// there while it grows.
    static let maximumRowTypes = 8

    /// - Parameters:
    ///   - map: the shards of a sealed memtable.
    ///   - shards: how many balanced shards are wanted.
    /// - Returns: first keys of the shards after the first, ascending.
    static func learn(from map: ShardMap, shards wanted: Int) -> [[UInt8]] {
        let occupied = map.shards.filter { !$0.isEmpty }
        let total = occupied.reduce(0) { $0 + $1.reservedBytes }
        guard total > 0 else {
            // A writer that finds no room for so many shards asks for a memtable with fewer, once.
            return evenly(map.shards.dropFirst().map(\.lowerBound), atMost: max(wanted, 1) - 1)
        }
        let largest = occupied.map(\.reservedBytes).max() ?? 0
        let isBalanced = largest * wanted <= total * 8 / 5
        if isBalanced, map.shards.count <= wanted + maximumRowTypes {
            return map.shards.dropFirst().map(\.lowerBound)
        }
        return cut(sample(occupied), into: wanted)
    }

    private static func evenly(_ boundaries: [[UInt8]], atMost count: Int) -> [[UInt8]] {
        guard boundaries.count > count else { return boundaries }
        return (0..<count).map { boundaries[($0 + 1) * boundaries.count / (count + 1)] }
    }

    /// One sampled key and the bytes it stands for.
    struct Sample: Equatable {
        var key: [UInt8]
        var weight: Int
    }

    /// Of one level of a shard.
    private static let maximumSamples = 2048

    /// Keys with their weights, ascending.
    static func sample(_ shards: [Shard]) -> [Sample] {
        shards.flatMap { shard -> [Sample] in
            // The lowest level that is still cheap to walk.
            var keys: [Sample] = []
            for level in (0..<RegionLayout.Entry.maximumHeight).reversed() {
                keys.removeAll()
                var node = shard.successor(0, level)
                var looked = 0
                while node != 0, let entry = shard.entry(node), looked < maximumSamples {
                    looked += 1
                    let key = [UInt8](entry.key)
                    // An entry without a key is damaged, which whoever reads it reports.
                    if !key.isEmpty { keys.append(Sample(key: key, weight: Int(entry.allocation))) }
                    node = shard.successor(node, level)
                }
                if keys.count >= 256 { break }
            }
            // Weights are scaled to the bytes of the shard, so that shards sampled on different levels agree.
            let sum = max(keys.reduce(0) { $0 + $1.weight }, 1)
            return keys.map { Sample(key: $0.key, weight: max($0.weight * shard.reservedBytes / sum, 1)) }
        }
    }

    /// Cuts ascending samples into ranges of equal weight.
    static func cut(_ samples: [Sample], into wanted: Int) -> [[UInt8]] {
        var boundaries: [[UInt8]] = []
        var firstBytes: [UInt8] = []
        for sample in samples where firstBytes.last != sample.key.first {
            if let byte = sample.key.first { firstBytes.append(byte) }
        }
        let splitsRowTypes = firstBytes.count > 1 && firstBytes.count <= maximumRowTypes
        let total = samples.reduce(0) { $0 + $1.weight }
        var weight = 0
        var nextCut = total / wanted
        var previous: [UInt8]?
        for sample in samples {
            let changesRowType = splitsRowTypes && previous != nil && previous?.first != sample.key.first
            if let previous, changesRowType || (weight >= nextCut && previous != sample.key) {
                let bound =
                    changesRowType
                    ? [UInt8](sample.key.prefix(1))
                    : [UInt8](sample.key.prefix(RegionLayout.MemtableSlot.Shard.maximumBoundaryLength))
                if compareKeys(boundaries.last ?? [], bound) < 0 { boundaries.append(bound) }
                while weight >= nextCut, nextCut < total { nextCut += max(total / wanted, 1) }
            }
            weight += sample.weight
            previous = sample.key
        }
        return Array(boundaries.prefix(wanted + maximumRowTypes - 1))
    }
}
