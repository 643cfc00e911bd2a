/// How often each inode is known to the kernel, and whether it has lost its last name meanwhile.
///
/// Sharded open-addressing tables of 12 bytes a place, between 58 and 87 in 100 full (a quarter and
/// more when it shrinks): a million files take less than 24 MB. Thread-safe.
final class LookupCounts: @unchecked Sendable {
    // @unchecked: each shard is used under its lock.
    private static let shardCount = 64

    private final class Shard {
        var table = CountTable()
    }

    private let shards: [Shard] = (0..<shardCount).map { _ in Shard() }
    private let locks = LockArray(count: shardCount)

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

/// Inode number → 32 bits, by linear probing; removal shifts back what follows, so there are no
/// tombstones. 0 is no inode number and marks an empty place.
struct CountTable: ~Copyable {
    static let orphanBit: UInt32 = 1 << 31
    static let countMask: UInt32 = orphanBit - 1
    private static let minimumCapacity = 16

    private(set) var capacity = minimumCapacity
    private(set) var used = 0
    var keys: UnsafeMutablePointer<InodeNumber>
    var values: UnsafeMutablePointer<UInt32>

    init() {
        keys = .allocate(capacity: capacity)
        keys.initialize(repeating: 0, count: capacity)
        values = .allocate(capacity: capacity)
        values.initialize(repeating: 0, count: capacity)
    }

    deinit {
        keys.deallocate()
        values.deallocate()
    }

    static func mix(_ inode: InodeNumber) -> UInt64 {
        let product = inode.multipliedFullWidth(by: 0x9e37_79b9_7f4a_7c15)
        return product.high ^ product.low
    }

    /// Where `inode` is, or where it would be put.
    func place(of inode: InodeNumber) -> Int {
        var place = home(of: inode)
        while keys[place] != 0, keys[place] != inode { place = next(place) }
        return place
    }

    /// `inode` is not in the table.
    mutating func insert(_ inode: InodeNumber, _ value: UInt32) {
        if (used + 1) * 8 > capacity * 7 { resize(to: capacity + capacity / 2) }
        let free = place(of: inode)
        keys[free] = inode
        values[free] = value
        used += 1
    }

    mutating func remove(at place: Int) {
        var hole = place
        var probe = next(place)
        while keys[probe] != 0 {
            // Only what may lie at the hole, by its home, is moved there.
            let distanceFromHome = distance(home(of: keys[probe]), probe)
            if distanceFromHome >= distance(hole, probe) {
                keys[hole] = keys[probe]
                values[hole] = values[probe]
                hole = probe
            }
            probe = next(probe)
        }
        keys[hole] = 0
        used -= 1
        if capacity > Self.minimumCapacity, used * 4 < capacity {
            resize(to: max(Self.minimumCapacity, capacity / 2))
        }
    }

    private func next(_ place: Int) -> Int { place + 1 == capacity ? 0 : place + 1 }
    private func distance(_ from: Int, _ to: Int) -> Int { to >= from ? to - from : to - from + capacity }

    /// A multiply in place of a remainder; any capacity will do.
    private func home(of inode: InodeNumber) -> Int {
        Int(truncatingIfNeeded: Self.mix(inode).multipliedFullWidth(by: UInt64(capacity)).high)
    }

    private mutating func resize(to newCapacity: Int) {
        let oldKeys = keys
        let oldValues = values
        let oldCapacity = capacity
        capacity = newCapacity
        keys = .allocate(capacity: newCapacity)
        keys.initialize(repeating: 0, count: newCapacity)
        values = .allocate(capacity: newCapacity)
        values.initialize(repeating: 0, count: newCapacity)
        for index in 0..<oldCapacity where oldKeys[index] != 0 {
            let free = place(of: oldKeys[index])
            keys[free] = oldKeys[index]
            values[free] = oldValues[index]
        }
        oldKeys.deallocate()
        oldValues.deallocate()
    }
}
