import Testing

@testable import O3LSM

/// Cursors that are told to skip pass over what is covered, and over nothing else.
@Suite struct SkipTests {
    private struct Level {
        var files: [FileMetadata] = []
        var entries: [ModelEntry] = []
        var contents: [UInt64: [ModelEntry]] = [:]

        /// Files side by side; one in six holds range tombstones alone. No two entries have a sequence in common.
        init(_ random: inout SeededRandom, _ sequences: inout [SequenceNumber]) {
            var nextKey = random.below(10)
            for number in 0..<UInt64(1 + random.below(8)) {
                var found: [ModelEntry] = []
                if random.below(6) > 0 {
                    for _ in 0..<1 + random.below(6) {
                        for _ in 0..<1 + random.below(3) {
                            guard let sequence = sequences.popLast() else { continue }
                            found.append(ModelEntry([UInt8(nextKey)], sequence, random.below(4) == 0 ? .delete : .put))
                        }
                        nextKey += 1 + random.below(2)
                    }
                    found.sort()
                }
                let all = found.map(\.trailer.sequence)
                let begin = InternalKey(userKey: [UInt8(nextKey)], trailer: Trailer(sequence: 1, kind: .rangeDelete))
                nextKey += 1
                files.append(
                    FileMetadata(
                        number: number, size: 1, smallest: found.first?.internalKey ?? begin,
                        largest: found.last?.internalKey ?? InternalKey(userKey: [UInt8(nextKey)], trailer: .first),
                        smallestSequence: all.min() ?? 1, largestSequence: all.max() ?? 1, entryCount: UInt64(found.count),
                        deletionCount: 0, rangeTombstoneCount: found.isEmpty ? 1 : 0))
                contents[number] = found
                entries += found
            }
        }

        func makeIterator() -> LevelIterator {
            let contents = self.contents
            return LevelIterator(files: files) { (file) throws(EngineError) in ArrayIterator(contents[file.number] ?? []) }
        }
    }

    private static func current(_ iterator: InternalIterator) -> ModelEntry? {
        guard iterator.isValid, let kind = iterator.trailer.kind else { return nil }
        return ModelEntry(Array(iterator.userKey), iterator.trailer.sequence, kind)
    }

    @Test(arguments: 0..<60 as Range<UInt64>) func nothingElseIsPassedOver(seed: UInt64) throws {
        var random = SeededRandom(seed &+ 7000)
        var sequences = (2...2000).map { SequenceNumber($0) }.shuffled(using: &random)
        let levels = (0..<1 + random.below(4)).map { _ in Level(&random, &sequences) }
        let model = levels.flatMap(\.entries).sorted()
        let iterator = MergingIterator.over(levels.map { $0.makeIterator() })
        var skipped = 0
        for _ in 0..<200 {
            let isForward = random.below(2) == 0
            let from = [UInt8(random.below(90))]
            let to = [UInt8(random.below(90))]
            let newest = [SequenceNumber(random.below(2000)), 2000][random.below(2)]
            try from.withUnsafeBytes {
                if isForward { try iterator.seek($0, .first) } else { try iterator.seekBefore($0, .first) }
            }
            guard let start = Self.current(iterator), let place = model.firstIndex(of: start) else { continue }
            try to.withUnsafeBytes {
                if isForward { try iterator.skip(to: $0, upTo: newest) } else { try iterator.skipBack(to: $0, upTo: newest) }
            }
            // What comes from here to the end, some steps against the direction in between.
            var found: [ModelEntry] = []
            let turnAt = random.below(40)
            while let entry = Self.current(iterator) {
                found.append(entry)
                if found.count == turnAt, let here = model.firstIndex(of: entry) {
                    let neighbour = isForward ? here - 1 : here + 1
                    if isForward { try iterator.previous() } else { try iterator.next() }
                    let expected = model.indices.contains(neighbour) ? model[neighbour] : nil
                    try #require(Self.current(iterator) == expected, "turned round, seed \(seed)")
                    break
                }
                if isForward { try iterator.next() } else { try iterator.previous() }
            }
            let end = found.count == turnAt ? found.last : nil
            var expected = isForward ? Array(model[place...]) : Array(model[...place].reversed())
            if let end, let last = expected.firstIndex(of: end) { expected.removeLast(expected.count - last - 1) }
            func isCovered(_ entry: ModelEntry) -> Bool {
                let order = compareKeys(entry.key, to)
                return entry.trailer.sequence <= newest && (isForward ? order < 0 : order >= 0)
            }
            var rest = found[...]
            for entry in expected {
                if rest.first == entry { rest.removeFirst() } else {
                    skipped += 1
                    try #require(isCovered(entry), "\(entry) was passed over, to \(to) up to \(newest), seed \(seed)")
                }
            }
            try #require(rest.isEmpty, "out of order, seed \(seed)")
            // A level of which every file is old enough leaves nothing that is covered.
            for level in levels where level.files.allSatisfy({ $0.largestSequence <= newest }) {
                let left = found.filter { isCovered($0) && level.entries.contains($0) }
                try #require(left.isEmpty, "\(left) could have been passed over, seed \(seed)")
            }
        }
        #expect(skipped > 0 || model.count < 40)
    }
}
