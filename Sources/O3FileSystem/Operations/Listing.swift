import Glibc
import O3LSM

/// Listing directories, in the order of their entries' hashes (see `DirectoryCookie`).
extension FileSystem {
    /// Entries fetched together when a listing wants attributes.
    private static let maximumChunk = 256

    /// Hands entries to `body` from the one after `cookie` (0: from the start, with "." and "..") until
    /// it answers false: that entry did not fit and comes again. Cookies stay valid while entries come
    /// and go. With `attributes`, each entry but "." and ".." carries them and, if taken, is retained
    /// when `retain` says so. `expected`: about how many entries the caller has room for.
    public func readDirectory(
        _ inode: InodeNumber, after cookie: UInt64, attributes: Bool = false, retain: Bool = false, expected: Int = 64,
        _ body: (DirectoryEntry) -> Bool
    ) throws(FileSystemError) {
        let row = try requireInode(inode)
        guard row.isDirectory else { throw .notDirectory }
        guard readDots(inode, row, cookie, body) else { return }
        // A removed directory has no entries; an empty one need not be looked through.
        guard row.size > 0 else { return }
        let listing = try EntryCursor(self, inode, after: cookie)
        guard attributes else {
            while let entry = try listing.next() {
                let shown = entry.name.withUnsafeBytes { name in
                    body(
                        DirectoryEntry(
                            name: name, inode: entry.dentry.inode, type: entry.dentry.type, cookie: entry.cookie,
                            attributes: nil))
                }
                guard shown else { return }
            }
            return
        }
        var chunk: [EntryCursor.Entry] = []
        while true {
            chunk.removeAll(keepingCapacity: true)
            while chunk.count < min(max(expected, 8), Self.maximumChunk), let entry = try listing.next() {
                chunk.append(entry)
            }
            guard !chunk.isEmpty, try show(chunk, retain, body) else { return }
        }
    }

    /// "." and "..", as far as they come after `cookie`. False when one did not fit.
    private func readDots(
        _ inode: InodeNumber, _ row: Inode, _ cookie: UInt64, _ body: (DirectoryEntry) -> Bool
    ) -> Bool {
        func show(_ name: StaticString, _ number: InodeNumber, _ next: UInt64) -> Bool {
            body(
                DirectoryEntry(
                    name: UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount), inode: number,
                    type: .directory, cookie: next, attributes: nil))
        }
        if cookie < DirectoryCookie.afterSelf, !show(".", inode, DirectoryCookie.afterSelf) { return false }
        if cookie < DirectoryCookie.afterParent, !show("..", row.parent, DirectoryCookie.afterParent) { return false }
        return true
    }

    /// Fetches the inodes of a chunk together and hands the entries over. False when one did not fit.
    private func show(
        _ chunk: [EntryCursor.Entry], _ retain: Bool, _ body: (DirectoryEntry) -> Bool
    ) throws(FileSystemError) -> Bool {
        let rows = try loadInodes(chunk.map { $0.dentry.inode })
        for (index, entry) in chunk.enumerated() {
            let number = entry.dentry.inode
            let row = rows[index]
            if retain, row != nil { lookups.retain(number) }
            let shown = entry.name.withUnsafeBytes { name in
                body(
                    DirectoryEntry(
                        name: name, inode: number, type: entry.dentry.type, cookie: entry.cookie,
                        attributes: row.map { self.attributes(number, $0) }))
            }
            guard shown else {
                if retain, row != nil { forget(number, count: 1) }
                return false
            }
        }
        return true
    }

    /// The rows of many inodes, nil where there is none: from the cache, the others by one multi-get.
    func loadInodes(_ numbers: [InodeNumber]) throws(FileSystemError) -> [Inode?] {
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
        let values: [[UInt8]?]
        do throws(EngineError) { values = try store.multiGet(keys, snapshot: nil) } catch { throw .engine(error) }
        for (position, entry) in missing.enumerated() {
            guard let value = values[position] else { continue }
            let number = numbers[entry.index]
            var problem = ""
            guard let row = value.withUnsafeBytes({ Inode($0, failure: &problem) }) else {
                throw .corruptRow(row: "inode \(number)", problem: problem)
            }
            rows[entry.index] = row
            cache.insert(number, row) { locks.isUnchanged(locks.stripe(of: number), since: entry.version) }
        }
        return rows
    }
}

/// Walks the entries of one directory and makes their cookies.
final class EntryCursor {
    struct Entry {
        let name: [UInt8]
        let dentry: Dentry
        /// Where a listing goes on after this entry.
        let cookie: UInt64
    }

    private let cursor: any KeyValueCursor
    private let directory: InodeNumber
    /// The hash of the last entry, and how many entries of that hash there were up to it.
    private var hash: UInt64
    private var seen: UInt64 = 0

    /// Begins after `cookie`.
    init(_ fileSystem: FileSystem, _ directory: InodeNumber, after cookie: UInt64) throws(FileSystemError) {
        let position = DirectoryCookie(cookie)
        self.directory = directory
        hash = position.hash
        let empty = UnsafeRawBufferPointer(start: nil, count: 0)
        cursor = try fileSystem.store.scan(
            from: NameKey(dentryOf: directory, hash: position.hash, empty).bytes,
            to: RowKey.first(.dentry, of: directory + 1).bytes)
        while seen < position.seen, cursor.isValid,
            case .dentry(_, let found, _)? = ParsedKey(cursor.key), found == hash
        {
            seen += 1
            try cursor.advance()
        }
    }

    /// nil at the end.
    func next() throws(FileSystemError) -> Entry? {
        guard cursor.isValid else { return nil }
        guard case .dentry(let parent, let found, let name)? = ParsedKey(cursor.key), parent == directory else {
            throw .corruptRow(row: KeyDescription.describe(cursor.key), problem: "it is not an entry's key")
        }
        guard let dentry = Dentry(cursor.value) else {
            throw .corruptRow(
                row: KeyDescription.describe(cursor.key), problem: "its value of \(cursor.value.count) bytes is no entry")
        }
        if found != hash {
            hash = found
            seen = 0
        }
        seen += 1
        let entry = Entry(
            name: [UInt8](name), dentry: dentry, cookie: DirectoryCookie(hash: hash, seen: seen).rawValue)
        try cursor.advance()
        return entry
    }
}
