import Glibc
import O3LSM

/// Listing directories, in the order of their entries' hashes (see `DirectoryCookie`).
extension FileSystem {
    /// Entries read together when a listing begins, and when it goes on: one that went on for long will
    /// go on, and making a cursor costs as much as some dozens of entries.
    private static let firstRun = 64
    private static let laterRun = 512

    /// Hands entries to `body` from the one after `cookie` (0: from the start, with "." and "..") until
    /// it answers false: that entry did not fit and comes again. Cookies stay valid while entries come
    /// and go. With `attributes`, each entry but "." and ".." carries them, unless they cannot be read, and, if taken,
    /// is then retained when `retain` says so. `expected`: about how many entries the caller has room for.
    public func readDirectory(
        _ inode: InodeNumber,
        after cookie: UInt64,
        attributes: Bool = false,
        retain: Bool = false,
        expected: Int = 64,
        _ body: (DirectoryEntry) -> Bool
    ) throws(FileSystemError) {
        let row = try requireInode(inode)
        guard row.isDirectory else { throw .notDirectory }
        guard readDots(inode, row, cookie, body) else { return }
        // A removed directory has no entries; an empty one need not be looked through.
        guard row.size > 0 else { return }
        let stripe = locks.stripe(of: inode)
        let version = locks.version(stripe)
        // The cookie of the last entry that was taken: where the caller will go on.
        var last = max(cookie, DirectoryCookie.afterParent)
        let rest = listings.take(inode, after: last, version)
        var run = if let rest { rest.run } else { try nextRun(inode, after: last, max(expected, Self.firstRun)) }
        var position = rest?.position ?? 0
        while true {
            let end = attributes ? min(run.entries.count, position + max(expected, 8)) : run.entries.count
            let shown = show(run, position..<end, attributes, retain, body)
            if shown > 0 { last = run.entries[position + shown - 1].cookie }
            guard position + shown == end else {
                if version & 1 == 0 { listings.store(run, position + shown, inode, after: last, version) }
                return
            }
            position = end
            if position == run.entries.count {
                guard !run.isLast else { return }
                (run, position) = (try nextRun(inode, after: last, Self.laterRun), 0)
            }
        }
    }

    /// "." and "..", as far as they come after `cookie`. False when one did not fit.
    private func readDots(
        _ inode: InodeNumber,
        _ row: Inode,
        _ cookie: UInt64,
        _ body: (DirectoryEntry) -> Bool
    ) -> Bool {
        func show(_ name: StaticString, _ number: InodeNumber, _ next: UInt64) -> Bool {
            body(
                DirectoryEntry(
                    name: UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount),
                    inode: number,
                    type: .directory,
                    cookie: next,
                    attributes: nil
                )
            )
        }
        if cookie < DirectoryCookie.afterSelf, !show(".", inode, DirectoryCookie.afterSelf) { return false }
        if cookie < DirectoryCookie.afterParent, !show("..", row.parent, DirectoryCookie.afterParent) { return false }
        return true
    }

    /// Hands entries of a run over, with their inodes, fetched together, if `attributes`; without where an inode cannot
    /// be read. Answers how many were taken.
    private func show(
        _ run: ListingRun,
        _ range: Range<Int>,
        _ attributes: Bool,
        _ retain: Bool,
        _ body: (DirectoryEntry) -> Bool
    ) -> Int {
        let rows = attributes ? loadInodes(run.entries[range].map(\.dentry.inode)) : []
        for index in range {
            let entry = run.entries[index]
            let number = entry.dentry.inode
            let row = attributes ? rows[index - range.lowerBound] : nil
            if retain, row != nil { lookups.retain(number) }
            let isTaken = run.withName(index) { name in
                body(
                    DirectoryEntry(
                        name: name,
                        inode: number,
                        type: entry.dentry.type,
                        cookie: entry.cookie,
                        attributes: row.map { self.attributes(number, $0) }
                    )
                )
            }
            guard isTaken else {
                if retain, row != nil { forget(number, count: 1) }
                return index - range.lowerBound
            }
        }
        return range.count
    }

    /// The rows of many inodes, nil where there is none, or none that can be read: from the cache, the others by one
    /// multi-get. What is wrong with one file must not hide the others; who asks for that file hears of it.
    func loadInodes(_ numbers: [InodeNumber]) -> [Inode?] {
        var rows = [Inode?](repeating: nil, count: numbers.count)
        var missing: [(index: Int, version: UInt64)] = []
        var keys: [[UInt8]] = []
        for (index, number) in numbers.enumerated() {
            let version = locks.version(locks.stripe(of: number))
            if version & 1 == 0, let row = cache.row(of: number) {
                rows[index] = row
            } else {
                missing.append((index, version))
                keys.append(RowKey.inode(number).bytes)
            }
        }
        guard !missing.isEmpty else { return rows }
        guard let values = try? store.multiGet(keys, snapshot: nil) else {
            for entry in missing { rows[entry.index] = try? loadInode(numbers[entry.index]) }
            return rows
        }
        for (position, entry) in missing.enumerated() {
            guard let value = values[position] else { continue }
            let number = numbers[entry.index]
            var problem = ""
            guard let row = value.withUnsafeBytes({ Inode($0, failure: &problem) }) else { continue }
            rows[entry.index] = row
            cache.insert(number, row) { locks.isUnchanged(locks.stripe(of: number), since: entry.version) }
        }
        return rows
    }
}

extension FileSystem {
    /// Up to `limit` entries of a directory after `cookie`, with the cookies that follow them.
    private func nextRun(
        _ directory: InodeNumber,
        after cookie: UInt64,
        _ limit: Int
    ) throws(FileSystemError) -> ListingRun {
        let start = DirectoryCookie(cookie)
        let cursor = try store.scan(
            from: NameKey(dentryOf: directory, hash: start.hash, UnsafeRawBufferPointer(start: nil, count: 0)).bytes,
            to: RowKey.first(.dentry, of: directory + 1).bytes
        )
        var names: [UInt8] = []
        var entries: [ListingRun.Entry] = []
        var hash = start.hash
        var ordinal: UInt64 = 0
        while cursor.isValid, entries.count < limit {
            guard case .dentry(_, let found, let name)? = ParsedKey(cursor.key) else {
                throw .corruptRow(row: KeyDescription.describe(cursor.key), problem: "it is not an entry's key")
            }
            ordinal = found == hash ? ordinal + 1 : 1
            hash = found
            // Entries of the first hash that the caller has already seen.
            if found != start.hash || ordinal > start.seen {
                guard let dentry = Dentry(cursor.value) else {
                    throw .corruptRow(
                        row: KeyDescription.describe(cursor.key),
                        problem: "its value of \(cursor.value.count) bytes is no entry"
                    )
                }
                names.append(contentsOf: name)
                entries.append(
                    ListingRun.Entry(
                        nameEnd: names.count,
                        dentry: dentry,
                        cookie: DirectoryCookie(hash: found, seen: ordinal).rawValue
                    )
                )
            }
            try cursor.advance()
        }
        return ListingRun(names: names, entries: entries, isLast: !cursor.isValid)
    }
}
