/// The tables of the tree at one moment: immutable, shared by every reader that began while it was current.
///
/// L0 holds flushed tables, newest first, which may overlap; every deeper level is sorted by key and its
/// tables are disjoint.
final class Version: Sendable {
    static let levelCount = 7

    let levels: [[FileMetadata]]
    /// The tables of L0 in runs, each by key and disjoint, as few as there can be: a cursor reads each run as it reads a
    /// deeper level. The tables of one flush, which are those of its memtable's shards, fit into one.
    private let levelZeroRuns: [[FileMetadata]]

    init(levels: [[FileMetadata]]) {
        self.levels = levels
        levelZeroRuns = levels.first.map(Self.disjointRuns) ?? []
    }

    /// Divides tables into runs of disjoint ones, each by key: as many as hold one key at most.
    private static func disjointRuns(_ files: [FileMetadata]) -> [[FileMetadata]] {
        var runs: [[FileMetadata]] = []
        for file in files.sorted(by: { $0.smallest < $1.smallest }) {
            if let run = runs.firstIndex(where: { $0.last?.endsBefore(file.smallest.userKey) ?? true }) {
                runs[run].append(file)
            } else {
                runs.append([file])
            }
        }
        return runs
    }

    static var empty: Version { Version(levels: Array(repeating: [], count: levelCount)) }

    /// Tables of a level with any key in `begin ... end` (both inclusive; nil: unbounded), in the level's order.
    func files(in level: Int, overlapping begin: [UInt8]?, _ end: [UInt8]?) -> [FileMetadata] {
        let files = levels[level]
        if level == 0 { return files.filter { $0.overlaps(begin, end) } }
        let lower = begin.map { begin in partitionPoint(0, files.count) { files[$0].endsBefore(begin) } } ?? 0
        let upper =
            end.map { end in
                partitionPoint(lower, files.count) { compareKeys(files[$0].smallest.userKey, end) <= 0 }
            } ?? files.count
        return Array(files[lower..<upper])
    }

    /// Tables of a level with any key in `begin ... end` (both inclusive; nil: unbounded) in runs, each by key and disjoint:
    /// what a cursor merges. None is empty.
    func runs(in level: Int, overlapping begin: [UInt8]?, _ end: [UInt8]?) -> [[FileMetadata]] {
        let runs =
            level == 0
            ? levelZeroRuns.map { run in run.filter { $0.overlaps(begin, end) } }
            : [files(in: level, overlapping: begin, end)]
        return runs.filter { !$0.isEmpty }
    }

    /// The table of a level ≥ 1 whose range holds the key. When the key is one table's exclusive end and the
    /// next one's beginning, the latter is the answer.
    @inline(__always)
    func file(level: Int, containing key: UnsafeRawBufferPointer) -> FileMetadata? {
        let files = levels[level]
        // The last table that begins at or before the key.
        let after = files.withUnsafeBufferPointer { files in
            partitionPoint(0, files.count) { index in
                files[index].smallest.userKey.withUnsafeBytes { compareKeys($0, key) <= 0 }
            }
        }
        guard after > 0 else { return nil }
        let file = files[after - 1]
        return file.largest.userKey.withUnsafeBytes({ compareKeys(key, $0) <= 0 }) ? file : nil
    }

    /// The version after an edit: deletions first, then additions.
    ///
    /// - Parameters:
    ///   - file: where the edit is from, for the error.
    ///   - offset: of the edit in that file.
    /// - Throws: `.corruption` when the edit removes a table that is not there, adds one that is, or breaks an
    ///   invariant.
    func applying(
        _ edit: VersionEdit,
        file: String = "the manifest",
        offset: UInt64 = 0
    ) throws(EngineError) -> Version {
        var builder = VersionBuilder(self)
        try builder.apply(edit, file: file, offset: offset)
        return try builder.build(file: file, offset: offset)
    }

    /// - Throws: `.corruption` that names the tables which break the shape of the tree.
    func checkInvariants(file: String = "the manifest", offset: UInt64 = 0) throws(EngineError) {
        func check(_ holds: Bool, _ expected: @autoclosure () -> String, _ found: @autoclosure () -> String)
            throws(EngineError)
        {
            guard holds else { throw .corruption(file: file, offset: offset, expected: expected(), found: found()) }
        }
        try check(levels.count == Version.levelCount, "\(Version.levelCount) levels", "\(levels.count)")
        var seen = Set<UInt64>(minimumCapacity: levels.reduce(0) { $0 + $1.count })
        for (level, files) in levels.enumerated() {
            for table in files {
                try check(table.isSane, "sane bounds and counts of table \(table.number)", "others")
                try check(seen.insert(table.number).inserted, "table \(table.number) once", "twice")
            }
            for (left, right) in zip(files, files.dropFirst()) {
                if level == 0 {
                    try check(
                        Version.isNewer(left, right),
                        "level 0 newest first",
                        "table \(left.number) before \(right.number)"
                    )
                } else {
                    try check(
                        left.endsBefore(right.smallest.userKey),
                        "disjoint tables in level \(level)",
                        "tables \(left.number) and \(right.number) overlapping"
                    )
                }
            }
        }
    }

    /// The order of level 0: where two tables hold entries of one key, the first one's are newer.
    static func isNewer(_ left: FileMetadata, _ right: FileMetadata) -> Bool {
        (left.largestSequence, left.number) > (right.largestSequence, right.number)
    }
}

extension FileMetadata {
    /// Whether every key of the table is before `key`: the end of a tombstone that bounds it is exclusive.
    fileprivate func endsBefore(_ key: [UInt8]) -> Bool {
        let order = compareKeys(largest.userKey, key)
        return order < 0 || (order == 0 && largest.trailer == .first)
    }
}
