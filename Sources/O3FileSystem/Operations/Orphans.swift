import O3LSM

/// Files whose last name is gone: deleted at once, or kept as orphans while somebody holds them.
extension FileSystem {
    /// Up to so many data blocks are deleted one by one, more by a range tombstone: point tombstones
    /// are cheap to write and to read past, a range tombstone is one more thing for every read to check.
    static let maximumPointDeletes: UInt64 = 64

    /// Adds to `batch` what takes one name from a file, whose stripe the caller has locked; a directory
    /// loses its only one. Answers whether the row stays (see `settle`).
    func dropName(_ number: InodeNumber, _ row: inout Inode, _ now: Timestamp, _ batch: WriteBatch) -> Bool {
        row.linkCount = row.isDirectory ? 0 : row.linkCount - min(1, row.linkCount)
        row.changeTime = now
        if row.linkCount == 0 {
            let isHeld = lookups.markOrphan(number) || number < firstCounted
            guard isHeld else {
                deleteRows(of: number, row, batch)
                return false
            }
            batch.put(.orphan(number), UnsafeRawBufferPointer(start: nil, count: 0))
        }
        batch.put(.inode(number), row)
        return true
    }

    /// Adds to `batch` the deletion of all rows of a file: constant work for a file of any size.
    func deleteRows(of number: InodeNumber, _ row: Inode, _ batch: WriteBatch) {
        batch.delete(.inode(number))
        let blocks = blockCount(row.size)
        if !row.isDirectory, row.blocks > 0 || row.hasEstimatedBlocks {
            if blocks <= Self.maximumPointDeletes {
                for block in 0..<blocks { batch.delete(.data(number, block: block)) }
            } else {
                batch.deleteRange(.data(number, block: 0), .data(number, block: blocks))
            }
        }
        if row.hasExtendedAttributes {
            batch.deleteRange(
                .first(.extendedAttribute, of: number),
                .first(.extendedAttribute, of: number + 1)
            )
        }
    }

    public func forget(_ inode: InodeNumber, count: UInt64) {
        let release = lookups.release(inode, count)
        // The kernel forgets an inode all at once. If it was counted by an earlier process too, more than
        // is counted here is all of it; as much or less may not be.
        let isForgotten = inode < firstCounted ? count > UInt64(release.before) : release.isForgottenOrphan
        guard isForgotten else { return }
        // What cannot be reclaimed now is reclaimed at the next mount: its orphan row says so.
        try? reclaim(inode)
    }

    /// Deletes an orphan that nobody holds; anything else is left alone.
    private func reclaim(_ inode: InodeNumber) throws(FileSystemError) {
        let stripe = locks.stripe(of: inode)
        locks.lock(stripe)
        defer { locks.unlock(stripe) }
        guard !lookups.isRetained(inode) else { return }
        guard let row = try lockedInode(inode), row.linkCount == 0 else { return }
        let batch = locks.batch(stripe)
        deleteRows(of: inode, row, batch)
        batch.delete(.orphan(inode))
        cache.remove(inode)
        try apply(batch, .removed(row))
    }

    /// Deletes every orphan that nobody holds: once when a mount begins, or goes on, for the one before may have died
    /// between forgetting a file and deleting it. Without the counts of the one before nothing is deleted: the kernel
    /// may hold any of them.
    ///
    /// It waits for memory as any writer does, so that it belongs behind the start of serving, beside which it may
    /// run. What cannot be read or deleted is reported, for all other files are as good as ever; the next mount tries
    /// again, as it does when the store is closed meanwhile.
    public func reclaimOrphans() {
        guard firstCounted == 0, !options.isReadOnly else { return }
        do throws(FileSystemError) {
            var first: InodeNumber = 0
            while true {
                let found = try orphans(from: first)
                for inode in found { try reclaimReadable(inode) }
                guard found.count == Self.orphansAtOnce, let last = found.last, last < .max else { return }
                first = last + 1
            }
        } catch {
            if case .engine(.closed) = error { return }
            options.report(error)
        }
    }

    private static let orphansAtOnce = 1024

    /// The next ones in order. The scan is over when this returns: it keeps memtables from being given back, and a
    /// deletion that waits for their memory meanwhile would wait for ever.
    private func orphans(from first: InodeNumber) throws(FileSystemError) -> [InodeNumber] {
        var found: [InodeNumber] = []
        let cursor = try store.scan(
            from: RowKey.orphan(first).bytes, to: [RowKind.orphan.rawValue + 1], fillCache: false)
        while cursor.isValid, found.count < Self.orphansAtOnce {
            if case .orphan(let inode)? = ParsedKey(cursor.key) { found.append(inode) }
            try cursor.advance()
        }
        return found
    }

    /// As `reclaim`; a file whose rows are damaged is reported and left alone.
    private func reclaimReadable(_ inode: InodeNumber) throws(FileSystemError) {
        do throws(FileSystemError) {
            try reclaim(inode)
        } catch {
            switch error {
            case .corruptRow, .engine(.corruption): options.report(error)
            default: throw error
            }
        }
    }
}
