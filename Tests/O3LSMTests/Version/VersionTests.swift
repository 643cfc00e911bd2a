import Testing

@testable import O3LSM

@Suite struct VersionTests {
    @Test func editsDoAsAModelDoes() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("VersionTests.editsDoAsAModelDoes seed \(seed)")
        var generator = SeededRandom(seed)
        var version = Version.empty
        var model: [UInt64: (level: Int, file: FileMetadata)] = [:]
        var nextNumber: UInt64 = 1
        for _ in 0..<400 {
            var edit = VersionEdit()
            var after = model
            for number in model.keys.sorted() where Int.random(in: 0..<6, using: &generator) == 0 {
                edit.deletedFiles.append((model[number]?.level ?? 0, number))
                after[number] = nil
            }
            for _ in 0..<Int.random(in: 0...3, using: &generator) {
                let level = Int.random(in: 0..<Version.levelCount, using: &generator)
                // One slot of the key space a table, so that tables of a level are disjoint or the same.
                let slot = Int.random(in: 100..<150, using: &generator)
                let isTaken = after.values.contains {
                    $0.level == level && $0.file.smallest.userKey == Array("\(slot)".utf8)
                }
                if level > 0, isTaken { continue }
                let first = UInt64.random(in: 1...50, using: &generator)
                let file = FileMetadata.table(
                    nextNumber,
                    "\(slot)",
                    Bool.random(using: &generator) ? "\(slot)z" : "\(slot + 1)",
                    sequences: first...first + 3,
                    exclusiveEnd: true
                )
                nextNumber += 1
                edit.addedFiles.append((level, file))
                after[file.number] = (level, file)
            }
            version = try version.applying(edit)
            model = after
            try version.checkInvariants()
            checkRuns(version)
            for level in 0..<Version.levelCount {
                let files = model.values.filter { $0.level == level }.map(\.file)
                let wanted = files.sorted {
                    level == 0
                        ? ($0.largestSequence, $0.number) > ($1.largestSequence, $1.number) : $0.smallest < $1.smallest
                }
                #expect(version.numbers[level] == wanted.map(\.number))
                try checkSearches(version, level, &generator)
            }
        }
    }

    /// The runs of L0 hold each of its tables once, by key and disjoint, and are no more than a key has tables.
    private func checkRuns(_ version: Version) {
        let runs = version.runs(in: 0, overlapping: nil, nil)
        #expect(runs.joined().map(\.number).sorted() == version.levels[0].map(\.number).sorted())
        for run in runs {
            for (left, right) in zip(run, run.dropFirst()) { #expect(!left.overlaps(right.smallest.userKey, nil)) }
        }
        let depth = version.levels[0].map { file in
            version.levels[0].count { $0.overlaps(file.smallest.userKey, file.smallest.userKey) }
        }.max() ?? 0
        #expect(runs.count == depth)
    }

    /// The searches of a level answer as looking at every table does.
    private func checkSearches(_ version: Version, _ level: Int, _ generator: inout SeededRandom) throws {
        func bound(_ generator: inout SeededRandom) -> [UInt8]? {
            switch Int.random(in: 0..<5, using: &generator) {
            case 0: return nil
            case 1: return Array("\(Int.random(in: 95..<155, using: &generator))m".utf8)
            default: return Array("\(Int.random(in: 95..<155, using: &generator))".utf8)
            }
        }
        let (begin, end) = (bound(&generator), bound(&generator))
        if begin == nil || end == nil || compareKeys(begin ?? [], end ?? []) <= 0 {
            let found = version.files(in: level, overlapping: begin, end)
            #expect(found.map(\.number) == version.levels[level].filter { $0.overlaps(begin, end) }.map(\.number))
        } else if level > 0 {
            #expect(version.files(in: level, overlapping: begin, end).allSatisfy { $0.overlaps(begin, end) })
        }
        guard level > 0, let key = begin else { return }
        let holder = version.levels[level].first { $0.overlaps(key, key) }
        let found = key.withUnsafeBytes { version.file(level: level, containing: $0) }
        if let holder { #expect(found?.number == holder.number) }
    }

    @Test func editsThatDoNotFitAreRefused() throws {
        let version = try Version.empty.applying(
            .adding([(0, .table(1, "a", "c")), (2, .table(2, "b", "d")), (2, .table(3, "f", "h"))])
        )
        let misfits: [VersionEdit] = [
            .moving([(0, 2)], to: []), .moving([(0, 99)], to: []), .moving([(7, 1)], to: []),
            .moving([(0, 1), (0, 1)], to: []), .adding([(7, .table(4, "x", "y"))]),
            // The same table twice, in one level or in two.
            .adding([(0, .table(1, "x", "y"))]), .adding([(5, .table(2, "b", "d"))]),
            // Overlapping by a range, by one key, within the edit itself.
            .adding([(2, .table(4, "c", "e"))]), .adding([(2, .table(4, "d", "e"))]),
            .adding([(3, .table(4, "a", "c")), (3, .table(5, "b", "b"))]),
            // Tables that hold nothing, or the wrong way round.
            .adding([(1, .table(4, "b", "a"))]), .adding([(1, .table(4, "b", "b", exclusiveEnd: true))]),
            .adding([(1, .table(0, "a", "b"))]),
        ]
        for (index, edit) in misfits.enumerated() {
            let error = #expect(throws: EngineError.self, "misfit \(index)") { try version.applying(edit) }
            #expect(error?.isCorruption == true)
        }
        #expect(version.numbers[0...2] == [[1], [], [2, 3]])
    }

    @Test func exclusiveEndTouchesWhatBeginsThere() throws {
        let version = try Version.empty.applying(
            .adding([(1, .table(1, "a", "c", exclusiveEnd: true)), (1, .table(2, "c", "e"))])
        )
        let key = Array("c".utf8)
        #expect(version.files(in: 1, overlapping: key, key).map(\.number) == [2])
        #expect(key.withUnsafeBytes { version.file(level: 1, containing: $0)?.number } == 2)
        #expect(version.files(in: 1, overlapping: nil, key).map(\.number) == [1, 2])
    }

    @Test func tableMovesBetweenLevels() throws {
        let file = FileMetadata.table(1, "a", "c")
        let version = try Version.empty.applying(.adding([(0, file)]))
        let moved = try version.applying(.moving([(0, 1)], to: [(1, file)]))
        #expect(moved.numbers[0].isEmpty && moved.levels[1].first === file)
        #expect(version.numbers[0] == [1])
    }
}
