import Synchronization

/// The range tombstones of one memtable, kept as sorted disjoint fragments so that a read finds the
/// newest one over its key by binary search while more of them arrive.
///
/// Private to a process and rebuilt from the arenas after a crash. Thread-safe.
final class MemtableTombstones: Sendable {
    private struct Fragment {
        var begin: [UInt8]
        var end: [UInt8]
        /// Descending.
        var sequences: [SequenceNumber]
    }

    private let fragments = Mutex<[Fragment]>([])
    private let storedCount = Atomic<Int>(0)
    /// Sequences of all fragments together: of n nested tombstones about n²/2.
    private let sequenceCount = Atomic<Int>(0)

    /// A few hundred nested tombstones, 2 MiB of sequences.
    private static let mostSequences = 1 << 18

    var isEmpty: Bool { storedCount.load(ordering: .acquiring) == 0 }
    /// Tombstones added.
    var count: Int { storedCount.load(ordering: .relaxed) }

    /// Whether the memtable should be sealed, for what further tombstones would take.
    var isCrowded: Bool { sequenceCount.load(ordering: .relaxed) > Self.mostSequences }

    /// Adds a tombstone that is not empty. It must be added before its sequence becomes visible.
    func add(_ tombstone: RangeTombstone) {
        let added = fragments.withLock { fragments -> Int in
            var added = 0
            var position = MemtableTombstones.firstEnding(after: tombstone.begin, in: fragments)
            var begin = tombstone.begin
            while compareKeys(begin, tombstone.end) < 0 {
                guard position < fragments.count, compareKeys(fragments[position].begin, tombstone.end) < 0 else {
                    fragments.insert(
                        Fragment(begin: begin, end: tombstone.end, sequences: [tombstone.sequence]), at: position)
                    added += 1
                    break
                }
                let next = fragments[position]
                if compareKeys(begin, next.begin) < 0 {
                    fragments.insert(
                        Fragment(begin: begin, end: next.begin, sequences: [tombstone.sequence]), at: position)
                    begin = next.begin
                    position += 1
                    added += 1
                    continue
                }
                if compareKeys(next.begin, begin) < 0 {
                    fragments[position].end = begin
                    fragments.insert(Fragment(begin: begin, end: next.end, sequences: next.sequences), at: position + 1)
                    position += 1
                    added += next.sequences.count
                    continue
                }
                if compareKeys(tombstone.end, next.end) < 0 {
                    fragments[position].end = tombstone.end
                    fragments.insert(
                        Fragment(begin: tombstone.end, end: next.end, sequences: next.sequences), at: position + 1)
                    added += next.sequences.count
                }
                let place = fragments[position].sequences.firstIndex { $0 < tombstone.sequence }
                fragments[position].sequences.insert(
                    tombstone.sequence, at: place ?? fragments[position].sequences.count)
                begin = fragments[position].end
                position += 1
                added += 1
            }
            return added
        }
        sequenceCount.wrappingAdd(added, ordering: .relaxed)
        storedCount.wrappingAdd(1, ordering: .releasing)
    }

    /// The newest tombstone over the key with a sequence of at most `sequence`; 0 when there is none.
    func newestCovering(_ key: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) -> SequenceNumber {
        if isEmpty { return 0 }
        return fragments.withLock { fragments in
            var low = 0
            var high = fragments.count
            while low < high {
                let middle = (low + high) >> 1
                let isAfter = fragments[middle].end.withUnsafeBytes { compareKeys($0, key) <= 0 }
                if isAfter { low = middle + 1 } else { high = middle }
            }
            guard low < fragments.count, fragments[low].begin.withUnsafeBytes({ compareKeys($0, key) <= 0 }) else {
                return 0
            }
            return fragments[low].sequences.first { $0 <= sequence } ?? 0
        }
    }

    /// The tombstones, fragment by fragment, clipped to `begin ..< end` (nil: unbounded).
    ///
    /// - Parameter sequence: of each fragment only the newest up to this, which is all that a reader at it can tell;
    ///   nil: all.
    func tombstones(from begin: [UInt8]?, to end: [UInt8]?, newestUpTo sequence: SequenceNumber? = nil) -> [RangeTombstone] {
        if isEmpty { return [] }
        return fragments.withLock { fragments in
            var result: [RangeTombstone] = []
            var position = begin.map { MemtableTombstones.firstEnding(after: $0, in: fragments) } ?? 0
            while position < fragments.count {
                let fragment = fragments[position]
                if let end, compareKeys(fragment.begin, end) >= 0 { break }
                var clippedBegin = fragment.begin
                var clippedEnd = fragment.end
                if let begin, compareKeys(clippedBegin, begin) < 0 { clippedBegin = begin }
                if let end, compareKeys(end, clippedEnd) < 0 { clippedEnd = end }
                if let sequence {
                    if let newest = fragment.sequences.first(where: { $0 <= sequence }) {
                        result.append(RangeTombstone(begin: clippedBegin, end: clippedEnd, sequence: newest))
                    }
                } else {
                    for sequence in fragment.sequences {
                        result.append(RangeTombstone(begin: clippedBegin, end: clippedEnd, sequence: sequence))
                    }
                }
                position += 1
            }
            return result
        }
    }

    /// Position of the first fragment whose end is after `key`.
    private static func firstEnding(after key: [UInt8], in fragments: [Fragment]) -> Int {
        var low = 0
        var high = fragments.count
        while low < high {
            let middle = (low + high) >> 1
            if compareKeys(fragments[middle].end, key) <= 0 { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
