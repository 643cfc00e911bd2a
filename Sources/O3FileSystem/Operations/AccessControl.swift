import Glibc
import O3LSM

/// Extended attributes that mean something to the file system: access control lists, which are tied to the
/// permission bits and inherited, and a program's capabilities, which a write takes away. A flag of the inode
/// says that there is one, so that the many files without need no look.
extension FileSystem {
    static let capabilityName = [UInt8]("security.capability".utf8)

    /// Whether `name` is that of an access control list.
    public func isAccessControlList(_ name: UnsafeRawBufferPointer) -> Bool {
        name.elementsEqual(AccessControlList.accessName) || name.elementsEqual(AccessControlList.defaultName)
    }

    /// Adds to `batch` the list `value` of an inode whose stripe is locked. An access list sets the permission bits;
    /// one that says no more than they do is not kept. EINVAL for bytes that are no list, EACCES for a default
    /// list of what is no directory, EOPNOTSUPP for a symbolic link.
    func putAccessControl(
        _ inode: InodeNumber,
        _ row: inout Inode,
        _ name: UnsafeRawBufferPointer,
        _ value: UnsafeRawBufferPointer,
        keepsSetGroupID: Bool,
        _ batch: WriteBatch
    ) throws(FileSystemError) {
        guard !row.isSymbolicLink else { throw .posix(EOPNOTSUPP) }
        guard let list = AccessControlList(value) else { throw .invalid }
        guard name.elementsEqual(AccessControlList.accessName) else {
            guard row.isDirectory else { throw .posix(EACCES) }
            row.flags |= Inode.Flag.defaultList | Inode.Flag.extendedAttributes
            put(list, AccessControlList.defaultName, inode, batch)
            return
        }
        row.mode = row.mode & ~0o777 | list.permissionBits
        if !keepsSetGroupID { row.mode &= ~S_ISGID }
        if list.isMinimal {
            dropAccessControl(inode, &row, name, batch)
        } else {
            row.flags |= Inode.Flag.accessList | Inode.Flag.extendedAttributes
            put(list, AccessControlList.accessName, inode, batch)
        }
    }

    /// Adds to `batch` that the list is gone.
    func dropAccessControl(
        _ inode: InodeNumber,
        _ row: inout Inode,
        _ name: UnsafeRawBufferPointer,
        _ batch: WriteBatch
    ) {
        let isAccess = name.elementsEqual(AccessControlList.accessName)
        row.flags &= ~(isAccess ? Inode.Flag.accessList : Inode.Flag.defaultList)
        batch.delete(NameKey(extendedAttributeOf: inode, name))
    }

    /// Sets the permission bits, and what they stand for in the access list.
    func changeMode(
        _ inode: InodeNumber,
        _ row: inout Inode,
        to mode: UInt32,
        _ batch: WriteBatch
    ) throws(FileSystemError) {
        row.mode = row.mode & S_IFMT | mode & 0o7777
        guard row.flags & Inode.Flag.accessList != 0,
            var list = try fetchList(AccessControlList.accessName, inode)
        else { return }
        list.setPermissionBits(mode)
        put(list, AccessControlList.accessName, inode, batch)
    }

    /// Gives a new file in `directory` its permission bits: those of its mode that the directory's default list
    /// leaves it, or the umask if there is no such list. Adds the lists it inherits to `batch`.
    func inheritPermissions(
        _ inode: InodeNumber,
        _ row: inout Inode,
        umask: UInt32,
        from parent: InodeNumber,
        _ directory: Inode,
        _ batch: WriteBatch
    ) throws(FileSystemError) {
        guard !row.isSymbolicLink else { return }
        guard options.accessControlLists, directory.flags & Inode.Flag.defaultList != 0,
            let inherited = try fetchList(AccessControlList.defaultName, parent)
        else {
            row.mode &= ~(umask & 0o777)
            return
        }
        let access = inherited.restricted(to: row.mode)
        row.mode = row.mode & ~0o777 | access.permissionBits
        if !access.isMinimal {
            row.flags |= Inode.Flag.accessList | Inode.Flag.extendedAttributes
            put(access, AccessControlList.accessName, inode, batch)
        }
        if row.isDirectory {
            row.flags |= Inode.Flag.defaultList | Inode.Flag.extendedAttributes
            put(inherited, AccessControlList.defaultName, inode, batch)
        }
    }

    /// Takes a program's capabilities away, as whoever changes its contents or owner must.
    @inline(__always)
    func dropCapabilities(_ inode: InodeNumber, _ row: inout Inode, _ batch: WriteBatch) {
        guard row.flags & Inode.Flag.capabilities != 0 else { return }
        row.flags &= ~Inode.Flag.capabilities
        Self.capabilityName.withUnsafeBytes { batch.delete(NameKey(extendedAttributeOf: inode, $0)) }
    }

    private func fetchList(_ name: [UInt8], _ inode: InodeNumber) throws(FileSystemError) -> AccessControlList? {
        let key = name.withUnsafeBytes { NameKey(extendedAttributeOf: inode, $0) }
        guard let value = try store.fetch(key) else { return nil }
        guard let list = value.withBytes({ AccessControlList($0) }) else {
            throw .corruptRow(
                row: "extended attribute \(String(decoding: name, as: UTF8.self)) of inode \(inode)",
                problem: "it is no access control list")
        }
        return list
    }

    private func put(_ list: AccessControlList, _ name: [UInt8], _ inode: InodeNumber, _ batch: WriteBatch) {
        name.withUnsafeBytes { name in
            list.encoded.withUnsafeBytes { batch.put(NameKey(extendedAttributeOf: inode, name), $0) }
        }
    }
}
