import Glibc
import O3LSM

/// Giving a file another name, and taking names away.
extension FileSystem {
    /// Another name for a file that is no directory (EPERM).
    public func link(
        _ inode: InodeNumber,
        in parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        retain: Bool = false,
        request: RequestTicket? = nil
    ) throws(FileSystemError) -> Attributes {
        try checkNew(name)
        var stripes = StripeSet()
        stripes.insert(locks.stripe(of: inode))
        stripes.insert(locks.stripe(of: parent))
        locks.lock(stripes)
        defer { locks.unlock(stripes) }

        var directory = try requireLockedDirectory(parent)
        var row = try requireLockedInode(inode)
        guard !row.isDirectory else { throw .posix(EPERM) }
        let key = dentryKey(parent, name)
        guard try store.fetch(key) == nil else { throw .exists }
        guard row.linkCount < options.maximumLinks else { throw .posix(EMLINK) }

        let now = options.clock()
        let batch = locks.batch(stripes)
        // A file made without a name is an orphan no longer.
        if row.linkCount == 0 { batch.delete(.orphan(inode)) }
        row.linkCount += 1
        row.changeTime = now
        directory.addEntry(isDirectory: false, now)
        batch.put(key, Dentry(inode: inode, type: row.type))
        batch.put(.inode(inode), row)
        outcomes.note(request, in: batch)
        if retain { lookups.retain(inode) }
        do throws(FileSystemError) {
            try commit(batch, parent, directory)
        } catch {
            cache.remove(inode)
            if retain { _ = lookups.release(inode, 1) }
            throw error
        }
        settle(inode, row)
        return attributes(inode, row)
    }

    /// Removes a name of a file that is no directory (EISDIR).
    public func unlink(
        in parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        request: RequestTicket? = nil
    ) throws(FileSystemError) {
        try remove(parent, name, directory: false, request)
    }

    /// Removes an empty directory. ENOTDIR, ENOTEMPTY; EINVAL for ".".
    public func removeDirectory(
        in parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        request: RequestTicket? = nil
    ) throws(FileSystemError) {
        if isDot(name) { throw .invalid }
        if isDotDot(name) { throw .posix(ENOTEMPTY) }
        try remove(parent, name, directory: true, request)
    }

    private func remove(
        _ parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        directory wantsDirectory: Bool,
        _ request: RequestTicket?
    ) throws(FileSystemError) {
        guard name.count <= NameKey.maximumNameLength else { throw .posix(ENAMETOOLONG) }
        let parentStripe = locks.stripe(of: parent)
        while true {
            // Which stripes to lock is known only from the entry: read it, lock, and see if it still holds.
            let version = locks.version(parentStripe)
            guard let dentry = try fetchDentry(parent, name) else {
                guard try requireInode(parent).isDirectory else { throw .notDirectory }
                throw .notFound
            }
            var stripes = StripeSet()
            stripes.insert(parentStripe)
            stripes.insert(locks.stripe(of: dentry.inode))
            locks.lock(stripes)
            defer { locks.unlock(stripes) }
            if !locks.isOnlyLocked(parentStripe, since: version) {
                guard try fetchDentry(parent, name) == dentry else { continue }
            }
            return try remove(parent, name, dentry, stripes, wantsDirectory, request)
        }
    }

    /// With the stripes of both inodes locked.
    private func remove(
        _ parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        _ dentry: Dentry,
        _ stripes: StripeSet,
        _ wantsDirectory: Bool,
        _ request: RequestTicket?
    ) throws(FileSystemError) {
        if wantsDirectory {
            guard dentry.type == .directory else { throw .notDirectory }
        } else {
            guard dentry.type != .directory else { throw .isDirectory }
        }
        var directory = try requireLockedDirectory(parent)
        var row = try requireTarget(of: dentry, parent, name)
        if wantsDirectory { guard row.size == 0 else { throw .posix(ENOTEMPTY) } }

        let now = options.clock()
        let batch = locks.batch(stripes)
        batch.delete(dentryKey(parent, name))
        directory.removeEntry(isDirectory: wantsDirectory, now)
        let survives = dropName(dentry.inode, &row, now, batch)
        outcomes.note(request, in: batch)
        do throws(FileSystemError) {
            try commit(batch, parent, directory, others: survives ? .none : .removed(row))
        } catch {
            cache.remove(dentry.inode)
            throw error
        }
        settle(dentry.inode, row, survives: survives)
    }

    /// The row of the inode an entry names, its stripe locked; an entry without one is damage.
    func requireTarget(
        of dentry: Dentry,
        _ parent: InodeNumber,
        _ name: UnsafeRawBufferPointer
    ) throws(FileSystemError) -> Inode {
        guard let row = try lockedInode(dentry.inode) else {
            throw .corruptRow(
                row: KeyDescription.dentry(parent, name),
                problem: "its inode \(dentry.inode) does not exist"
            )
        }
        guard row.type == dentry.type else {
            throw .corruptRow(
                row: KeyDescription.dentry(parent, name),
                problem: "it says \(dentry.type), its inode \(dentry.inode) says \(row.type)"
            )
        }
        return row
    }
}

extension Inode {
    /// What a directory's row loses with an entry. Saturates on counts that are already damaged.
    mutating func removeEntry(isDirectory: Bool, _ now: Timestamp) {
        size -= min(1, size)
        if isDirectory { linkCount -= linkCount > 2 ? 1 : 0 }
        modificationTime = now
        changeTime = now
    }

    mutating func addEntry(isDirectory: Bool, _ now: Timestamp) {
        size += 1
        if isDirectory { linkCount += 1 }
        modificationTime = now
        changeTime = now
    }
}
