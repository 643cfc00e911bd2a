/// What `Block.search` found: the first entry at or after the target.
struct BlockSearchResult {
    /// False when every entry sorts before the target.
    var isFound = false
    /// Whether the entry's user key is the target's.
    var isSameKey = false
    var trailer = Trailer.last
    var valueOffset = 0
    var valueCount = 0
}

extension Block {
    /// Finds the first entry at or after (`key`, `trailer`) without rebuilding keys and without
    /// allocating. Throws `.corruption` when the entries on its way cannot be parsed.
    ///
    /// After a binary search over the restart points, each entry is compared only from where the
    /// target and the entry before it part: an entry that shares more than that with its predecessor
    /// is smaller than the target, as its predecessor is.
    func search(_ key: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) -> BlockSearchResult {
        var result = BlockSearchResult()
        guard restartCount > 0 else { return result }
        var offset = restart(lastRestart(before: key, trailer))
        let base = self.base
        let limit = entriesEnd
        /// Bytes of the target's prefix that the entry before has too.
        var matched = 0
        var previousCount = 0
        while offset < limit {
            let entry = BlockEntry(base, at: offset, limit: limit)
            guard entry.isWhole, entry.shared <= previousCount else { throw damaged(at: offset) }
            previousCount = entry.shared + entry.unshared
            offset = entry.end
            if entry.shared > matched { continue }
            let rest = key.count - entry.shared
            let stored = base + entry.keyOffset
            var common = 0
            if let target = key.baseAddress {
                common = commonPrefixLength(stored, target + entry.shared, min(entry.unshared, rest))
            }
            let entryTrailer = entry.trailer(in: base)
            if common == entry.unshared {
                let isSameKey = common == rest
                if !isSameKey || entryTrailer.rawValue > trailer.rawValue {
                    matched = entry.shared + common
                    continue
                }
                result.isSameKey = true
            } else if common < rest, stored.load(fromByteOffset: common, as: UInt8.self) < key[entry.shared + common] {
                matched = entry.shared + common
                continue
            }
            result.isFound = true
            result.trailer = entryTrailer
            result.valueOffset = entry.valueOffset
            result.valueCount = entry.valueCount
            return result
        }
        return result
    }
}
