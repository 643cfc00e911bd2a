import Glibc
import O3LSM

/// Extended attributes: one row each, found by name. A flag of the inode says that there may be some,
/// so that the many files without need no look.
extension FileSystem {
    /// XATTR_SIZE_MAX and XATTR_NAME_MAX of Linux.
    public static let maximumAttributeBytes = 64 << 10
    public static let maximumAttributeNameBytes = NameKey.maximumNameLength
    /// XATTR_LIST_MAX of Linux: more names could not be listed.
    public static let maximumAttributeListBytes = 64 << 10

    /// ERANGE for a name longer than 255 bytes, E2BIG for a value over 64 KiB, ENOSPC when the list of the inode's
    /// names would be over 64 KiB, EEXIST, ENODATA. Access control lists: see `putAccessControl`;
    /// `keepsSetGroupID` is false for a caller that may not have a file set its group's id.
    public func setExtendedAttribute(
        _ inode: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        _ value: UnsafeRawBufferPointer,
        mode: ExtendedAttributeMode = .createOrReplace,
        keepsSetGroupID: Bool = true,
        request: RequestTicket? = nil
    ) throws(FileSystemError) {
        try checkAttribute(name)
        guard value.count <= Self.maximumAttributeBytes else { throw .posix(E2BIG) }
        let stripe = locks.stripe(of: inode)
        locks.lock(stripe)
        defer { locks.unlock(stripe) }
        var row = try requireLockedInode(inode)
        let key = NameKey(extendedAttributeOf: inode, name)
        let isThere = row.hasExtendedAttributes ? try store.fetch(key) != nil : false
        if mode == .create || mode == .contradictory, isThere { throw .exists }
        if mode == .replace || mode == .contradictory, !isThere { throw .posix(ENODATA) }
        if row.hasExtendedAttributes, !isThere {
            let names = try attributeNames(inode)
            guard names.count + name.count < Self.maximumAttributeListBytes else { throw .posix(ENOSPC) }
        }
        row.changeTime = options.clock()
        let batch = locks.batch(stripe)
        if isAccessControlList(name) {
            try putAccessControl(inode, &row, name, value, keepsSetGroupID: keepsSetGroupID, batch)
        } else {
            row.flags |= Inode.Flag.extendedAttributes
            if name.elementsEqual(Self.capabilityName) { row.flags |= Inode.Flag.capabilities }
            batch.put(key, value)
        }
        outcomes.note(request, in: batch)
        try commit(batch, inode, row)
    }

    /// ENODATA when there is none.
    public func getExtendedAttribute(
        _ inode: InodeNumber,
        _ name: UnsafeRawBufferPointer
    ) throws(FileSystemError) -> PinnedValue {
        try checkAttribute(name)
        guard try requireInode(inode).hasExtendedAttributes,
            let value = try store.fetch(NameKey(extendedAttributeOf: inode, name))
        else { throw .posix(ENODATA) }
        return value
    }

    /// The names, each followed by a NUL, as listxattr(2) returns them.
    public func listExtendedAttributes(_ inode: InodeNumber) throws(FileSystemError) -> [UInt8] {
        guard try requireInode(inode).hasExtendedAttributes else { return [] }
        return try attributeNames(inode)
    }

    private func attributeNames(_ inode: InodeNumber) throws(FileSystemError) -> [UInt8] {
        let cursor = try store.scan(
            from: RowKey.first(.extendedAttribute, of: inode).bytes,
            to: RowKey.first(.extendedAttribute, of: inode + 1).bytes
        )
        var names: [UInt8] = []
        while cursor.isValid {
            if case .extendedAttribute(_, let name)? = ParsedKey(cursor.key) {
                names.append(contentsOf: name)
                names.append(0)
            }
            try cursor.advance()
        }
        return names
    }

    /// ENODATA when there is none; nothing to do for an access control list that is not there.
    public func removeExtendedAttribute(
        _ inode: InodeNumber,
        _ name: UnsafeRawBufferPointer,
        request: RequestTicket? = nil
    ) throws(FileSystemError) {
        try checkAttribute(name)
        let stripe = locks.stripe(of: inode)
        locks.lock(stripe)
        defer { locks.unlock(stripe) }
        var row = try requireLockedInode(inode)
        let key = NameKey(extendedAttributeOf: inode, name)
        guard row.hasExtendedAttributes, try store.fetch(key) != nil else {
            if isAccessControlList(name) { return }
            throw .posix(ENODATA)
        }
        row.changeTime = options.clock()
        let batch = locks.batch(stripe)
        if isAccessControlList(name) {
            dropAccessControl(inode, &row, name, batch)
        } else {
            if name.elementsEqual(Self.capabilityName) { row.flags &= ~Inode.Flag.capabilities }
            batch.delete(key)
        }
        outcomes.note(request, in: batch)
        try commit(batch, inode, row)
    }

    private func checkAttribute(_ name: UnsafeRawBufferPointer) throws(FileSystemError) {
        guard name.count > 0, name.count <= NameKey.maximumNameLength else { throw .posix(ERANGE) }
    }
}
