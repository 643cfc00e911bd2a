/// Decides what to compact next. Pure: the same tables, options and jobs in flight give the same answer.
///
/// The caller holds one lock while it picks and marks the inputs (`Compaction.setBusy`), and passes
/// every compaction that has not been committed or given up. What is picked shares no table with those,
/// and no key range with those of the same output level. `docs/compaction.md` explains the policy.
struct CompactionPicker {
    let levels: [[FileMetadata]]
    let options: Options
    let inFlight: [Compaction]
    let targets: LevelTargets
    /// Set when the disk has little room: what is picked must rewrite no more bytes than this.
    let spaceBytes: UInt64?
    /// The disk is nearly full: any table with tombstones is worth a compaction.
    let isSpaceScarce: Bool
    /// The oldest sequence that a snapshot holds; the greatest possible one when there is no snapshot.
    let oldestSnapshot: SequenceNumber
    private let busyNumbers: Set<UInt64>

    /// - Parameters:
    ///   - levels: as in a version: L0 newest first, the others sorted and disjoint.
    ///   - inFlight: compactions that have been picked and are not yet part of `levels`.
    ///   - spaceBytes: free bytes of a disk that has little room; nil when it has enough.
    ///   - oldestSnapshot: the oldest sequence that a snapshot holds; nil when there is no snapshot.
    init(
        levels: [[FileMetadata]], options: Options, inFlight: [Compaction] = [], spaceBytes: UInt64? = nil,
        isSpaceScarce: Bool = false, oldestSnapshot: SequenceNumber? = nil
    ) {
        self.oldestSnapshot = oldestSnapshot ?? maximumSequenceNumber
        self.isSpaceScarce = isSpaceScarce
        self.levels = levels
        self.options = options
        self.inFlight = inFlight
        self.spaceBytes = spaceBytes.map { $0 - min($0, inFlight.reduce(0) { $0 + $1.inputBytes }) }
        busyNumbers = Set(inFlight.flatMap { $0.files.map(\.number) })
        targets = LevelTargets(sizes: levels.map { $0.reduce(0) { $0 + $1.size } }, options: options)
    }

    /// Bytes of the next-but-one level that a table may overlap, of one job's wanted inputs, and L0
    /// tables per unit of the compaction trigger. In units of `tableFileSize`, the first two.
    static let maximumGrandparentTables = 10
    static let wantedInputTables = 25
    static let level0TablesPerTrigger = 16
    /// How many places of a level are tried before the next level has its turn.
    private static let attempts = 32

    var lastLevel: Int { levels.count - 1 }
    var maximumGrandparentBytes: UInt64 { UInt64(options.tableFileSize * Self.maximumGrandparentTables) }

    /// The most urgent compaction that can run now; nil when there is none.
    func pick() -> Compaction? {
        let columns = Level0Columns(levels[0])
        for (level, score) in scores(columns) where score >= 1 {
            if let found = level == 0 ? pickLevel0(columns) : pickLevel(level, reason: .levelSize) { return found }
        }
        return pickTombstones()
    }

    /// How much each level but the last calls for compaction, most urgent first; 1 and above: it does.
    func scores(_ columns: Level0Columns) -> [(level: Int, score: Double)] {
        let depth = columns.maximumDepth { !isBusy($0) }
        let trigger = Double(max(1, options.l0CompactionTrigger))
        var level0 = Double(depth) / trigger
        level0 = max(level0, level0SizeScore)
        // Writers are about to be slowed down: nothing is more urgent.
        if columns.maximumDepth >= options.l0SlowdownTrigger { level0 *= 1000 }
        var result = [(level: 0, score: level0)]
        for level in 1..<lastLevel {
            let leaving = Set(inFlight.filter { $0.level == level }.flatMap { $0.inputs[0].files.map(\.number) })
            let bytes = levels[level].reduce(0) { leaving.contains($1.number) ? $0 : $0 + $1.size }
            result.append((level, Double(bytes) / Double(targets.bytes[level])))
        }
        return result.sorted { $0.score != $1.score ? $0.score > $1.score : $0.level < $1.level }
    }

    /// The part of L0's score that has nothing to do with depth: each get looks at the bounds of every
    /// L0 table, and the base level should not be much smaller than L0.
    var level0SizeScore: Double {
        let idle = levels[0].filter { !isBusy($0) }
        return max(
            Double(idle.count) / Double(max(1, options.l0CompactionTrigger) * Self.level0TablesPerTrigger),
            Double(idle.reduce(0) { $0 + $1.size }) / Double(options.levelBaseSize))
    }

    // MARK: - Levels below L0

    /// The table of `level` whose compaction rewrites least of the next level for what it brings.
    func pickLevel(_ level: Int, reason: Compaction.Reason, where isWanted: (FileMetadata) -> Bool = { _ in true })
        -> Compaction?
    {
        let next = levels[level + 1]
        var candidates: [(cost: Double, file: FileMetadata)] = []
        var first = 0
        for file in levels[level] {
            let range = KeyRange(file)
            while first < next.count, KeyRange(next[first]).isBefore(range) { first += 1 }
            guard !isBusy(file), isWanted(file) else { continue }
            var overlapped: UInt64 = 0
            var place = first
            while place < next.count, !range.isBefore(KeyRange(next[place])) {
                overlapped += next[place].size
                place += 1
            }
            candidates.append((Double(overlapped) / Self.benefit(file), file))
        }
        candidates.sort { $0.cost != $1.cost ? $0.cost < $1.cost : $0.file.number < $1.file.number }
        for candidate in candidates.prefix(Self.attempts) {
            if let found = assemble(reason, [candidate.file], from: level, to: level + 1) { return found }
        }
        return nil
    }

    /// Bytes that a table's compaction moves down, more for the space that its tombstones give back.
    private static func benefit(_ file: FileMetadata) -> Double {
        let deleted = Double(file.deletionCount) / Double(max(1, file.entryCount))
        return Double(max(1, file.size)) * (1 + 2 * deleted + (file.rangeTombstoneCount > 0 ? 1 : 0))
    }

    // MARK: - Assembly

    func isBusy(_ file: FileMetadata) -> Bool {
        busyNumbers.contains(file.number) || file.isBeingCompacted.load(ordering: .relaxed)
    }

    /// Tables of a level below L0 that have a key in `range`.
    func files(_ level: Int, overlapping range: KeyRange) -> ArraySlice<FileMetadata> {
        let files = levels[level]
        let first = partitionPoint(0, files.count) { KeyRange(files[$0]).isBefore(range) }
        let end = partitionPoint(first, files.count) { !range.isBefore(KeyRange(files[$0])) }
        return files[first..<end]
    }

    /// The compaction of `upper` with what it overlaps in the output level, or the move of `upper`; nil
    /// when a table or the key range is taken.
    func assemble(
        _ reason: Compaction.Reason, _ chosen: [FileMetadata], from level: Int, to outputLevel: Int
    ) -> Compaction? {
        var upper = chosen
        guard upper.allSatisfy({ !isBusy($0) }), var hull = KeyRange.hull(upper) else { return nil }
        var lower: ArraySlice<FileMetadata> = []
        if outputLevel != level {
            lower = files(outputLevel, overlapping: hull)
            guard lower.allSatisfy({ !isBusy($0) }) else { return nil }
            if let lowerHull = KeyRange.hull(lower) { hull = hull.union(lowerHull) }
            if level > 0, !lower.isEmpty { grow(&upper, level, lower, within: hull) }
        }
        guard isFree(hull, outputLevel) else { return nil }
        let deeper = deeperRanges(hull, outputLevel: outputLevel, excluding: upper)
        let isMove = outputLevel != level && lower.isEmpty && canMove(upper, to: outputLevel, deeper)
        var inputs = [Compaction.Input(level: level, files: upper)]
        if !lower.isEmpty { inputs.append(Compaction.Input(level: outputLevel, files: Array(lower))) }
        let compaction = Compaction(
            reason: reason, inputs: inputs, outputLevel: outputLevel, isTrivialMove: isMove, range: hull,
            grandparents: outputLevel > 0 && outputLevel < lastLevel
                ? Array(files(outputLevel + 1, overlapping: hull)) : [],
            deeperRanges: deeper)
        // Its outputs must find room before its inputs go.
        if let spaceBytes, !isMove, compaction.inputBytes > spaceBytes { return nil }
        return compaction
    }

    /// Takes along further tables of the upper level that need no further table of the output level: they
    /// come down at the cost of their own bytes.
    private func grow(
        _ upper: inout [FileMetadata], _ level: Int, _ lower: ArraySlice<FileMetadata>, within hull: KeyRange
    ) {
        let grown = files(level, overlapping: hull)
        let bytes = (grown + lower).reduce(0) { $0 + $1.size }
        guard grown.count > upper.count, bytes <= UInt64(options.tableFileSize * Self.wantedInputTables),
            grown.allSatisfy({ !isBusy($0) && hull.contains(KeyRange($0)) })
        else { return }
        upper = Array(grown)
    }

    /// Whether no job in flight writes to keys of `range` in the level. L0 tables may overlap; there the
    /// order of age is what counts, see `pickIntraLevel0`.
    func isFree(_ range: KeyRange, _ outputLevel: Int) -> Bool {
        inFlight.allSatisfy { $0.outputLevel != outputLevel || !$0.range.overlaps(range) }
    }

    /// Where older keys than those of the inputs may lie, see `Compaction.deeperRanges`.
    private func deeperRanges(_ range: KeyRange, outputLevel: Int, excluding upper: [FileMetadata]) -> [KeyRange] {
        var ranges: [KeyRange] = []
        if outputLevel == 0, let newest = upper.map(\.largestSequence).max() {
            let chosen = Set(upper.map(\.number))
            ranges += levels[0].filter { $0.smallestSequence < newest && !chosen.contains($0.number) }
                .map(KeyRange.init).filter { $0.overlaps(range) }
        }
        for level in (outputLevel + 1)..<max(levels.count, outputLevel + 1) {
            ranges += files(level, overlapping: range).map(KeyRange.init)
        }
        return ranges.merged()
    }

    /// Whether tables can change their level as they are: they overlap neither each other nor too much of
    /// the level after next, and have no tombstones that could be dropped by merging them.
    private func canMove(_ files: [FileMetadata], to outputLevel: Int, _ deeper: [KeyRange]) -> Bool {
        let sorted = files.map(KeyRange.init).sorted { compareKeys($0.begin, $1.begin) < 0 }
        guard zip(sorted, sorted.dropFirst()).allSatisfy({ $0.isBefore($1) }) else { return false }
        for file in files {
            let range = KeyRange(file)
            if file.deletionCount + file.rangeTombstoneCount > 0, !deeper.contains(where: { $0.overlaps(range) }) {
                return false
            }
            guard outputLevel < lastLevel else { continue }
            let overlapped = self.files(outputLevel + 1, overlapping: range).reduce(0) { $0 + $1.size }
            if overlapped > maximumGrandparentBytes { return false }
        }
        return true
    }
}
