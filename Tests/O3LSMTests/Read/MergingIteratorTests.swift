import Testing

@testable import O3LSM

@Suite struct MergingIteratorTests {
    /// Random moves on the merged cursor against an index into the sorted entries.
    static func walk(
        _ iterator: InternalIterator, model: [ModelEntry], steps: Int, random: inout SeededRandom, seed: UInt64,
        makeKey: (inout SeededRandom) -> [UInt8]
    ) throws {
        var index = -1
        for step in 0..<steps {
            let isOn = model.indices.contains(index)
            switch Int.random(in: 0..<(isOn ? 14 : 4), using: &random) {
            case 0:
                try iterator.seekToFirst()
                index = 0
            case 1:
                try iterator.seekToLast()
                index = model.count - 1
            case 2, 3:
                let target = InternalKey(
                    userKey: makeKey(&random),
                    trailer: Trailer(rawValue: UInt64.random(in: 0...(60 << 8), using: &random)))
                let place = model.firstIndex { $0.internalKey >= target } ?? model.count
                if Bool.random(using: &random) {
                    try target.userKey.withUnsafeBytes { try iterator.seek($0, target.trailer) }
                    index = place
                } else {
                    try target.userKey.withUnsafeBytes { try iterator.seekBefore($0, target.trailer) }
                    index = place - 1
                }
            case 4..<9:
                try iterator.next()
                index += 1
            default:
                try iterator.previous()
                index -= 1
            }
            try #require(iterator.isValid == model.indices.contains(index), "seed \(seed) step \(step)")
            if iterator.isValid { try #require(iterator.entry == model[index], "seed \(seed) step \(step)") }
        }
    }

    @Test(arguments: 0..<40 as Range<UInt64>)
    func walksAsTheSortedListDoes(seed: UInt64) throws {
        var random = SeededRandom(seed)
        let childCount = Int(seed % 9)
        var model: [ModelEntry] = []
        var parts: [[ModelEntry]] = Array(repeating: [], count: childCount)
        for sequence in 0..<(childCount == 0 ? 0 : 60) {
            let key = [UInt8](repeating: 7, count: Int.random(in: 0...2, using: &random))
                + [UInt8.random(in: 0...9, using: &random)]
            let entry = ModelEntry(key, SequenceNumber(sequence), .put, [UInt8(sequence)])
            model.append(entry)
            parts[Int.random(in: 0..<childCount, using: &random)].append(entry)
        }
        model.sort()
        let iterator = MergingIterator(parts.map { ArrayIterator($0) })
        #expect(!iterator.isValid)
        try Self.walk(iterator, model: model, steps: 600, random: &random, seed: seed) {
            [UInt8](repeating: 7, count: Int.random(in: 0...2, using: &$0)) + [UInt8.random(in: 0...10, using: &$0)]
        }
    }

    @Test(arguments: 0..<20 as Range<UInt64>)
    func emitsEqualKeysOfEarlierChildrenFirst(seed: UInt64) throws {
        var random = SeededRandom(seed)
        var parts: [[ModelEntry]] = []
        for child in 0..<5 {
            parts.append(
                Set((0..<6).map { _ in UInt8.random(in: 0...8, using: &random) }).map {
                    ModelEntry([$0], 0, .delete, [UInt8(child)])
                })
        }
        let model = parts.joined().sorted { $0.key != $1.key ? $0 < $1 : $0.value[0] < $1.value[0] }
        let iterator = MergingIterator(parts.map { ArrayIterator($0) })
        try iterator.seekToFirst()
        var index = 0
        for step in 0..<400 {
            if index == 0 || (index < model.count - 1 && Bool.random(using: &random)) {
                try iterator.next()
                index += 1
            } else {
                try iterator.previous()
                index -= 1
            }
            try #require(iterator.isValid && iterator.entry == model[index], "seed \(seed) step \(step)")
        }
    }

    @Test func isNotValidAfterAChildFailed() throws {
        let failing = ArrayIterator([ModelEntry([1], 1), ModelEntry([3], 3)])
        let iterator = MergingIterator([failing, ArrayIterator([ModelEntry([2], 2)])])
        try iterator.seekToFirst()
        failing.movesUntilFailure = 0
        #expect(throws: EngineError.io(operation: "read", path: "array", code: 5)) { try iterator.next() }
        #expect(!iterator.isValid)
        failing.movesUntilFailure = nil
        #expect(try iterator.allEntries().count == 3)
    }
}

@Suite struct LevelIteratorTests {
    @Test(arguments: 0..<20 as Range<UInt64>)
    func walksOverTheFilesAsOverOne(seed: UInt64) throws {
        var random = SeededRandom(seed)
        var model: [ModelEntry] = []
        var files: [FileMetadata] = []
        var contents: [UInt64: [ModelEntry]] = [:]
        var nextKey = 1
        for number in 0..<UInt64.random(in: 0...6, using: &random) {
            var entries: [ModelEntry] = []
            let begin = nextKey
            for _ in 0..<Int.random(in: 0...5, using: &random) {
                for sequence in Set((0..<3).map { _ in SequenceNumber.random(in: 1...50, using: &random) }) {
                    entries.append(ModelEntry([UInt8(nextKey)], sequence, .put, [UInt8(number)]))
                }
                nextKey += Int.random(in: 1...2, using: &random)
            }
            // A file without entries holds a range tombstone alone.
            entries.sort()
            let largest = entries.last?.internalKey ?? InternalKey(userKey: [UInt8(begin + 1)], trailer: .first)
            nextKey += 1
            files.append(
                FileMetadata(
                    number: number, size: 1,
                    smallest: entries.first?.internalKey
                        ?? InternalKey(userKey: [UInt8(begin)], trailer: Trailer(sequence: 9, kind: .rangeDelete)),
                    largest: largest, smallestSequence: 1, largestSequence: 50,
                    entryCount: UInt64(entries.count), deletionCount: 0,
                    rangeTombstoneCount: entries.isEmpty ? 1 : 0))
            contents[number] = entries
            model += entries
        }
        model.sort()
        let iterator = LevelIterator(files: files) { (file) throws(EngineError) in
            ArrayIterator(contents[file.number] ?? [])
        }
        try MergingIteratorTests.walk(iterator, model: model, steps: 500, random: &random, seed: seed) {
            [UInt8.random(in: 0...70, using: &$0)]
        }
    }
}
