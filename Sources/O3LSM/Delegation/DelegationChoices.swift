import CSystem
import Synchronization

/// The choices of all kinds of reads, one for each class. Thread-safe.
///
/// What a choice has come to is one word, 0 while its reads are like those of a store without delegation. The words of all
/// choices that a point read can meet lie in one line of the processor's cache: such a read looks at them and at a counter of
/// its thread, and writes nothing that others read. Only one in `O3_SAMPLED_EVERY` comes by here, and counts for all of them.
final class DelegationChoices: @unchecked Sendable {
    // @unchecked: the words are atomic, the rest is immutable.

    enum Kind: Int, CaseIterable {
        /// A single key whose place the offset cache knows. The class is that of the memtable with the place and those newer.
        case cached
        /// Any other single key.
        case point
        /// A key of several.
        case batch
        /// An entry of a scan.
        case scan
    }

    private let isOffsetCacheUsed: Bool
    /// A line for each distance with the words of points, then one with the others.
    private let words: UnsafeMutableRawPointer
    private let choices: [DelegationChoice]

    private static let lineBytes = 64
    private static let wordBytes = 8
    private static let lines = 2 * ReadClass.distances

    /// - Parameters:
    ///   - isAutomatic: false chooses to delegate always.
    ///   - isOffsetCacheUsed: whether there are reads of the kind `.cached`.
    init(isAutomatic: Bool, isOffsetCacheUsed: Bool) {
        self.isOffsetCacheUsed = isOffsetCacheUsed
        let words = UnsafeMutableRawPointer.allocate(byteCount: Self.lines * Self.lineBytes, alignment: Self.lineBytes)
        words.initializeMemory(as: UInt8.self, repeating: 0, count: Self.lines * Self.lineBytes)
        self.words = words
        choices = Kind.allCases.flatMap { kind in
            ReadClass.all.map { readClass in
                DelegationChoice(
                    isAutomatic: isAutomatic,
                    hasPlace: kind == .cached,
                    word: Self.word(words, kind, readClass)
                )
            }
        }
    }

    deinit { words.deallocate() }

    @inline(__always)
    private static func word(_ words: UnsafeMutableRawPointer, _ kind: Kind, _ readClass: ReadClass)
        -> UnsafeMutablePointer<Atomic<UInt64>>
    {
        let line = (kind.rawValue >> 1) * ReadClass.distances + (readClass.isFar ? 1 : 0)
        let place = (kind.rawValue & 1) * ReadClass.lengths + readClass.length
        return sharedWord64(words + line * lineBytes + place * wordBytes)
    }

    subscript(kind: Kind, readClass: ReadClass) -> DelegationChoice {
        choices[kind.rawValue * ReadClass.count + readClass.index]
    }

    /// For how many point reads of this thread, this one among them, a way is to be chosen now; 0: this one goes the direct
    /// way, and nothing is to be done about it.
    @inline(__always)
    func readsToChooseFor(_ readClass: ReadClass) -> UInt64 {
        var found = Self.word(words, .point, readClass).pointee.load(ordering: .relaxed)
        if isOffsetCacheUsed {
            let first = Self.word(words, .cached, readClass) - readClass.length
            for length in 0...readClass.length { found |= first[length].load(ordering: .relaxed) }
        }
        if found != 0 { return 1 }
        return o3_is_sampled() != 0 ? UInt64(O3_SAMPLED_EVERY) : 0
    }

    /// Tells those that a point read can meet that one goes by, so that bursts end which no read goes on with.
    func passBy(_ readClass: ReadClass) {
        for length in 0...readClass.length {
            let shorter = ReadClass(isFar: readClass.isFar, memtables: 1 << length)
            if isOffsetCacheUsed { self[.cached, shorter].passBy() }
        }
        self[.point, readClass].passBy()
    }

    /// One row for each choice that reads have met.
    var statistics: [Statistics.DelegationClass] {
        Kind.allCases.flatMap { kind in
            ReadClass.all.compactMap { readClass in
                let choice = self[kind, readClass]
                let counts = choice.counts
                guard counts.direct > 0 || counts.cached > 0 || counts.delegated > 0 else { return nil }
                var row = Statistics.DelegationClass()
                row.kind = "\(kind)"
                row.distance = readClass.isFar ? "far" : "near"
                row.memtables = readClass.memtables
                row.preference = choice.preference.rawValue
                (row.direct, row.cached, row.delegated) = counts
                row.trials = choice.trials
                row.directNanoseconds = choice.walkNanoseconds
                row.cachedNanoseconds = choice.placeNanoseconds
                row.delegatedNanoseconds = choice.delegatedNanoseconds
                return row
            }
        }
    }
}
