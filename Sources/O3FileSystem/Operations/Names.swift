import Glibc
import O3LSM

/// Finding a file by name, and making one.
extension FileSystem {
    /// Links of a directory, and of anything else, when it is made.
    private static let newDirectoryLinks: UInt32 = 2

    // MARK: Names and dentries

    /// Refuses what no entry is called. Order of the checks as in Linux: length, then the name itself.
    func checkNew(_ name: UnsafeRawBufferPointer) throws(FileSystemError) {
        guard name.count <= NameKey.maximumNameLength else { throw .posix(ENAMETOOLONG) }
        guard name.count > 0 else { throw .notFound }
        if isDot(name) || isDotDot(name) { throw .exists }
        for byte in name where byte == 0x2f || byte == 0 { throw .invalid }
    }

    func isDot(_ name: UnsafeRawBufferPointer) -> Bool { name.count == 1 && name[0] == 0x2e }
    func isDotDot(_ name: UnsafeRawBufferPointer) -> Bool { name.count == 2 && name[0] == 0x2e && name[1] == 0x2e }

    func dentryKey(_ parent: InodeNumber, _ name: UnsafeRawBufferPointer) -> NameKey {
        NameKey(dentryOf: parent, hash: nameHash(name), name)
    }

    /// One point get.
    func fetchDentry(_ parent: InodeNumber, _ name: UnsafeRawBufferPointer) throws(FileSystemError) -> Dentry? {
        guard let value = try store.fetch(dentryKey(parent, name)) else { return nil }
        let dentry = withExtendedLifetime(value) { Dentry(value.bytes) }
        guard let dentry else {
            throw .corruptRow(
                row: KeyDescription.dentry(parent, name),
                problem: "its value of \(value.bytes.count) bytes is no entry"
            )
        }
        return dentry
    }

    // MARK: Lookup

    /// The file that `name` in `parent` stands for; "." and ".." are understood, "." for files of every type: so the
    /// kernel asks whether a file handle is still good. ENOENT, ENOTDIR, ENAMETOOLONG.
    /// With `retain`, the file's lookup count is raised by one (as by every method with that parameter).
    /// Methods with the parameter `request` remember that they have done it (`isDone`).
    public func lookup(
        _ parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        retain: Bool = false
    ) throws(FileSystemError) -> Attributes {
        guard name.count <= NameKey.maximumNameLength else { throw .posix(ENAMETOOLONG) }
        if isDot(name) || isDotDot(name) {
            let row = try requireInode(parent)
            guard isDot(name) || row.isDirectory else { throw .notDirectory }
            let number = isDot(name) ? parent : row.parent
            guard let target = try hold(number, retain) else { throw .notFound }
            return attributes(number, target)
        }
        var last: InodeNumber = 0
        while true {
            guard let dentry = try fetchDentry(parent, name) else {
                guard try requireInode(parent).isDirectory else { throw .notDirectory }
                throw .notFound
            }
            if let row = try hold(dentry.inode, retain) { return attributes(dentry.inode, row) }
            // Unlinked between the two reads, unless the same name still says the same.
            guard dentry.inode != last else {
                throw .corruptRow(
                    row: KeyDescription.dentry(parent, name),
                    problem: "its inode \(dentry.inode) does not exist"
                )
            }
            last = dentry.inode
        }
    }

    /// The inode's row, its lookup count raised if `retain` says so. Once it has answered with a row,
    /// an unlink cannot delete the file before it is forgotten.
    private func hold(_ number: InodeNumber, _ retain: Bool) throws(FileSystemError) -> Inode? {
        guard retain else { return try loadInode(number) }
        let stripe = locks.stripe(of: number)
        let version = locks.version(stripe)
        lookups.retain(number)
        do throws(FileSystemError) {
            // An unlink that has not seen the count yet has locked the stripe, or will see it.
            if version & 1 == 0, let row = try loadInode(number), locks.isUnchanged(stripe, since: version) {
                return row
            }
            locks.lock(stripe)
            defer { locks.unlock(stripe) }
            return try requireLockedInode(number)
        } catch {
            forget(number, count: 1)
            if error == .notFound { return nil }
            throw error
        }
    }

    // MARK: Making files

    // `umask`: the bits that a new file does not get, unless its directory has a default access control list.

    public func makeDirectory(
        in parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        permissions: UInt32,
        umask: UInt32 = 0,
        owner: Owner,
        retain: Bool = false,
        request: RequestTicket? = nil
    ) throws(FileSystemError) -> Attributes {
        try makeEntry(
            parent,
            name,
            mode: S_IFDIR | permissions & 0o7777,
            rdev: 0,
            umask,
            owner,
            target: nil,
            exclusive: true,
            retain,
            request
        )
    }

    /// Makes a file of any type but directory and symbolic link; `mode` has its type bits (none: regular).
    public func makeNode(
        in parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        mode: UInt32,
        rdev: UInt32 = 0,
        umask: UInt32 = 0,
        owner: Owner,
        retain: Bool = false,
        request: RequestTicket? = nil
    ) throws(FileSystemError) -> Attributes {
        let full = (mode & S_IFMT == 0 ? S_IFREG : 0) | mode & 0o177777
        guard let type = FileType(mode: full), type != .directory, type != .symbolicLink else { throw .invalid }
        let isDevice = type == .blockDevice || type == .characterDevice
        return try makeEntry(
            parent,
            name,
            mode: full,
            rdev: isDevice ? rdev : 0,
            umask,
            owner,
            target: nil,
            exclusive: true,
            retain,
            request
        )
    }

    /// open(2) with O_CREAT: makes a regular file; an existing one is returned unless `exclusive` (EEXIST).
    public func create(
        in parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        permissions: UInt32,
        umask: UInt32 = 0,
        owner: Owner,
        exclusive: Bool = false,
        retain: Bool = false
    ) throws(FileSystemError) -> Attributes {
        try makeEntry(
            parent,
            name,
            mode: S_IFREG | permissions & 0o7777,
            rdev: 0,
            umask,
            owner,
            target: nil,
            exclusive: exclusive,
            retain,
            nil
        )
    }

    /// `target`: 1 … 4095 bytes (ENOENT, ENAMETOOLONG), any of them but NUL.
    public func makeSymbolicLink(
        in parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        target: UnsafeRawBufferPointer,
        owner: Owner,
        retain: Bool = false,
        request: RequestTicket? = nil
    ) throws(FileSystemError) -> Attributes {
        guard target.count > 0 else { throw .notFound }
        guard target.count < Int(PATH_MAX) else { throw .posix(ENAMETOOLONG) }
        return try makeEntry(
            parent,
            name,
            mode: S_IFLNK | 0o777,
            rdev: 0,
            0,
            owner,
            target: target,
            exclusive: true,
            retain,
            request
        )
    }

    public func readSymbolicLink(_ inode: InodeNumber) throws(FileSystemError) -> [UInt8] {
        guard try requireInode(inode).isSymbolicLink else { throw .invalid }
        guard let target = try store.fetch(.data(inode, block: 0)) else {
            // Unlinked meanwhile, or damaged.
            guard try loadInode(inode) != nil else { throw .notFound }
            throw .corruptRow(row: "inode \(inode)", problem: "the link's target is missing")
        }
        return target.copy()
    }

    /// O_TMPFILE: a regular file without a name, gone when forgotten unless `link` names it first. Always retained.
    public func createUnnamed(
        in parent: InodeNumber,
        permissions: UInt32,
        umask: UInt32 = 0,
        owner: Owner
    ) throws(FileSystemError) -> Attributes {
        let directory = try requireInode(parent)
        guard directory.isDirectory else { throw .notDirectory }
        let number = try allocator.allocate()
        let inherited = inherit(mode: S_IFREG | permissions & 0o7777, owner, from: directory)
        var row = Inode(mode: inherited.mode, owner: inherited.owner, linkCount: 0, time: options.clock())
        let batch = WriteBatch()
        try inheritPermissions(number, &row, umask: umask, from: parent, directory, batch)
        batch.put(.inode(number), row)
        batch.put(.orphan(number), UnsafeRawBufferPointer(start: nil, count: 0))
        lookups.retain(number)
        _ = lookups.markOrphan(number)
        do throws(FileSystemError) {
            try apply(batch, .added(row))
        } catch {
            _ = lookups.release(number, 1)
            throw error
        }
        return attributes(number, row)
    }

    /// A file in a set-group-ID directory takes its group, a directory the bit too.
    private func inherit(mode: UInt32, _ owner: Owner, from directory: Inode) -> (mode: UInt32, owner: Owner) {
        guard directory.mode & S_ISGID != 0 else { return (mode, owner) }
        let isDirectory = mode & S_IFMT == S_IFDIR
        return (isDirectory ? mode | S_ISGID : mode, Owner(uid: owner.uid, gid: directory.gid))
    }

    private func makeEntry(
        _ parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        mode: UInt32,
        rdev: UInt32,
        _ umask: UInt32,
        _ owner: Owner,
        target: UnsafeRawBufferPointer?,
        exclusive: Bool,
        _ retain: Bool,
        _ request: RequestTicket?
    ) throws(FileSystemError) -> Attributes {
        try checkNew(name)
        let stripe = locks.stripe(of: parent)
        locks.lock(stripe)
        defer { locks.unlock(stripe) }
        var directory = try requireLockedDirectory(parent)
        let key = dentryKey(parent, name)
        if try store.fetch(key) != nil {
            guard !exclusive else { throw .exists }
            return try openExisting(parent, name, retain)
        }
        let isDirectory = mode & S_IFMT == S_IFDIR
        if isDirectory, directory.linkCount >= options.maximumLinks { throw .posix(EMLINK) }

        let now = options.clock()
        let number = try allocator.allocate()
        let inherited = inherit(mode: mode, owner, from: directory)
        var row = Inode(
            mode: inherited.mode,
            owner: inherited.owner,
            linkCount: isDirectory ? Self.newDirectoryLinks : 1,
            time: now
        )
        row.rdev = rdev
        directory.addEntry(isDirectory: isDirectory, now)
        if isDirectory { row.parent = parent }
        let batch = locks.batch(stripe)
        try inheritPermissions(number, &row, umask: umask, from: parent, directory, batch)
        if let target {
            row.size = UInt64(target.count)
            row.blocks = 1
            batch.put(.data(number, block: 0), referencing: target)
        }
        batch.put(key, Dentry(inode: number, type: row.type))
        batch.put(.inode(number), row)
        outcomes.note(request, in: batch)

        // Nobody knows the number yet: counted and cached before the batch, it needs no lock.
        if retain { lookups.retain(number) }
        cache.insert(number, row)
        do throws(FileSystemError) {
            try commit(batch, parent, directory, others: .added(row))
        } catch {
            cache.remove(number)
            if retain { _ = lookups.release(number, 1) }
            throw error
        }
        return attributes(number, row)
    }

    /// The regular file that is there already, for the holder of the parent's stripe: its name cannot
    /// change, but its own stripe is not locked (and may be the parent's).
    private func openExisting(
        _ parent: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        _ retain: Bool
    ) throws(FileSystemError) -> Attributes {
        guard let dentry = try fetchDentry(parent, name) else { throw .notFound }
        guard dentry.type != .directory else { throw .isDirectory }
        // An unlink of this name waits for the parent's stripe; of another name of the file, it leaves one.
        if retain { lookups.retain(dentry.inode) }
        do throws(FileSystemError) {
            guard let row = try store.fetchInode(dentry.inode) else {
                throw .corruptRow(
                    row: KeyDescription.dentry(parent, name),
                    problem: "its inode \(dentry.inode) does not exist"
                )
            }
            return attributes(dentry.inode, row)
        } catch {
            if retain { forget(dentry.inode, count: 1) }
            throw error
        }
    }
}
