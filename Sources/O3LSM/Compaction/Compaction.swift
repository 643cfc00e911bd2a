/// A decision of the picker: which tables to merge (or move) into which level. A value; the tables in
/// it are shared with the version they were picked from, and with it kept alive.
struct Compaction: Sendable {
    /// Why it was picked, for statistics.
    enum Reason: String, Sendable, CaseIterable {
        /// Too many L0 tables over one range.
        case level0Depth
        /// Too many bytes or tables in L0, however they lie.
        case level0Size
        /// As `level0Depth`, with the base level busy.
        case intraLevel0
        case levelSize
        /// A table of tombstones holds back space.
        case tombstones
        case manual
    }

    /// Tables of one level: newest first in L0, else by smallest key.
    struct Input: Sendable {
        var level: Int
        var files: [FileMetadata]
    }

    /// Levels of every version.
    static let levelCount = 7

    let reason: Reason
    /// The tables that leave their level, and those of the output level that they overlap (absent when
    /// there are none, and when a level is compacted into itself).
    let inputs: [Input]
    let outputLevel: Int
    /// The inputs only change their level; there is nothing to execute.
    let isTrivialMove: Bool
    /// Holds every key of inputs and outputs.
    let range: KeyRange
    /// Tables of the level after the output level in `range`: outputs are cut so that none overlaps too
    /// many of them.
    let grandparents: [FileMetadata]
    /// Where keys older than the inputs may lie: sorted and disjoint. A tombstone outside of them hides
    /// nothing but the inputs.
    let deeperRanges: [KeyRange]
    /// Newer tables, no inputs, whose range tombstones hide entries of the inputs: these are left out, and the
    /// tombstones stay where they are.
    var tombstoneSources: [FileMetadata] = []

    /// The level that the compaction makes smaller.
    var level: Int { inputs[0].level }
    var files: [FileMetadata] { inputs.flatMap(\.files) }
    var inputBytes: UInt64 { files.reduce(0) { $0 + $1.size } }
    var inputEntries: UInt64 { files.reduce(0) { $0 + $1.entryCount } }

    /// Marks the inputs as taken, or as free again. Call it under the lock that the picker runs under.
    func setBusy(_ isBusy: Bool) {
        for file in files { file.isBeingCompacted.store(isBusy, ordering: .relaxed) }
    }
}
