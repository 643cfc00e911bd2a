/// A caller's `compact(begin, end)` in progress: everything that overlaps the range goes down level by
/// level to the last one; there, tables that hold anything obsolete are written anew.
///
///     var manual = ManualCompaction(begin: begin, end: end, nextFileNumber: …)
///     repeat under the lock: switch manual.next(picker, nextFileNumber: …)
///
/// A level is finished when every table it held at the beginning is gone from it, committed; tables that
/// come later are left alone, so that the work ends although writers go on. A value with one owner.
struct ManualCompaction: Sendable {
    /// What to do now.
    enum Step: Sendable {
        /// Execute and commit this, then ask again (or ask at once, with it in flight).
        case compact(Compaction)
        /// Ask again when a compaction in flight has ended.
        case wait
        case done
    }

    /// nil: unbounded. `end` is exclusive.
    let begin: [UInt8]?
    let end: [UInt8]?
    private let startNumber: UInt64
    private var level = 0
    /// Tables of the level with this number or a greater one came too late.
    private var limit: UInt64

    /// - Parameter nextFileNumber: greater than that of every table in the version.
    init(begin: [UInt8]?, end: [UInt8]?, nextFileNumber: UInt64) {
        self.begin = begin
        self.end = end
        startNumber = nextFileNumber
        limit = nextFileNumber
    }

    /// - Parameters:
    ///   - picker: of the current version and with all compactions in flight.
    ///   - nextFileNumber: greater than that of every table in the version.
    ///   - hasStaleEntries: whether a table of the last level without tombstones is worth rewriting (it
    ///     holds several entries of one key, say).
    mutating func next(
        _ picker: CompactionPicker, nextFileNumber: UInt64, hasStaleEntries: (FileMetadata) -> Bool = { _ in false }
    ) -> Step {
        while level < picker.lastLevel {
            let wanted = picker.levels[level].filter { $0.number < limit && isInRange($0) }
            if wanted.isEmpty {
                level += 1
                limit = nextFileNumber
                continue
            }
            if let found = level == 0 ? pickLevel0(picker, wanted) : pickRun(picker, wanted, to: level + 1) {
                return .compact(found)
            }
            return .wait
        }
        let stale = picker.levels[level].filter {
            $0.number < startNumber && isInRange($0)
                && ($0.deletionCount + $0.rangeTombstoneCount > 0 || hasStaleEntries($0))
        }
        if let found = pickRun(picker, stale, to: level) { return .compact(found) }
        return stale.isEmpty ? .done : .wait
    }

    private func isInRange(_ file: FileMetadata) -> Bool {
        if let end, compareKeys(file.smallest.userKey, end) >= 0 { return false }
        return file.overlaps(begin, nil)
    }

    /// All L0 tables of the range in one job, or as many as are not taken.
    private func pickLevel0(_ picker: CompactionPicker, _ wanted: [FileMetadata]) -> Compaction? {
        let columns = Level0Columns(picker.levels[0])
        let numbers = Set(wanted.map(\.number))
        let all = columns.files.indices.filter { numbers.contains(columns.files[$0].number) }
        if let found = picker.assembleLevel0(.manual, columns, seed: all) { return found }
        for index in all.reversed() {
            if let found = picker.assembleLevel0(.manual, columns, seed: [index]) { return found }
        }
        return nil
    }

    /// The first neighbours of `wanted` that are free, up to a few tables' worth of bytes.
    private func pickRun(_ picker: CompactionPicker, _ wanted: [FileMetadata], to outputLevel: Int) -> Compaction? {
        let maximumBytes = UInt64(picker.options.tableFileSize) * 4
        var start = 0
        while start < wanted.count {
            var end = start
            var bytes: UInt64 = 0
            while end < wanted.count, !picker.isBusy(wanted[end]), bytes < maximumBytes {
                bytes += wanted[end].size
                end += 1
            }
            if end > start {
                // A table between two wanted ones that is not wanted itself comes along.
                if let hull = KeyRange.hull(wanted[start..<end]) {
                    let run = Array(picker.files(level, overlapping: hull))
                    if let found = picker.assemble(.manual, run, from: level, to: outputLevel) { return found }
                }
                if let found = picker.assemble(.manual, [wanted[start]], from: level, to: outputLevel) { return found }
            }
            start = max(end, start + 1)
        }
        return nil
    }
}
