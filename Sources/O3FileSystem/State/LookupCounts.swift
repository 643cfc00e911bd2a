/// How often each inode is known to the kernel, and whether it has lost its last name meanwhile.
///
/// Sharded open-addressing tables of 12 bytes a place, between 58 and 87 in 100 full (a quarter and
/// more when it shrinks): a million files take less than 24 MB. Thread-safe.
///
/// With a `CountFile`, the counts outlive the process, killed at whatever instant. They are then never too low: a
/// look-up is counted before it is answered, and again if it has to be answered again.
final class LookupCounts: @unchecked Sendable {
    // @unchecked: each shard is used under its lock.
    private static let shardCount = CountFile.shards

    private final class Shard {
        var table: CountTable

        init(_ file: CountFile?, _ number: Int) { table = CountTable(file, shard: number) }
    }

    private let shards: [Shard]
    /// Where the counts are kept for another process; nil: in this one's own memory.
    let file: CountFile?
    private let locks = LockArray(count: shardCount)

    init(_ file: CountFile? = nil) {
        self.file = file
        shards = (0..<Self.shardCount).map { Shard(file, $0) }
    }

    /// What `release` found.
    struct Release: Equatable {
        /// The count before.
        var before: UInt32
        /// The count is zero now, and the inode was marked as an orphan.
        var isForgottenOrphan: Bool
    }

    /// Inodes with a count.
    var inodeCount: Int {
        var total = 0
        for shard in 0..<Self.shardCount { total += withLock(shard) { $0.used } }
        return total
    }

    func retain(_ inode: InodeNumber) {
        withLock(shard(of: inode)) { table in
            let place = table.place(of: inode)
            if table.keys[place] == inode {
                // Saturates: 2^31 lookups of one inode without a forget.
                if table.values[place] & CountTable.countMask != CountTable.countMask { table.values[place] += 1 }
            } else {
                table.insert(inode, 1)
            }
        }
    }

    /// Lowers the count, to zero at least.
    func release(_ inode: InodeNumber, _ count: UInt64) -> Release {
        withLock(shard(of: inode)) { table in
            let place = table.place(of: inode)
            guard table.keys[place] == inode else { return Release(before: 0, isForgottenOrphan: false) }
            let before = table.values[place] & CountTable.countMask
            let isOrphan = table.values[place] & CountTable.orphanBit != 0
            guard UInt64(before) <= count else {
                table.values[place] -= UInt32(count)
                return Release(before: before, isForgottenOrphan: false)
            }
            table.remove(at: place)
            return Release(before: before, isForgottenOrphan: isOrphan)
        }
    }

    func isRetained(_ inode: InodeNumber) -> Bool {
        withLock(shard(of: inode)) { $0.keys[$0.place(of: inode)] == inode }
    }

    /// Marks a retained inode as one without a name; false when it is not retained.
    func markOrphan(_ inode: InodeNumber) -> Bool {
        withLock(shard(of: inode)) { table in
            let place = table.place(of: inode)
            guard table.keys[place] == inode else { return false }
            table.values[place] |= CountTable.orphanBit
            return true
        }
    }

    private func shard(of inode: InodeNumber) -> Int {
        Int(truncatingIfNeeded: CountTable.mix(inode)) & (Self.shardCount - 1)
    }

    @inline(__always)
    private func withLock<Result>(_ shard: Int, _ body: (inout CountTable) -> Result) -> Result {
        locks.lock(shard)
        defer { locks.unlock(shard) }
        return body(&shards[shard].table)
    }
}
