/// What two states of one store differ in.
extension EngineCore {
    /// Key ranges (both ends inclusive), ascending and disjoint, outside of which this store holds what `base`, an
    /// earlier state of it, holds. Found from the tables that both have, without reading any: what it costs grows
    /// with what has changed, or was compacted, since.
    func ranges(changedSince base: EngineCore) -> [ClosedKeyRange] {
        let mine = holder.current.version.levels.joined()
        let theirs = base.holder.current.version.levels.joined()
        let sequence = base.region.visibleSequence
        // Of a table with later entries the earlier state shows a part only.
        func isSettled(_ file: FileMetadata) -> Bool { file.largestSequence <= sequence }
        var known: [UInt64: FileMetadata] = [:]
        for file in theirs where isSettled(file) { known[file.number] = file }
        var changed: [FileMetadata] = []
        var shared: Set<UInt64> = []
        for file in mine {
            if let other = known[file.number], other.isSame(as: file) {
                shared.insert(file.number)
            } else {
                changed.append(file)
            }
        }
        changed += theirs.filter { !shared.contains($0.number) }
        return ClosedKeyRange.union(
            changed.map { ClosedKeyRange(begin: $0.smallest.userKey, end: $0.largest.userKey) })
    }
}

/// The keys `begin ... end`.
struct ClosedKeyRange: Equatable {
    var begin: [UInt8]
    var end: [UInt8]

    /// The first key after it.
    var bound: [UInt8] { end + [0] }

    /// The same keys in as few ranges as possible, ascending.
    static func union(_ ranges: [ClosedKeyRange]) -> [ClosedKeyRange] {
        var result: [ClosedKeyRange] = []
        for range in ranges.sorted(by: { compareKeys($0.begin, $1.begin) < 0 }) {
            if let last = result.last, compareKeys(range.begin, last.end) <= 0 {
                if compareKeys(last.end, range.end) < 0 { result[result.count - 1].end = range.end }
            } else {
                result.append(range)
            }
        }
        return result
    }
}
