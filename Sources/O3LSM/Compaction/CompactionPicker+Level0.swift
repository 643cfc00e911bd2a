extension CompactionPicker {
    /// L0 tables that one move takes at most.
    private static let maximumMoves = 16

    /// Columns first, deepest first; then, when all deep columns are blocked, L0 tables among each other;
    /// then the oldest tables, for L0's size.
    func pickLevel0(_ columns: Level0Columns) -> Compaction? {
        let trigger = max(1, options.l0CompactionTrigger)
        let deep = columns.depths.indices.filter { columns.depths[$0] >= trigger }
            .sorted { columns.depths[$0] != columns.depths[$1] ? columns.depths[$0] > columns.depths[$1] : $0 < $1 }
        var tried = Set<[Int]>()
        for column in deep {
            // What lies under a busy table can go down, what lies on it cannot.
            let seed = Array(columns.members(of: column).reversed().prefix { !isBusy(columns.files[$0]) })
            guard seed.count * 2 >= trigger, tried.insert(seed).inserted else { continue }
            if let found = assembleLevel0(.level0Depth, columns, seed: seed) { return found }
        }
        for column in deep {
            if let found = pickIntraLevel0(columns, column) { return found }
        }
        return level0SizeScore >= 1 ? pickLevel0Size(columns) : nil
    }

    /// The compaction into the base level of `seed` (indices into L0) with all that must come along, and
    /// with what comes at no cost.
    func assembleLevel0(_ reason: Compaction.Reason, _ columns: Level0Columns, seed: [Int]) -> Compaction? {
        let needed = columns.closure(of: seed)
        guard needed.allSatisfy({ !isBusy(columns.files[$0]) }) else { return nil }
        let base = targets.baseLevel
        guard let hull = KeyRange.hull(needed.map { columns.files[$0] }) else { return nil }
        var chosen = Set(needed)
        // A table within the keys that are rewritten anyway widens nothing. Oldest first, so that what
        // an added table must take along has been added before.
        let rewritten = KeyRange.hull(files(base, overlapping: hull))?.union(hull) ?? hull
        for index in columns.files.indices.reversed() where !chosen.contains(index) {
            let file = columns.files[index]
            if !isBusy(file), columns.isOnlyOver(chosen, index), rewritten.contains(KeyRange(file)) {
                chosen.insert(index)
            }
        }
        return assemble(reason, chosen.sorted().map { columns.files[$0] }, from: 0, to: base)
    }

    /// Merges neighbours in age over one column, when the base level under them is busy and reads suffer.
    ///
    /// The result takes one place in the order of age. So each table that overlaps the chosen ones' keys
    /// must be newer than all of them, or older than all.
    private func pickIntraLevel0(_ columns: Level0Columns, _ column: Int) -> Compaction? {
        let trigger = max(1, options.l0CompactionTrigger)
        guard columns.depths[column] >= max(trigger + 2, (trigger + options.l0SlowdownTrigger) / 2) else { return nil }
        var run: [Int] = []
        var bytes: UInt64 = 0
        for index in columns.members(of: column) {
            let file = columns.files[index]
            if isBusy(file) {
                if run.count >= trigger { break }
                (run, bytes) = ([], 0)
                continue
            }
            if bytes + file.size > UInt64(options.levelBaseSize) { break }
            // Between two members of the column may lie tables beside it that overlap the growing hull.
            let grown = run + [index]
            let hull = columns.hull(of: grown)
            let between = (grown[0]...index).contains { other in
                !grown.contains(other) && columns.overlaps(other, hull)
            }
            if between { break }
            run = grown
            bytes += file.size
        }
        guard run.count >= trigger else { return nil }
        return assemble(.intraLevel0, run.map { columns.files[$0] }, from: 0, to: 0)
    }

    /// L0 holds too much, though nowhere deep (a sequential load): the oldest tables go down, several at
    /// once where they can just be moved.
    private func pickLevel0Size(_ columns: Level0Columns) -> Compaction? {
        var moves: [Int] = []
        for index in columns.files.indices.reversed() where moves.count < Self.maximumMoves {
            let file = columns.files[index]
            guard !isBusy(file), columns.isOnlyOver([], index),
                moves.allSatisfy({ !columns.overlap($0, index) })
            else { continue }
            let hull = KeyRange.hull((moves + [index]).map { columns.files[$0] })
            if let hull, files(targets.baseLevel, overlapping: hull).isEmpty { moves.append(index) }
        }
        if moves.count > 1,
            let found = assemble(.level0Size, moves.sorted().map { columns.files[$0] }, from: 0, to: targets.baseLevel),
            found.isTrivialMove
        {
            return found
        }
        for index in columns.files.indices.reversed() where !isBusy(columns.files[index]) {
            if let found = assembleLevel0(.level0Size, columns, seed: [index]) { return found }
        }
        return nil
    }
}
