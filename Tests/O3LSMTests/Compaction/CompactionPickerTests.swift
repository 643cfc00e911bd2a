import Testing

@testable import O3LSM

@Suite struct CompactionPickerTests {
    @Test(arguments: 0..<5 as Range<UInt64>)
    func keepsTheTreeSound(seed: UInt64) throws {
        var simulation = PickerSimulation(seed: seed)
        for _ in 0..<400 {
            switch Int.random(in: 0..<10, using: &simulation.random) {
            case 0..<3:
                simulation.flush()
                simulation.moveSnapshot()
            case 3..<7 where simulation.inFlight.count < 5:
                simulation.spaceBytes = Bool.random(using: &simulation.random) ? 60_000 : nil
                let limit = simulation.picker.spaceBytes
                if let found = simulation.picker.pick() {
                    #expect(found.isTrivialMove || found.inputBytes <= limit ?? .max, "seed \(seed)")
                    try simulation.begin(found)
                    if found.isTrivialMove { try simulation.commit(simulation.inFlight.count - 1) }
                }
            default:
                if !simulation.inFlight.isEmpty {
                    try simulation.commit(Int.random(in: 0..<simulation.inFlight.count, using: &simulation.random))
                }
            }
        }
        simulation.spaceBytes = nil
        // Left alone, the tree comes to rest in shape; and again once the snapshot has gone.
        simulation.oldestSnapshot = simulation.sequence / 2
        for _ in 0..<2 {
            var rounds = 0
            while rounds < 3000 {
                rounds += 1
                if let found = simulation.picker.pick() { try simulation.begin(found) } else if simulation.inFlight.isEmpty {
                    break
                }
                if !simulation.inFlight.isEmpty { try simulation.commit(0) }
            }
            #expect(rounds < 3000, "compaction does not end, seed \(seed)")
            for file in simulation.levels[6] where file.deletionCount > 0 {
                #expect(file.largestSequence > simulation.oldestSnapshot ?? maximumSequenceNumber, "seed \(seed)")
            }
            simulation.oldestSnapshot = nil
        }
        let picker = simulation.picker
        let columns = Level0Columns(simulation.levels[0])
        #expect(columns.maximumDepth < simulation.options.l0CompactionTrigger, "seed \(seed)")
        #expect(picker.scores(columns).allSatisfy { $0.score < 1 }, "seed \(seed)")
        #expect(simulation.mostInFlight >= 3, "jobs do not run in parallel, seed \(seed)")
    }

    @Test(arguments: 0..<6 as Range<UInt64>)
    func manualCompactionLeavesOneSortedRun(seed: UInt64) throws {
        var simulation = PickerSimulation(seed: seed)
        for _ in 0..<60 {
            simulation.flush()
            if let found = simulation.picker.pick() { try simulation.begin(found) }
            if simulation.inFlight.count > 3 { try simulation.commit(0) }
        }
        let isAll = seed % 2 == 0
        let begin = isAll ? nil : PickerSimulation.key(500)
        let end = isAll ? nil : PickerSimulation.key(1500)
        var manual = ManualCompaction(begin: begin, end: end, nextFileNumber: simulation.nextNumber)
        let before = simulation.nextNumber
        var steps = 0
        loop: while steps < 2000 {
            steps += 1
            if steps % 7 == 0 { simulation.flush() }
            switch manual.next(simulation.picker, nextFileNumber: simulation.nextNumber) {
            case .compact(let found): try simulation.begin(found)
            case .wait:
                try #require(!simulation.inFlight.isEmpty, "waits for nothing, seed \(seed)")
                try simulation.commit(Int.random(in: 0..<simulation.inFlight.count, using: &simulation.random))
            case .done: break loop
            }
        }
        #expect(steps < 2000, "seed \(seed)")
        for level in 0..<6 {
            for file in simulation.levels[level] where file.number < before {
                let keys = (simulation.contents[file.number] ?? [:]).keys
                #expect(!isAll && (keys.max() ?? 0 < 500 || keys.min() ?? 0 >= 1500), "seed \(seed) level \(level)")
            }
        }
    }

    // MARK: - Single decisions

    private static func file(
        _ number: UInt64, _ begin: UInt8, _ end: UInt8, sequences: ClosedRange<SequenceNumber> = 1...1,
        size: UInt64 = 1 << 20, entries: UInt64 = 100, deletions: UInt64 = 0, densest: UInt64 = 0
    ) -> FileMetadata {
        FileMetadata(
            number: number, size: size,
            smallest: InternalKey(userKey: [begin], trailer: Trailer(sequence: sequences.upperBound, kind: .put)),
            largest: InternalKey(userKey: [end], trailer: Trailer(sequence: sequences.lowerBound, kind: .put)),
            smallestSequence: sequences.lowerBound, largestSequence: sequences.upperBound, entryCount: entries,
            deletionCount: deletions, rangeTombstoneCount: 0, densestDeletions: densest)
    }

    private static func levels(_ files: [Int: [FileMetadata]]) -> [[FileMetadata]] {
        (0..<7).map { files[$0] ?? [] }
    }

    /// Tables of the ages `0 ..< depth` over one range; the table numbers are `firstNumber …`.
    private static func column(_ depth: UInt64, _ begin: UInt8, _ end: UInt8, firstNumber: UInt64) -> [FileMetadata] {
        (0..<depth).map { age -> FileMetadata in
            let oldest: SequenceNumber = age * 10 + 1
            return file(firstNumber + age, begin, end, sequences: oldest...(oldest + 9))
        }
    }

    private static func newestFirst(_ files: [FileMetadata]) -> [FileMetadata] {
        files.sorted { ($0.largestSequence, $0.number) > ($1.largestSequence, $1.number) }
    }

    /// Four columns of depth 4, side by side.
    private static func columns() -> [FileMetadata] {
        var files: [FileMetadata] = []
        for place in 0..<4 {
            let begin = UInt8(place * 10)
            files += column(4, begin, begin + 5, firstNumber: UInt64(place * 4 + 1))
        }
        return newestFirst(files)
    }

    @Test func columnsOfLevel0RunInParallel() {
        let levels = Self.levels([0: Self.columns(), 6: [Self.file(90, 0, 9), Self.file(91, 10, 39)]])
        var inFlight: [Compaction] = []
        while let found = CompactionPicker(levels: levels, options: Options(), inFlight: inFlight).pick() {
            inFlight.append(found)
            #expect(found.outputLevel == 6 && found.level == 0 && !found.isTrivialMove)
        }
        // One for table 90's column; the other three share table 91, and the first of them takes the others
        // along, since they are rewritten with it anyway.
        #expect(inFlight.map { $0.inputs[0].files.count }.sorted() == [4, 12])
        #expect(inFlight.allSatisfy { $0.deeperRanges.isEmpty })
    }

    @Test func aSingleTableWithoutOverlapIsMoved() {
        var options = Options()
        options.l0CompactionTrigger = 1
        let clean = Self.levels([0: [Self.file(1, 0, 5)], 6: [Self.file(2, 6, 9)]])
        #expect(CompactionPicker(levels: clean, options: options).pick()?.isTrivialMove == true)
        // With deletes that hide nothing it is worth a rewrite.
        let dirty = Self.levels([0: [Self.file(1, 0, 5, deletions: 1)], 6: [Self.file(2, 6, 9)]])
        #expect(CompactionPicker(levels: dirty, options: options).pick()?.isTrivialMove == false)
    }

    @Test(arguments: [0, 5]) func tablesWithManyDeletesInOnePlaceGoDown(level: Int) {
        for (densest, isPicked) in [(CompactionPicker.clusteredDeletions - 1, false), (CompactionPicker.clusteredDeletions, true)] {
            let table = Self.file(1, 0, 5, entries: 10_000, deletions: 3000, densest: densest)
            let levels = Self.levels([level: [table], 6: [Self.file(2, 0, 9)]])
            let found = CompactionPicker(levels: levels, options: Options()).pick()
            #expect(found?.reason == (isPicked ? .tombstones : nil))
            #expect(found?.outputLevel == (isPicked ? 6 : nil))
        }
    }

    @Test func tablesWithTombstonesOfReleasedSnapshotsAreWrittenAgain() {
        func pick(_ level: Int, deletions: UInt64 = 2, over deeper: [FileMetadata] = [], oldest: SequenceNumber?) -> Compaction? {
            let table = Self.file(1, 0, 5, sequences: 10...20, deletions: deletions)
            var levels = Self.levels([6: deeper])
            levels[level].append(table)
            return CompactionPicker(levels: levels, options: Options(), oldestSnapshot: oldest).pick()
        }
        for level in [5, 6] {
            #expect(pick(level, oldest: 19) == nil, "a snapshot is between its entries")
            #expect(pick(level, deletions: 0, oldest: nil) == nil, "there is nothing to drop")
            #expect(pick(level, deletions: 1, oldest: nil) == nil, "there is little to drop")
            for oldest: SequenceNumber? in [20, 21, nil] {
                let found = pick(level, oldest: oldest)
                #expect(found?.reason == .tombstones && found?.level == level && found?.outputLevel == level)
                #expect(found?.isTrivialMove == false && found?.files.count == 1)
            }
        }
        #expect(pick(5, over: [Self.file(2, 5, 9)], oldest: nil) == nil, "there is something deeper")
        #expect(pick(5, over: [Self.file(2, 6, 9)], oldest: nil)?.outputLevel == 5)
    }

    @Test func deepColumnsOverABusyBaseAreMergedInLevel0() {
        let busy = Self.file(90, 0, 9, size: 100 << 20)
        busy.isBeingCompacted.store(true, ordering: .relaxed)
        let deep = Self.newestFirst(Self.column(14, 0, 9, firstNumber: 1))
        let found = CompactionPicker(levels: Self.levels([0: deep, 6: [busy]]), options: Options()).pick()
        #expect(found?.reason == .intraLevel0)
        #expect(found?.outputLevel == 0 && found?.inputs.count == 1 && found?.files.count == 14)
    }

    @Test func levelTargetsFollowTheLargestLevel() {
        var options = Options()
        options.levelBaseSize = 100
        options.levelSizeMultiplier = 10
        #expect(LevelTargets(sizes: [0, 0, 0, 0, 0, 0, 0], options: options).baseLevel == 6)
        #expect(LevelTargets(sizes: [0, 0, 0, 0, 0, 0, 100], options: options).baseLevel == 6)
        let larger = LevelTargets(sizes: [0, 0, 0, 0, 0, 20, 5000], options: options)
        #expect(larger.baseLevel == 4)
        #expect(larger.bytes[4] == 50 && larger.bytes[5] == 500 && larger.bytes[6] == 5000)
        // L0 does not pass by a level that has not drained.
        #expect(LevelTargets(sizes: [0, 0, 7, 0, 0, 0, 50], options: options).baseLevel == 2)
    }
}
