/// A bounded cache of inode rows: sets of eight, the oldest of a set makes room.
///
/// It never holds what the store does not: a row is replaced by whoever changed it, with the inode's
/// stripe locked; a reader's row is taken only if the stripe did not change since before it was read.
/// Thread-safe; a call holds one short lock.
final class InodeCache: @unchecked Sendable {
    // @unchecked: all memory is used under the lock of its set.
    private static let ways = 8
    private static let maximumLocks = 256

    private let sets: Int
    private let locks: LockArray
    /// Inode numbers, 0 for an empty place.
    private let tags: UnsafeMutablePointer<InodeNumber>
    private let rows: UnsafeMutablePointer<Inode>
    /// Which way of a set is replaced next.
    private let victims: UnsafeMutablePointer<UInt8>

    /// Holds at least `capacity` rows, rounded up to a power of two of sets; none for 0.
    init(capacity: Int) {
        var sets = capacity > 0 ? 1 : 0
        while sets * Self.ways < capacity { sets *= 2 }
        self.sets = sets
        locks = LockArray(count: max(1, min(sets, Self.maximumLocks)))
        tags = .allocate(capacity: max(1, sets * Self.ways))
        tags.initialize(repeating: 0, count: max(1, sets * Self.ways))
        rows = .allocate(capacity: max(1, sets * Self.ways))
        victims = .allocate(capacity: max(1, sets))
        victims.initialize(repeating: 0, count: max(1, sets))
    }

    deinit {
        tags.deallocate()
        rows.deallocate()
        victims.deallocate()
    }

    func row(of inode: InodeNumber) -> Inode? {
        guard sets > 0, inode != 0 else { return nil }
        let set = set(of: inode)
        lock(set)
        defer { unlock(set) }
        guard let place = find(inode, set) else { return nil }
        return rows[place]
    }

    /// Stores the row if, with the set locked, `isCurrent` still says so.
    func insert(_ inode: InodeNumber, _ row: Inode, if isCurrent: () -> Bool = { true }) {
        guard sets > 0, inode != 0 else { return }
        let set = set(of: inode)
        lock(set)
        defer { unlock(set) }
        guard isCurrent() else { return }
        if let place = find(inode, set) ?? find(0, set) {
            tags[place] = inode
            (rows + place).initialize(to: row)
            return
        }
        let place = set * Self.ways + Int(victims[set])
        victims[set] = (victims[set] + 1) % UInt8(Self.ways)
        tags[place] = inode
        (rows + place).initialize(to: row)
    }

    func remove(_ inode: InodeNumber) {
        guard sets > 0, inode != 0 else { return }
        let set = set(of: inode)
        lock(set)
        defer { unlock(set) }
        if let place = find(inode, set) { tags[place] = 0 }
    }

    private func find(_ tag: InodeNumber, _ set: Int) -> Int? {
        let base = set * Self.ways
        for way in 0..<Self.ways where tags[base + way] == tag { return base + way }
        return nil
    }

    private func set(of inode: InodeNumber) -> Int {
        Int(truncatingIfNeeded: (inode &* 0x9e37_79b9_7f4a_7c15) >> 24) & (sets - 1)
    }
    private func lock(_ set: Int) { locks.lock(set & (locks.count - 1)) }
    private func unlock(_ set: Int) { locks.unlock(set & (locks.count - 1)) }
}
