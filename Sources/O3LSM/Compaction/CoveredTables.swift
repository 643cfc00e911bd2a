/// Finds tables that range tombstones hide whole: they can leave the tree at once, without being read.
///
/// That is what makes deleting a large file give its space back in no time, and on a full disk at all: a
/// compaction would need room for its outputs first. The idea is Pebble's delete-only compaction; why it
/// is safe is said in `docs/compaction.md`. Used by the compaction scheduler only.
struct CoveredTables {
    /// Tombstones that are looked at, newest tables first: a bound on the work of one search.
    private static let maximumTombstones: UInt64 = 1 << 16

    private let tombstones: FragmentedTombstones
    private let snapshots: [SequenceNumber]

    /// - Parameters:
    ///   - version: whose tables' range tombstones count. They are durable: they are in the manifest.
    ///   - snapshots: sequences that must stay readable, ascending.
    /// - Throws: what opening a table throws.
    init(version: Version, snapshots: [SequenceNumber], tables: TableCache) throws(EngineError) {
        var found: [RangeTombstone] = []
        var count: UInt64 = 0
        let sources = version.levels.flatMap { $0 }.filter { $0.rangeTombstoneCount > 0 }
            .sorted { $0.largestSequence > $1.largestSequence }
        for file in sources where count + file.rangeTombstoneCount <= Self.maximumTombstones {
            count += file.rangeTombstoneCount
            found += try tables.table(file).rangeTombstones.tombstones()
        }
        tombstones = FragmentedTombstones(found)
        self.snapshots = snapshots
    }

    /// Whether every entry and every tombstone of the table is hidden from every reader, now and later.
    func cover(_ file: FileMetadata) -> Bool {
        var index = file.smallest.userKey.withUnsafeBytes { tombstones.firstFragment(endingAfter: $0) }
        var isFirst = true
        while index < tombstones.count {
            let begin = tombstones.begin(ofFragment: index)
            let continues =
                isFirst
                ? file.smallest.userKey.withUnsafeBytes { compareKeys(begin, $0) <= 0 }
                : compareKeys(begin, tombstones.end(ofFragment: index - 1)) == 0
            let newest = tombstones.newest(ofFragment: index, upTo: maximumSequenceNumber)
            guard continues, newest > file.largestSequence, !isSeen(file, before: newest) else { return false }
            let order = file.largest.userKey.withUnsafeBytes {
                compareKeys(tombstones.end(ofFragment: index), $0)
            }
            if order > 0 || (order == 0 && file.largest.trailer == .first) { return true }
            isFirst = false
            index += 1
        }
        return false
    }

    /// About how many bytes of the table are hidden from every reader, now and later; 0 when nothing is.
    ///
    /// - Throws: what reading the table throws.
    func hiddenBytes(of file: FileMetadata, _ table: Table) throws(EngineError) -> UInt64 {
        var bytes: UInt64 = 0
        let entries = table.makeIterator(fillCache: false)
        var index = file.smallest.userKey.withUnsafeBytes { tombstones.firstFragment(endingAfter: $0) }
        while index < tombstones.count {
            let begin = tombstones.begin(ofFragment: index)
            let end = tombstones.end(ofFragment: index)
            guard file.largest.userKey.withUnsafeBytes({ compareKeys(begin, $0) <= 0 }) else { break }
            index += 1
            let newest = tombstones.newest(ofFragment: index - 1, upTo: maximumSequenceNumber)
            guard newest > file.largestSequence, !isSeen(file, before: newest) else { continue }
            let (from, to) = (table.approximateOffset(begin), table.approximateOffset(end))
            guard to > from else { continue }
            // Two blocks may meet within a gap.
            try entries.seek(begin, .first)
            if entries.isValid, compareKeys(entries.userKey, end) < 0 { bytes += to - from }
        }
        return bytes
    }

    /// Whether a snapshot sees entries of the table and not the tombstone.
    private func isSeen(_ file: FileMetadata, before tombstone: SequenceNumber) -> Bool {
        let first = partitionPoint(0, snapshots.count) { snapshots[$0] < file.smallestSequence }
        return first < snapshots.count && snapshots[first] < tombstone
    }
}
