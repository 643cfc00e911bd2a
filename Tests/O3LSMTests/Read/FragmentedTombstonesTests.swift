import Testing

@testable import O3LSM

/// Fragments against the plain list of tombstones they were made of.
@Suite struct FragmentedTombstonesTests {
    private static func key(_ number: Int) -> [UInt8] {
        // Lengths differ, so that prefixes sort before what they begin.
        number % 3 == 0 ? [UInt8(number)] : [UInt8(number), UInt8(number % 5)]
    }

    private static func newest(
        _ tombstones: [RangeTombstone], _ key: [UInt8], upTo sequence: SequenceNumber
    ) -> SequenceNumber {
        tombstones.filter {
            $0.sequence <= sequence && compareKeys($0.begin, key) <= 0 && compareKeys(key, $0.end) < 0
        }.map(\.sequence).max() ?? 0
    }

    private static func checkShape(_ fragmented: FragmentedTombstones) {
        let fragments = fragmented.fragments
        for fragment in fragments {
            #expect(compareKeys(fragment.begin, fragment.end) < 0)
            #expect(!fragment.sequences.isEmpty)
            #expect(zip(fragment.sequences, fragment.sequences.dropFirst()).allSatisfy { $0 > $1 })
        }
        for (left, right) in zip(fragments, fragments.dropFirst()) {
            #expect(compareKeys(left.end, right.begin) <= 0)
            #expect(left.end != right.begin || left.sequences != right.sequences, "neighbours not merged")
        }
    }

    @Test func emptyAndReversedRangesAreNothing() {
        let none = FragmentedTombstones([
            RangeTombstone(begin: [3], end: [3], sequence: 1), RangeTombstone(begin: [4], end: [3], sequence: 2),
        ])
        #expect(none.isEmpty && none.tombstones().isEmpty)
        #expect([3].withUnsafeBytes { none.newestCovering($0, upTo: 9) } == 0)
        #expect(FragmentedTombstones.empty.isEmpty)
    }

    @Test func cutsWhereTombstonesBeginAndEnd() {
        let fragmented = FragmentedTombstones([
            RangeTombstone(begin: [1], end: [5], sequence: 3), RangeTombstone(begin: [3], end: [9], sequence: 7),
            RangeTombstone(begin: [9], end: [10], sequence: 7), RangeTombstone(begin: [20], end: [21], sequence: 1),
        ])
        #expect(
            fragmented.fragments == [
                .init(begin: [1], end: [3], sequences: [3]), .init(begin: [3], end: [5], sequences: [7, 3]),
                .init(begin: [5], end: [10], sequences: [7]), .init(begin: [20], end: [21], sequences: [1]),
            ])
    }

    @Test(arguments: 0..<60 as Range<UInt64>)
    func agreesWithTheList(seed: UInt64) {
        var random = SeededRandom(seed)
        let tombstones = (0..<Int.random(in: 0...25, using: &random)).map { _ in
            RangeTombstone(
                begin: Self.key(Int.random(in: 0..<40, using: &random)),
                end: Self.key(Int.random(in: 0..<40, using: &random)),
                sequence: SequenceNumber.random(in: 1...30, using: &random))
        }
        let fragmented = FragmentedTombstones(tombstones)
        Self.checkShape(fragmented)
        let again = FragmentedTombstones(fragmented.tombstones())
        #expect(again.fragments == fragmented.fragments)
        let snapshots = Set((0..<4).map { _ in SequenceNumber.random(in: 0...30, using: &random) }).sorted()
        let thinned = FragmentedTombstones(tombstones, newestPerStratumOf: snapshots)
        Self.checkShape(thinned)
        let low = Self.key(Int.random(in: 0..<40, using: &random))
        let high = Self.key(Int.random(in: 0..<40, using: &random))
        let clipped = fragmented.clipped(to: low, high)
        Self.checkShape(clipped)
        var hint = Int.random(in: 0...5, using: &random)
        for _ in 0..<400 {
            let key = Self.key(Int.random(in: 0..<42, using: &random))
            let sequence = SequenceNumber.random(in: 0...31, using: &random)
            let expected = Self.newest(tombstones, key, upTo: sequence)
            key.withUnsafeBytes { bytes in
                #expect(fragmented.newestCovering(bytes, upTo: sequence) == expected, "seed \(seed) key \(key)")
                #expect(fragmented.newestCovering(bytes, upTo: sequence, hint: &hint) == expected, "seed \(seed)")
                let isInside = compareKeys(low, key) <= 0 && compareKeys(key, high) < 0
                #expect(clipped.newestCovering(bytes, upTo: sequence) == (isInside ? expected : 0), "seed \(seed)")
                for snapshot in snapshots + [maximumSequenceNumber] {
                    let full = Self.newest(tombstones, key, upTo: snapshot)
                    let thin = thinned.newestCovering(bytes, upTo: snapshot)
                    #expect(thin == full, "seed \(seed)")
                }
            }
        }
    }
}
