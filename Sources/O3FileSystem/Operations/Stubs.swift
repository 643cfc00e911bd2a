import Glibc
import O3LSM

extension FileSystem {
    // MARK: Names

    /// The file that `name` in `parent` stands for; "." and ".." are understood. ENOENT, ENOTDIR, ENAMETOOLONG.
    /// With `retain`, the file's lookup count is raised by one (as by every method with that parameter).
    public func lookup(
        _ parent: InodeNumber, _ name: UnsafeRawBufferPointer, retain: Bool = false
    ) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    /// Lowers the lookup count; an unlinked file whose count reaches zero is reclaimed.
    public func forget(_ inode: InodeNumber, count: UInt64) {}

    public func makeDirectory(
        in parent: InodeNumber, _ name: UnsafeRawBufferPointer, permissions: UInt32, owner: Owner, retain: Bool = false
    ) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    /// Makes a file of any type but directory and symbolic link; `mode` has its type bits (none: regular).
    public func makeNode(
        in parent: InodeNumber, _ name: UnsafeRawBufferPointer, mode: UInt32, rdev: UInt32 = 0, owner: Owner,
        retain: Bool = false
    ) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    /// open(2) with O_CREAT: makes a regular file; an existing one is returned unless `exclusive` (EEXIST).
    public func create(
        in parent: InodeNumber, _ name: UnsafeRawBufferPointer, permissions: UInt32, owner: Owner,
        exclusive: Bool = false, retain: Bool = false
    ) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    /// O_TMPFILE: a regular file without a name, gone when forgotten unless `link` names it first. Always retained.
    public func createUnnamed(
        in parent: InodeNumber, permissions: UInt32, owner: Owner
    ) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    public func makeSymbolicLink(
        in parent: InodeNumber, _ name: UnsafeRawBufferPointer, target: UnsafeRawBufferPointer, owner: Owner,
        retain: Bool = false
    ) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    public func readSymbolicLink(_ inode: InodeNumber) throws(FileSystemError) -> [UInt8] { throw .posix(ENOSYS) }

    /// Another name for a file that is no directory (EPERM).
    public func link(
        _ inode: InodeNumber, in parent: InodeNumber, _ name: UnsafeRawBufferPointer, retain: Bool = false
    ) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    public func unlink(in parent: InodeNumber, _ name: UnsafeRawBufferPointer) throws(FileSystemError) {
        throw .posix(ENOSYS)
    }

    public func removeDirectory(in parent: InodeNumber, _ name: UnsafeRawBufferPointer) throws(FileSystemError) {
        throw .posix(ENOSYS)
    }

    public func rename(
        from parent: InodeNumber, _ name: UnsafeRawBufferPointer,
        to newParent: InodeNumber, _ newName: UnsafeRawBufferPointer, mode: RenameMode = .replace
    ) throws(FileSystemError) { throw .posix(ENOSYS) }

    /// Hands entries to `body` from the one after `cookie` (0: from the start, with "." and "..") until
    /// it answers false: that entry did not fit and comes again. Cookies stay valid while entries come
    /// and go. With `attributes`, each entry but "." and ".." carries them and, if taken, is retained
    /// when `retain` says so. `expected`: about how many entries the caller has room for.
    public func readDirectory(
        _ inode: InodeNumber, after cookie: UInt64, attributes: Bool = false, retain: Bool = false, expected: Int = 64,
        _ body: (DirectoryEntry) -> Bool
    ) throws(FileSystemError) { throw .posix(ENOSYS) }

    // MARK: Attributes

    public func getAttributes(_ inode: InodeNumber) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    public func setAttributes(
        _ inode: InodeNumber, _ changes: AttributeChanges
    ) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    // MARK: Data

    /// Adds the bytes of the range to `sink`; fewer than `length` only at the end of the file.
    public func read(
        _ inode: InodeNumber, offset: UInt64, length: Int, into sink: ReadSink
    ) throws(FileSystemError) { throw .posix(ENOSYS) }

    /// Writes all of `bytes`, whose memory the engine reads in place; with `sync` they survive power loss
    /// on return (O_SYNC, O_DSYNC). `clearsPrivileges`: drop set-ID bits, as for a writer without privilege.
    public func write(
        _ inode: InodeNumber, offset: UInt64, _ bytes: UnsafeRawBufferPointer, sync: Bool = false,
        clearsPrivileges: Bool = false
    ) throws(FileSystemError) { throw .posix(ENOSYS) }

    /// fallocate(2). ENOSPC when the store could not hold the range.
    public func allocate(
        _ inode: InodeNumber, offset: UInt64, length: UInt64, mode: AllocationMode, clearsPrivileges: Bool = false
    ) throws(FileSystemError) { throw .posix(ENOSYS) }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE. ENXIO past the end (or with no data after `offset`).
    public func seek(
        _ inode: InodeNumber, from offset: UInt64, to target: SeekTarget
    ) throws(FileSystemError) -> UInt64 { throw .posix(ENOSYS) }

    /// fsync, fdatasync, syncfs: everything that was done before survives power loss.
    public func sync() throws(FileSystemError) { throw .posix(ENOSYS) }

    // MARK: Extended attributes

    /// ERANGE for a name longer than 255 bytes, E2BIG for a value over 64 KiB, EEXIST, ENODATA.
    public func setExtendedAttribute(
        _ inode: InodeNumber, _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer,
        mode: ExtendedAttributeMode = .createOrReplace
    ) throws(FileSystemError) { throw .posix(ENOSYS) }

    /// ENODATA when there is none.
    public func getExtendedAttribute(
        _ inode: InodeNumber, _ name: UnsafeRawBufferPointer
    ) throws(FileSystemError) -> PinnedValue { throw .posix(ENOSYS) }

    /// The names, each followed by a NUL, as listxattr(2) returns them.
    public func listExtendedAttributes(_ inode: InodeNumber) throws(FileSystemError) -> [UInt8] { throw .posix(ENOSYS) }

    /// ENODATA when there is none.
    public func removeExtendedAttribute(
        _ inode: InodeNumber, _ name: UnsafeRawBufferPointer
    ) throws(FileSystemError) { throw .posix(ENOSYS) }

    // MARK: The whole

    public func space() throws(FileSystemError) -> FileSystemSpace { throw .posix(ENOSYS) }

    /// Reads every row and says in sentences what is wrong; empty when nothing is. On a quiet file system.
    public func check(progress: (_ rows: UInt64) -> Void = { _ in }) throws(FileSystemError) -> [String] {
        throw .posix(ENOSYS)
    }

    /// The file at an absolute path ("/a/b"); symbolic links are not followed.
    public func resolve(_ path: String) throws(FileSystemError) -> Attributes { throw .posix(ENOSYS) }

    /// The keys of all rows of the file at `path`: its dentry, inode, extended attributes, data blocks
    /// (at most `limit`), and for a directory its entries.
    public func rows(forPath path: String, limit: Int = 1000) throws(FileSystemError) -> [[UInt8]] {
        throw .posix(ENOSYS)
    }

    /// Gives back the inode numbers reserved but unused. Call last; the store stays open.
    public func close() throws(FileSystemError) { throw .posix(ENOSYS) }
}
