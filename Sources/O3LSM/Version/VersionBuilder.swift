/// A version in the making: takes any number of edits, each in time proportional to the edit, and is put in
/// order and checked once at the end. Not thread-safe.
struct VersionBuilder {
    /// Per level, by number.
    private var levels: [[UInt64: FileMetadata]]

    init(_ version: Version = .empty) {
        levels = version.levels.map { files in
            Dictionary(files.map { ($0.number, $0) }, uniquingKeysWith: { first, _ in first })
        }
    }

    /// Deletions first, then additions. After a throw the builder is of no more use.
    ///
    /// - Parameters:
    ///   - file: where the edit is from, for the error.
    ///   - offset: of the edit in that file.
    /// - Throws: `.corruption` when the edit removes a table that is not in the level, or adds one that is.
    mutating func apply(_ edit: VersionEdit, file: String, offset: UInt64) throws(EngineError) {
        func corrupt(_ expected: String, _ found: String) -> EngineError {
            .corruption(file: file, offset: offset, expected: expected, found: found)
        }
        for (level, number) in edit.deletedFiles {
            guard levels.indices.contains(level), levels[level].removeValue(forKey: number) != nil else {
                throw corrupt("table \(number) in level \(level)", "no such table")
            }
        }
        for (level, added) in edit.addedFiles {
            guard levels.indices.contains(level), levels[level].updateValue(added, forKey: added.number) == nil else {
                throw corrupt("a table other than \(added.number) for level \(level)", "one that is there")
            }
        }
    }

    /// - Throws: `.corruption` when the tables break an invariant of `Version`.
    func build(file: String, offset: UInt64) throws(EngineError) -> Version {
        let version = Version(
            levels: levels.enumerated().map { level, files in
                level == 0
                    ? files.values.sorted(by: Version.isNewer)
                    : files.values.sorted { $0.smallest < $1.smallest }
            }
        )
        try version.checkInvariants(file: file, offset: offset)
        return version
    }
}
