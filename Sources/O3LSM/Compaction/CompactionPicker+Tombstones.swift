extension CompactionPicker {
    /// A range tombstone hides an unknown number of entries: it counts as so many deletes.
    private static let deletesPerRangeTombstone: UInt64 = 64
    /// A table of which a smaller part is tombstones is not worth being written again for them alone.
    private static let worthwhileShare: UInt64 = 64
    /// So many deletes in one window of a table make scans crawl.
    static let clusteredDeletions = UInt64(DeletionWindow.length / 2)

    /// What a table's tombstones count for.
    private static func tombstones(_ file: FileMetadata) -> UInt64 {
        file.deletionCount + deletesPerRangeTombstone * file.rangeTombstoneCount
    }

    /// When no level is too large: tables of little but tombstones, as a whole or in one place, so that what they delete
    /// gives its space back, and scans do not crawl over them, without waiting for writes that push them down. On a full
    /// disk, any with tombstones. Then those of which the tombstones have become useless where they are.
    func pickTombstones() -> Compaction? {
        func isWanted(_ file: FileMetadata) -> Bool {
            let tombstones = Self.tombstones(file)
            if isSpaceScarce { return tombstones > 0 }
            return tombstones > 0 && tombstones * 2 >= file.entryCount || file.densestDeletions >= Self.clusteredDeletions
        }
        for level in (1..<lastLevel).reversed() {
            if let found = pickLevel(level, reason: .tombstones, where: isWanted) { return found }
        }
        let columns = Level0Columns(levels[0])
        for index in levels[0].indices.reversed() where !isBusy(levels[0][index]) && isWanted(levels[0][index]) {
            if let found = assembleLevel0(.tombstones, columns, seed: [index]) { return found }
        }
        return pickReleased()
    }

    /// A table under which no deeper one lies and whose tombstones were kept for a snapshot, when no snapshot can tell its
    /// entries apart any more: it is written again in its level.
    ///
    /// All of its sequences are then in the oldest stratum, where a compaction with nothing deeper keeps no tombstone. So
    /// what is written has none, and is not picked again; snapshots that are made later are newer than the table. (RocksDB
    /// marks bottommost files likewise.)
    private func pickReleased() -> Compaction? {
        for level in (1...lastLevel).reversed() {
            for file in levels[level] where file.largestSequence <= oldestSnapshot && !isBusy(file) {
                let tombstones = Self.tombstones(file)
                guard tombstones > 0, tombstones * Self.worthwhileShare >= file.entryCount else { continue }
                let range = KeyRange(file)
                guard (level + 1..<levels.count).allSatisfy({ files($0, overlapping: range).isEmpty }) else { continue }
                if let found = assemble(.tombstones, [file], from: level, to: level) { return found }
            }
        }
        return nil
    }
}
