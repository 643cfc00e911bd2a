extension Compaction {
    /// Descriptors for the compaction, one for each part, in the order of their keys. Not for trivial moves.
    ///
    /// - Parameters:
    ///   - snapshots: sequences that readers hold now, ascending.
    ///   - maximumParts: how many executors could work on it at once.
    ///   - reserveNumbers: takes that many consecutive file numbers and answers the first.
    func descriptors(
        options: Options, snapshots: [SequenceNumber], maximumParts: Int = 1,
        reserveNumbers: (_ count: Int) -> UInt64
    ) -> [CompactionDescriptor] {
        let bounds = partBounds(options, maximumParts)
        let cutKeys = grandparentCuts(UInt64(options.tableFileSize * CompactionPicker.maximumGrandparentTables))
        let deeper = deeperRanges.coarsened(
            maximumCount: Self.maximumDeeperRanges, maximumBytes: Self.maximumDeeperBytes)
        return (0...bounds.count).map { part in
            let begin = part > 0 ? bounds[part - 1] : nil
            let end = part < bounds.count ? bounds[part] : nil
            let parts = inputs.map { input in
                Input(level: input.level, files: input.files.filter { Self.overlaps($0, begin, end) })
            }.filter { !$0.files.isEmpty }
            let bytes = parts.flatMap(\.files).reduce(0) { $0 + $1.size }
            // Data that compresses worse than before, and cuts for the next level, ask for spare numbers.
            let numbers = Int(bytes / UInt64(options.tableFileSize)) * 2 + cutKeys.count + 4
            let count = min(numbers, CompactionDescriptor.maximumOutputs)
            return CompactionDescriptor(
                inputs: parts, outputLevel: outputLevel, begin: begin, end: end, snapshots: snapshots,
                deeperRanges: deeper, cutKeys: cutKeys, tableOptions: TableOptions(options),
                outputFileSize: UInt64(options.tableFileSize), firstOutputNumber: reserveNumbers(count),
                outputNumberCount: count, tombstoneSources: tombstoneSources)
        }
    }

    /// Bounds on what a descriptor spends on `deeperRanges`: it must fit a job slot.
    private static let maximumDeeperRanges = 256
    private static let maximumDeeperBytes = 12 << 10

    private static func overlaps(_ file: FileMetadata, _ begin: [UInt8]?, _ end: [UInt8]?) -> Bool {
        if let end, compareKeys(file.smallest.userKey, end) >= 0 { return false }
        return file.overlaps(begin, nil)
    }

    /// Ascending user keys that divide the inputs into parts of about the same bytes: beginnings of tables.
    private func partBounds(_ options: Options, _ maximumParts: Int) -> [[UInt8]] {
        let wanted = min(maximumParts, Int(inputBytes / UInt64(max(1, options.tableFileSize))))
        guard wanted > 1 else { return [] }
        let sorted = files.sorted { $0.smallest < $1.smallest }
        var bounds: [[UInt8]] = []
        var before: UInt64 = 0
        for file in sorted {
            let due = UInt64(bounds.count + 1) * inputBytes / UInt64(wanted)
            let key = file.smallest.userKey
            if before >= due, bounds.count + 1 < wanted, compareKeys(bounds.last ?? range.begin, key) < 0 {
                bounds.append(key)
            }
            before += file.size
        }
        return bounds
    }

    /// Keys at which the tables of the level after the output level add up to `limit` bytes again.
    private func grandparentCuts(_ limit: UInt64) -> [[UInt8]] {
        var cuts: [[UInt8]] = []
        var bytes: UInt64 = 0
        for file in grandparents {
            if bytes + file.size > limit, bytes > 0 {
                if compareKeys(file.smallest.userKey, range.begin) > 0 { cuts.append(file.smallest.userKey) }
                bytes = 0
            }
            bytes += file.size
        }
        return cuts
    }

    /// Whether the parts' results, in order, can be what the inputs give: the account adds up, outputs are
    /// disjoint, lie within the compaction's keys and sequences, and have numbers that were reserved.
    ///
    /// It does not open the outputs.
    /// - Throws: `.corruption` that says what does not fit.
    func validate(_ results: [CompactionResult], of descriptors: [CompactionDescriptor]) throws(EngineError) {
        func check(_ condition: Bool, _ expected: String, _ found: String) throws(EngineError) {
            guard condition else {
                throw .corruption(file: "compaction result", offset: 0, expected: expected, found: found)
            }
        }
        try check(results.count == descriptors.count, "\(descriptors.count) parts", "\(results.count)")
        for (result, descriptor) in zip(results, descriptors) {
            let numbers = descriptor.firstOutputNumber..<descriptor.firstOutputNumber + UInt64(descriptor.outputNumberCount)
            for file in result.outputs {
                try check(numbers.contains(file.number), "a table number of \(numbers)", "\(file.number)")
                let isInside = descriptor.begin.map { compareKeys($0, file.smallest.userKey) <= 0 } ?? true
                try check(isInside, "keys from the beginning of the part", "table \(file.number) before it")
            }
        }
        let all = CompactionResult.joining(results)
        try check(
            all.entriesIn == inputEntries && all.entriesIn == all.entriesOut &+ all.entriesDropped,
            "\(inputEntries) entries, written or dropped",
            "\(all.entriesIn) read, \(all.entriesOut) written, \(all.entriesDropped) dropped")
        // Sums of claims may have wrapped around.
        try check(all.entriesOut <= inputEntries, "at most \(inputEntries) entries", "\(all.entriesOut)")
        let written = all.outputs.reduce(0) { $0 &+ $1.entryCount }
        try check(written == all.entriesOut, "\(all.entriesOut) entries in the outputs", "\(written)")
        let oldest = files.map(\.smallestSequence).min() ?? 0
        let newest = files.map(\.largestSequence).max() ?? 0
        for file in all.outputs {
            try check(
                range.contains(KeyRange(file)) && file.smallestSequence >= oldest && file.largestSequence <= newest,
                "keys and sequences of the inputs", "others in table \(file.number)")
        }
        for (left, right) in zip(all.outputs, all.outputs.dropFirst()) {
            try check(
                KeyRange(left).isBefore(KeyRange(right)), "disjoint outputs",
                "tables \(left.number) and \(right.number) overlapping")
        }
    }
}
