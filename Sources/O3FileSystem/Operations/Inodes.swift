import Glibc
import O3LSM

/// Finding and changing inode rows: what every operation begins and ends with.
extension FileSystem {
    /// The inode's row as it is at some instant during the call; nil when there is none.
    func loadInode(_ number: InodeNumber) throws(FileSystemError) -> Inode? {
        let stripe = locks.stripe(of: number)
        let version = locks.version(stripe)
        // While the stripe is locked, the store may already be ahead of the cache.
        guard version & 1 == 0 else { return try store.fetchInode(number) }
        if let row = cache.row(of: number) { return row }
        guard let row = try store.fetchInode(number) else { return nil }
        cache.insert(number, row) { locks.isUnchanged(stripe, since: version) }
        return row
    }

    /// As `loadInode`; ENOENT when there is none.
    func requireInode(_ number: InodeNumber) throws(FileSystemError) -> Inode {
        guard let row = try loadInode(number) else { throw .notFound }
        return row
    }

    /// The inode's row for the holder of its stripe's lock; nil when there is none.
    func lockedInode(_ number: InodeNumber) throws(FileSystemError) -> Inode? {
        if let row = cache.row(of: number) { return row }
        guard let row = try store.fetchInode(number) else { return nil }
        cache.insert(number, row)
        return row
    }

    /// As `lockedInode`; ENOENT when there is none.
    func requireLockedInode(_ number: InodeNumber) throws(FileSystemError) -> Inode {
        guard let row = try lockedInode(number) else { throw .notFound }
        return row
    }

    /// A directory that can take entries, for the holder of its stripe's lock. ENOENT also for one
    /// that was removed.
    func requireLockedDirectory(_ number: InodeNumber) throws(FileSystemError) -> Inode {
        let row = try requireLockedInode(number)
        guard row.isDirectory else { throw .notDirectory }
        guard row.linkCount > 0 else { throw .notFound }
        return row
    }

    /// Applies the batch of an operation that changed one inode, whose stripe the caller has locked. `others`: what
    /// the batch makes or removes besides.
    func commit(
        _ batch: WriteBatch,
        _ number: InodeNumber,
        _ row: Inode,
        sync: Bool = false,
        others: UsageChange = .none
    ) throws(FileSystemError) {
        batch.put(.inode(number), row)
        do throws(FileSystemError) {
            var change = try change(number, to: row)
            change.blocks += others.blocks
            change.inodes += others.inodes
            try apply(batch, change, sync: sync)
        } catch {
            cache.remove(number)
            throw error
        }
        settle(number, row)
    }

    /// Brings the cache up to date with a batch that was applied; the inode's stripe is locked.
    func settle(_ number: InodeNumber, _ row: Inode, survives: Bool = true) {
        if survives { cache.insert(number, row) } else { cache.remove(number) }
    }

    func attributes(_ number: InodeNumber, _ row: Inode) -> Attributes {
        row.attributes(of: number, blockSize: blockSize)
    }

    // MARK: Attributes

    public func getAttributes(_ inode: InodeNumber) throws(FileSystemError) -> Attributes {
        attributes(inode, try requireInode(inode))
    }

    public func setAttributes(
        _ inode: InodeNumber,
        _ changes: AttributeChanges
    ) throws(FileSystemError) -> Attributes {
        let stripe = locks.stripe(of: inode)
        locks.lock(stripe)
        defer { locks.unlock(stripe) }
        var row = try requireLockedInode(inode)
        let batch = locks.batch(stripe)
        let now = options.clock()
        if let mode = changes.mode { try changeMode(inode, &row, to: mode, batch) }
        if changes.uid != nil || changes.gid != nil {
            row.uid = changes.uid ?? row.uid
            row.gid = changes.gid ?? row.gid
            if changes.mode == nil, !row.isDirectory { row.clearPrivileges(.ofPrograms) }
            dropCapabilities(inode, &row, batch)
        }
        // A value that a truncation cuts is referenced by the batch.
        var cut: [UInt8] = []
        if let size = changes.size {
            guard !row.isDirectory else { throw .isDirectory }
            guard row.isRegular else { throw .invalid }
            guard size <= Self.maximumFileSize else { throw .posix(EFBIG) }
            try resize(inode, &row, to: size, batch, &cut)
            row.modificationTime = now
            dropCapabilities(inode, &row, batch)
        }
        if changes.clearsPrivileges != .none, !row.isDirectory {
            row.clearPrivileges(changes.clearsPrivileges)
            dropCapabilities(inode, &row, batch)
        }
        if let time = changes.accessTime { row.accessTime = try resolve(time, now) }
        if let time = changes.modificationTime { row.modificationTime = try resolve(time, now) }
        row.changeTime = try resolve(changes.changeTime.map { .to($0) } ?? .now, now)
        try commit(batch, inode, row)
        return attributes(inode, row)
    }

    private func resolve(_ change: TimeChange, _ now: Timestamp) throws(FileSystemError) -> Timestamp {
        guard case .to(let time) = change else { return now }
        guard time.nanoseconds < 1_000_000_000 else { throw .invalid }
        return time
    }
}
