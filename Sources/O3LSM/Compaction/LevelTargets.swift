/// How large each level should be, and which one L0 is compacted into.
///
/// The targets follow from the size of the largest level: each level above it may hold
/// `levelSizeMultiplier` times less, up to the *base level*, the first whose target is at most
/// `levelBaseSize`. Nine tenths of the data then lie in the last level whatever the size of the
/// store, and a small store has two levels and not seven. (RocksDB's dynamic level sizes are where
/// the idea is from.)
struct LevelTargets: Equatable, Sendable {
    /// L0 is compacted into this level, 1 … 6; all levels between are empty.
    let baseLevel: Int
    /// Wanted bytes by level; at least 1. Meaningless above the base level.
    let bytes: [UInt64]

    /// - Parameter sizes: bytes by level, L0 first.
    init(sizes: [UInt64], options: Options) {
        let last = sizes.count - 1
        let multiplier = UInt64(max(2, options.levelSizeMultiplier))
        let largest = sizes.dropFirst().max() ?? 0
        var bytes = Array(repeating: UInt64(1), count: sizes.count)
        bytes[last] = max(largest, UInt64(options.levelBaseSize))
        for level in (1..<last).reversed() { bytes[level] = max(1, bytes[level + 1] / multiplier) }
        var base = last
        while base > 1, bytes[base] > UInt64(options.levelBaseSize) { base -= 1 }
        // Data of L0 must not pass by older data: a level above that is not empty yet (the store has
        // shrunk, or its options have changed) is the base level until it has drained.
        if let first = sizes.indices.dropFirst().first(where: { sizes[$0] > 0 }) { base = min(base, first) }
        baseLevel = base
        self.bytes = bytes
    }
}
