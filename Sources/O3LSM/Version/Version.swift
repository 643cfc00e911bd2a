/// The tables of the tree at one moment: immutable, shared by every reader that began while it was current.
///
/// L0 holds flushed tables, newest first, which may overlap; every deeper level is sorted by key and its
/// tables are disjoint.
final class Version: Sendable {
    static let levelCount = 7

    let levels: [[FileMetadata]]

    init(levels: [[FileMetadata]]) { self.levels = levels }

    static var empty: Version { Version(levels: Array(repeating: [], count: levelCount)) }

    /// Tables of a level with any key in `begin ... end` (both inclusive; nil: unbounded).
    func files(in level: Int, overlapping begin: [UInt8]?, _ end: [UInt8]?) -> [FileMetadata] {
        let files = levels[level]
        if level == 0 { return files.filter { $0.overlaps(begin, end) } }
        let first = begin.map { key in
            partitionPoint(0, files.count) { compareKeys(files[$0].largest.userKey, key) < 0 }
        }
        return Array(files[(first ?? 0)...].prefix { file in end.map { compareKeys(file.smallest.userKey, $0) <= 0 } ?? true })
            .filter { $0.overlaps(begin, end) }
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

    /// The version after an edit.
    ///
    /// - Throws: `.corruption` when the edit removes a table that is not there, or breaks an invariant.
    func applying(_ edit: VersionEdit, manifest: String = "MANIFEST") throws(EngineError) -> Version {
        var levels = self.levels
        for (level, number) in edit.deletedFiles {
            guard let index = levels[level].firstIndex(where: { $0.number == number }) else {
                throw .corruption(
                    file: manifest, offset: 0, expected: "table \(number) in level \(level)", found: "no such table")
            }
            levels[level].remove(at: index)
        }
        var changed = Set<Int>()
        for (level, file) in edit.addedFiles {
            levels[level].append(file)
            changed.insert(level)
        }
        for level in changed {
            if level == 0 {
                levels[0].sort { ($0.largestSequence, $0.number) > ($1.largestSequence, $1.number) }
            } else {
                levels[level].sort { $0.smallest < $1.smallest }
            }
        }
        let version = Version(levels: levels)
        for level in changed where level > 0 { try version.checkDisjoint(level, manifest) }
        return version
    }

    /// - Throws: `.corruption` that names the tables which break the shape of the tree.
    func checkInvariants(manifest: String = "MANIFEST") throws(EngineError) {
        guard levels.count == Version.levelCount else {
            throw .corruption(
                file: manifest, offset: 0, expected: "\(Version.levelCount) levels", found: "\(levels.count)")
        }
        for level in 1..<Version.levelCount { try checkDisjoint(level, manifest) }
        var seen = Set<UInt64>()
        for file in levels.joined() where !seen.insert(file.number).inserted {
            throw .corruption(file: manifest, offset: 0, expected: "each table once", found: "table \(file.number) twice")
        }
    }

    private func checkDisjoint(_ level: Int, _ manifest: String) throws(EngineError) {
        let files = levels[level]
        for (left, right) in zip(files, files.dropFirst()) {
            let order = compareKeys(left.largest.userKey, right.smallest.userKey)
            guard order < 0 || (order == 0 && left.largest.trailer == .first) else {
                throw .corruption(
                    file: manifest, offset: 0,
                    expected: "disjoint tables in level \(level)",
                    found: "tables \(left.number) and \(right.number) overlapping")
            }
        }
    }
}
