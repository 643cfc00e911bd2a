import Glibc

/// Range tombstones cut where any of them begins or ends: sorted, non-overlapping fragments
/// `[begin, end)`, each with the sequences of the tombstones that cover it, newest first. Neighbours
/// with the same sequences are one fragment.
///
/// Immutable and thread-safe. A search is two binary searches over flat memory and allocates nothing.
/// Fragments that nest n deep hold n sequences each, so n nested tombstones take n² words; whoever
/// writes tombstones to storage bounds that with `init(_:newestPerStratumOf:)`. Fragmenting is an
/// idea of RocksDB and Pebble.
struct FragmentedTombstones: Sendable {
    /// One fragment, copied out.
    struct Fragment: Equatable, Sendable {
        var begin: [UInt8]
        var end: [UInt8]
        /// Newest first, never empty.
        var sequences: [SequenceNumber]
    }

    static let empty = FragmentedTombstones(storage: FragmentStorage(FragmentBuilder()))

    private let storage: FragmentStorage

    private init(storage: FragmentStorage) { self.storage = storage }

    /// Fragments of all the tombstones, in any order. Empty or reversed ranges are ignored.
    /// O(n log n) comparisons, plus the sequences of the result.
    init(_ tombstones: [RangeTombstone]) {
        self.init(tombstones) { active, emit in
            for sequence in active { emit(sequence) }
        }
    }

    /// As `init(_:)`, but a fragment keeps only the newest sequence of each stratum, the sequences
    /// between two neighbours of `snapshots` (ascending): no reader can tell the others apart.
    init(_ tombstones: [RangeTombstone], newestPerStratumOf snapshots: [SequenceNumber]) {
        self.init(tombstones) { active, emit in
            // `active` is descending: find the first of the newest stratum, then jump below the
            // newest snapshot that is older than it.
            var index = 0
            while index < active.count {
                emit(active[index])
                guard let floor = newestSnapshot(before: active[index], in: snapshots) else { return }
                index = partitionPoint(index, active.count) { active[$0] > floor }
            }
        }
    }

    private init(
        _ tombstones: [RangeTombstone],
        select: (_ active: [SequenceNumber], _ emit: (SequenceNumber) -> Void) -> Void
    ) {
        let valid = tombstones.filter { compareKeys($0.begin, $0.end) < 0 }
        guard !valid.isEmpty else {
            self = .empty
            return
        }
        let byBegin = valid.indices.sorted { compareKeys(valid[$0].begin, valid[$1].begin) < 0 }
        let byEnd = valid.indices.sorted { compareKeys(valid[$0].end, valid[$1].end) < 0 }
        var builder = FragmentBuilder()
        var active: [SequenceNumber] = []  // descending, with repetitions
        var selected: [SequenceNumber] = []
        var nextBegin = 0
        var nextEnd = 0
        // Sweep over the bounds in order; between two of them the active set is constant.
        var position: [UInt8] = []
        while nextEnd < byEnd.count {
            let end = valid[byEnd[nextEnd]].end
            var bound = end
            if nextBegin < byBegin.count {
                let begin = valid[byBegin[nextBegin]].begin
                if compareKeys(begin, end) < 0 { bound = begin }
            }
            if !active.isEmpty {
                selected.removeAll(keepingCapacity: true)
                select(active) { if selected.last != $0 { selected.append($0) } }
                builder.append(position, bound, selected)
            }
            position = bound
            while nextEnd < byEnd.count, valid[byEnd[nextEnd]].end == bound {
                let sequence = valid[byEnd[nextEnd]].sequence
                active.remove(at: partitionPoint(0, active.count) { active[$0] > sequence })
                nextEnd += 1
            }
            while nextBegin < byBegin.count, valid[byBegin[nextBegin]].begin == bound {
                let sequence = valid[byBegin[nextBegin]].sequence
                active.insert(sequence, at: partitionPoint(0, active.count) { active[$0] > sequence })
                nextBegin += 1
            }
        }
        storage = FragmentStorage(builder)
    }

    var isEmpty: Bool { storage.count == 0 }
    /// Fragments.
    var count: Int { storage.count }

    /// The newest sequence at or below `sequence` of a tombstone that covers `key`; 0 if there is none.
    /// An entry of the key with a smaller sequence is deleted.
    func newestCovering(_ key: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) -> SequenceNumber {
        guard storage.count > 0 else { return 0 }
        let index = firstFragment(endingAfter: key)
        guard index < storage.count, compareKeys(storage.begin(index), key) <= 0 else { return 0 }
        return newest(ofFragment: index, upTo: sequence)
    }

    /// As `newestCovering(_:upTo:)`, for keys that are asked for nearly in order (either way): `hint`
    /// carries the place of the last search and may start as 0.
    func newestCovering(
        _ key: UnsafeRawBufferPointer, upTo sequence: SequenceNumber, hint: inout Int
    ) -> SequenceNumber {
        guard storage.count > 0 else { return 0 }
        moveHint(&hint, to: key)
        guard hint < storage.count, compareKeys(storage.begin(hint), key) <= 0 else { return 0 }
        return newest(ofFragment: hint, upTo: sequence)
    }

    /// The index of the first fragment that ends after `key`: the one that holds the key or, if none
    /// does, the next one; `count` if there is none.
    func firstFragment(endingAfter key: UnsafeRawBufferPointer) -> Int {
        partitionPoint(0, storage.count) { compareKeys(storage.end($0), key) <= 0 }
    }

    /// First key of a fragment; valid while this value, or a copy, is held.
    func begin(ofFragment index: Int) -> UnsafeRawBufferPointer { storage.begin(index) }
    /// First key after a fragment; valid while this value, or a copy, is held.
    func end(ofFragment index: Int) -> UnsafeRawBufferPointer { storage.end(index) }
    /// The newest sequence at or below `sequence` of a fragment; 0 if there is none.
    func newest(ofFragment index: Int, upTo sequence: SequenceNumber) -> SequenceNumber {
        let sequences = storage.sequences(index)
        if sequences[0] <= sequence { return sequences[0] }
        let found = partitionPoint(1, sequences.count) { sequences[$0] > sequence }
        return found < sequences.count ? sequences[found] : 0
    }

    /// All fragments, copied out.
    var fragments: [Fragment] {
        (0..<storage.count).map {
            Fragment(
                begin: [UInt8](storage.begin($0)), end: [UInt8](storage.end($0)),
                sequences: [SequenceNumber](storage.sequences($0)))
        }
    }

    /// The same deletions as tombstones, one for each sequence of each fragment, by begin ascending,
    /// then sequence descending.
    func tombstones() -> [RangeTombstone] {
        fragments.flatMap { fragment in
            fragment.sequences.map { RangeTombstone(begin: fragment.begin, end: fragment.end, sequence: $0) }
        }
    }

    /// What lies in `begin ..< end` (nil: unbounded), cut at the bounds.
    func clipped(to begin: [UInt8]?, _ end: [UInt8]?) -> FragmentedTombstones {
        if isEmpty || (begin == nil && end == nil) { return self }
        var builder = FragmentBuilder()
        let first = begin.map { key in key.withUnsafeBytes { firstFragment(endingAfter: $0) } } ?? 0
        for index in first..<storage.count {
            var from = [UInt8](storage.begin(index))
            var to = [UInt8](storage.end(index))
            if let begin, compareKeys(from, begin) < 0 { from = begin }
            if let end {
                if compareKeys(from, end) >= 0 { break }
                if compareKeys(to, end) > 0 { to = end }
            }
            if compareKeys(from, to) < 0 { builder.append(from, to, [SequenceNumber](storage.sequences(index))) }
        }
        return builder.fragments.isEmpty ? .empty : FragmentedTombstones(storage: FragmentStorage(builder))
    }

    /// Makes `hint` what `firstFragment(endingAfter:)` answers, cheaply when it is near.
    private func moveHint(_ hint: inout Int, to key: UnsafeRawBufferPointer) {
        let count = storage.count
        hint = max(0, min(hint, count))
        if hint == 0 || compareKeys(storage.end(hint - 1), key) <= 0 {
            // The answer is at the hint or after it: try it and its neighbour, then search.
            for _ in 0..<2 {
                if hint == count || compareKeys(storage.end(hint), key) > 0 { return }
                hint += 1
            }
            hint = partitionPoint(hint, count) { compareKeys(storage.end($0), key) <= 0 }
        } else {
            hint = partitionPoint(0, hint - 1) { compareKeys(storage.end($0), key) <= 0 }
        }
    }
}

/// The first index of `lower ..< upper` at which `isBefore` is false, given that it is true for a
/// prefix of the range only; `upper` if it is true for all.
@inline(__always)
func partitionPoint(_ lower: Int, _ upper: Int, _ isBefore: (Int) -> Bool) -> Int {
    var low = lower
    var high = upper
    while low < high {
        let middle = low + (high - low) / 2
        if isBefore(middle) { low = middle + 1 } else { high = middle }
    }
    return low
}

/// The newest of `snapshots` (ascending) that is older than the entry `sequence`, that is, does not see it.
@inline(__always)
func newestSnapshot(before sequence: SequenceNumber, in snapshots: [SequenceNumber]) -> SequenceNumber? {
    let index = partitionPoint(0, snapshots.count) { snapshots[$0] < sequence }
    return index > 0 ? snapshots[index - 1] : nil
}

/// Where the parts of one fragment lie in a `FragmentStorage`.
private struct FragmentPlace {
    var beginOffset: Int
    var beginCount: Int
    var endOffset: Int
    var endCount: Int
    var firstSequence: Int
    var sequenceCount: Int
}

/// Collects fragments in order; each bound is stored once where neighbours share it.
private struct FragmentBuilder {
    private(set) var fragments: [FragmentPlace] = []
    private(set) var bytes: [UInt8] = []
    private(set) var sequences: [SequenceNumber] = []

    mutating func append(_ begin: [UInt8], _ end: [UInt8], _ newSequences: [SequenceNumber]) {
        guard !newSequences.isEmpty else { return }
        var beginOffset = bytes.count
        if let last = fragments.last, bytes[last.endOffset..<last.endOffset + last.endCount].elementsEqual(begin) {
            let lastSequences = sequences[last.firstSequence..<last.firstSequence + last.sequenceCount]
            if lastSequences.elementsEqual(newSequences) {
                fragments[fragments.count - 1].endOffset = bytes.count
                fragments[fragments.count - 1].endCount = end.count
                bytes += end
                return
            }
            beginOffset = last.endOffset
        } else {
            bytes += begin
        }
        let endOffset = bytes.count
        bytes += end
        fragments.append(
            FragmentPlace(
                beginOffset: beginOffset, beginCount: begin.count, endOffset: endOffset, endCount: end.count,
                firstSequence: sequences.count, sequenceCount: newSequences.count))
        sequences += newSequences
    }
}

/// The memory of a `FragmentedTombstones`: allocated once and never moved, so that pointers into it
/// stay valid while it lives.
private final class FragmentStorage: @unchecked Sendable {
    // @unchecked: nothing is written after init.
    let count: Int
    private let places: UnsafeMutablePointer<FragmentPlace>
    private let bytes: UnsafeMutablePointer<UInt8>
    private let allSequences: UnsafeMutablePointer<SequenceNumber>

    init(_ builder: FragmentBuilder) {
        count = builder.fragments.count
        places = .allocate(capacity: max(1, builder.fragments.count))
        bytes = .allocate(capacity: max(1, builder.bytes.count))
        allSequences = .allocate(capacity: max(1, builder.sequences.count))
        for (index, place) in builder.fragments.enumerated() { (places + index).initialize(to: place) }
        for (index, byte) in builder.bytes.enumerated() { (bytes + index).initialize(to: byte) }
        for (index, sequence) in builder.sequences.enumerated() {
            (allSequences + index).initialize(to: sequence)
        }
    }

    deinit {
        places.deallocate()
        bytes.deallocate()
        allSequences.deallocate()
    }

    @inline(__always) func begin(_ index: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: bytes + places[index].beginOffset, count: places[index].beginCount)
    }
    @inline(__always) func end(_ index: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: bytes + places[index].endOffset, count: places[index].endCount)
    }
    @inline(__always) func sequences(_ index: Int) -> UnsafeBufferPointer<SequenceNumber> {
        UnsafeBufferPointer(
            start: allSequences + places[index].firstSequence, count: places[index].sequenceCount)
    }
}
