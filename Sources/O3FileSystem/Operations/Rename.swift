import Glibc
import O3LSM

/// rename(2) and renameat2(2), in one constant-size batch whatever hangs below.
extension FileSystem {
    /// - Parameter whiteout: RENAME_WHITEOUT: leaves a character device 0, 0 of this owner in the old place. Not with
    ///   `.exchange` (EINVAL).
    public func rename(
        from parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        to newParent: InodeNumber,
        _ newName: UnsafeRawBufferPointer,
        mode: RenameMode = .replace,
        whiteout: Owner? = nil,
        request: RequestTicket? = nil
    ) throws(FileSystemError) {
        try checkRenamed(name)
        try checkRenamed(newName)
        let stripe = locks.stripe(of: parent)
        let newStripe = locks.stripe(of: newParent)
        while true {
            let version = locks.version(stripe)
            let newVersion = locks.version(newStripe)
            guard let source = try fetchDentry(parent, name) else {
                guard try requireInode(parent).isDirectory else { throw .notDirectory }
                throw .notFound
            }
            let target = try fetchDentry(newParent, newName)
            // Directories that change their parent do so one at a time: only then does the way up from
            // the new parent stay what it is while it is looked at.
            let isMove = parent != newParent && (source.type == .directory || target?.type == .directory)
            if isMove { topology.lock(0) }
            defer { if isMove { topology.unlock(0) } }
            var stripes = StripeSet()
            stripes.insert(stripe)
            stripes.insert(newStripe)
            stripes.insert(locks.stripe(of: source.inode))
            if let target { stripes.insert(locks.stripe(of: target.inode)) }
            locks.lock(stripes)
            defer { locks.unlock(stripes) }
            if !locks.isOnlyLocked(stripe, since: version) || !locks.isOnlyLocked(newStripe, since: newVersion) {
                guard try fetchDentry(parent, name) == source, try fetchDentry(newParent, newName) == target else {
                    continue
                }
            }
            var change = RenameChange(
                parent: parent,
                newParent: newParent,
                source: source,
                target: target,
                stripes: stripes,
                directory: try requireLockedDirectory(parent),
                newDirectory: try requireLockedDirectory(newParent),
                sourceRow: try requireTarget(of: source, parent, name),
                targetRow: try target.map { (dentry) throws(FileSystemError) in
                    try requireTarget(of: dentry, newParent, newName)
                }
            )
            guard mode != .exchange || whiteout == nil else { throw .invalid }
            if mode == .exchange { return try exchange(&change, name, newName, request) }
            return try replace(&change, name, newName, mode, whiteout, request)
        }
    }

    private func checkRenamed(_ name: UnsafeRawBufferPointer) throws(FileSystemError) {
        do throws(FileSystemError) {
            try checkNew(name)
        } catch {
            throw error == .exists ? .invalid : error
        }
    }

    private func replace(
        _ change: inout RenameChange,
        _ name: UnsafeRawBufferPointer,
        _ newName: UnsafeRawBufferPointer,
        _ mode: RenameMode,
        _ whiteout: Owner?,
        _ request: RequestTicket?
    ) throws(FileSystemError) {
        guard mode != .noReplace || change.target == nil else { throw .exists }
        let isDirectory = change.source.type == .directory
        if isDirectory, change.parent != change.newParent {
            guard try !isAncestor(change.source.inode, of: change.newParent) else { throw .invalid }
        }
        if let target = change.target {
            // Two names of one file: POSIX wants both to stay.
            if target.inode == change.source.inode { return }
            if isDirectory {
                guard target.type == .directory else { throw .notDirectory }
                guard change.targetRow?.size == 0 else { throw .posix(ENOTEMPTY) }
            } else {
                guard target.type != .directory else { throw .isDirectory }
            }
        } else if isDirectory, change.parent != change.newParent,
            change.newDirectory.linkCount >= options.maximumLinks
        {
            throw .posix(EMLINK)
        }

        let now = options.clock()
        let batch = locks.batch(change.stripes)
        batch.put(dentryKey(change.newParent, newName), change.source)
        change.updateDirectory(old: true) { $0.removeEntry(isDirectory: isDirectory, now) }
        if let whiteout {
            let number = try allocator.allocate()
            let row = Inode(mode: S_IFCHR, owner: whiteout, linkCount: 1, time: now)
            batch.put(dentryKey(change.parent, name), Dentry(inode: number, type: row.type))
            batch.put(.inode(number), row)
            change.updateDirectory(old: true) { $0.addEntry(isDirectory: false, now) }
        } else {
            batch.delete(dentryKey(change.parent, name))
        }
        var targetSurvives = true
        var usage = UsageChange.none
        if let target = change.target {
            change.updateDirectory(old: false) { $0.removeEntry(isDirectory: target.type == .directory, now) }
            if var row = change.targetRow {
                targetSurvives = dropName(target.inode, &row, now, batch)
                change.targetRow = row
                if !targetSurvives { usage = .removed(row) }
            }
        }
        if whiteout != nil { usage.inodes += 1 }
        change.updateDirectory(old: false) { $0.addEntry(isDirectory: isDirectory, now) }
        change.sourceRow.changeTime = now
        if isDirectory { change.sourceRow.parent = change.newParent }
        outcomes.note(request, in: batch)
        try commit(batch, change, targetSurvives: targetSurvives, usage)
    }

    private func exchange(
        _ change: inout RenameChange,
        _ name: UnsafeRawBufferPointer,
        _ newName: UnsafeRawBufferPointer,
        _ request: RequestTicket?
    ) throws(FileSystemError) {
        guard let target = change.target, var targetRow = change.targetRow else { throw .notFound }
        if target.inode == change.source.inode { return }
        let sourceIsDirectory = change.source.type == .directory
        let targetIsDirectory = target.type == .directory
        if change.parent != change.newParent {
            if sourceIsDirectory {
                guard try !isAncestor(change.source.inode, of: change.newParent) else { throw .invalid }
            }
            if targetIsDirectory {
                guard try !isAncestor(target.inode, of: change.parent) else { throw .invalid }
            }
        }
        let now = options.clock()
        let batch = locks.batch(change.stripes)
        batch.put(dentryKey(change.parent, name), target)
        batch.put(dentryKey(change.newParent, newName), change.source)
        change.updateDirectory(old: true) {
            $0.removeEntry(isDirectory: sourceIsDirectory, now)
            $0.addEntry(isDirectory: targetIsDirectory, now)
        }
        change.updateDirectory(old: false) {
            $0.removeEntry(isDirectory: targetIsDirectory, now)
            $0.addEntry(isDirectory: sourceIsDirectory, now)
        }
        if sourceIsDirectory { change.sourceRow.parent = change.newParent }
        if targetIsDirectory { targetRow.parent = change.parent }
        change.sourceRow.changeTime = now
        targetRow.changeTime = now
        change.targetRow = targetRow
        batch.put(.inode(target.inode), targetRow)
        outcomes.note(request, in: batch)
        try commit(batch, change, targetSurvives: true)
    }

    /// Adds the rows of the directories and of the source, and applies the batch; the target's row is in it.
    private func commit(
        _ batch: WriteBatch,
        _ change: RenameChange,
        targetSurvives: Bool,
        _ usage: UsageChange = .none
    ) throws(FileSystemError) {
        batch.put(.inode(change.source.inode), change.sourceRow)
        batch.put(.inode(change.parent), change.directory)
        if change.parent != change.newParent { batch.put(.inode(change.newParent), change.newDirectory) }
        do throws(FileSystemError) {
            try apply(batch, usage)
        } catch {
            for number in [change.parent, change.newParent, change.source.inode, change.target?.inode ?? 0] {
                cache.remove(number)
            }
            throw error
        }
        settle(change.source.inode, change.sourceRow)
        settle(change.parent, change.directory)
        if change.parent != change.newParent { settle(change.newParent, change.newDirectory) }
        if let target = change.target, let row = change.targetRow {
            settle(target.inode, row, survives: targetSurvives)
        }
    }

    /// Whether `directory` is `descendant` or lies on its way to the root. The topology is locked.
    private func isAncestor(
        _ directory: InodeNumber,
        of descendant: InodeNumber
    ) throws(FileSystemError) -> Bool {
        var number = descendant
        // No tree is deeper than there are inodes; a loop among damaged rows ends here.
        for _ in 0..<Self.maximumDepth {
            if number == directory { return true }
            if number == rootInode { return false }
            let row = try requireInode(number)
            guard row.isDirectory else {
                throw .corruptRow(row: "inode \(number)", problem: "it is a parent, but no directory")
            }
            number = row.parent
        }
        throw .corruptRow(row: "inode \(descendant)", problem: "its parents form a loop")
    }

    static let maximumDepth = 1 << 20
}

/// What a rename works on: its entries and rows, all stripes locked. One row when both parents are one.
struct RenameChange {
    let parent: InodeNumber
    let newParent: InodeNumber
    let source: Dentry
    let target: Dentry?
    let stripes: StripeSet
    var directory: Inode
    var newDirectory: Inode
    var sourceRow: Inode
    var targetRow: Inode?

    mutating func updateDirectory(old: Bool, _ body: (inout Inode) -> Void) {
        if old || parent == newParent { body(&directory) } else { body(&newDirectory) }
    }
}
