import Glibc

/// What a file system does when the kernel asks: one method for each request of the FUSE protocol.
///
/// Methods are called by several threads at once and answer synchronously, by returning or by throwing
/// the error number that the system call is to fail with. Names, data and reply objects are valid
/// during the call only. Every method has a default that answers ENOSYS, unless it says otherwise.
///
/// Some ENOSYS answers make the kernel stop asking for the rest of the mount, which saves a message for
/// each call: `open` and `openDirectory` (opening succeeds, handle 0, cached data is kept), `flush`,
/// `synchronize` (fsync then succeeds without doing anything), `create` (`makeNode` is used), `access`,
/// extended attributes.
///
/// Reference counts: each `EntryReply` with a node, and each attribute-carrying entry taken into a
/// directory reply, counts one lookup of that node, which `forget` gives back. When the kernel did not
/// take an answer (its caller was killed), the session calls `forget` for it.
public protocol FileSystemOperations: AnyObject, Sendable {
    /// The mount is live and requests follow.
    func start()
    /// The mount is gone: no request follows. Called once, after every other method has returned.
    func stop()

    func lookup(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) -> EntryReply
    /// Gives back `count` lookups. Default: nothing.
    func forget(_ node: NodeID, count: UInt64)

    func getAttributes(_ context: RequestContext, node: NodeID) throws(Errno) -> AttributesReply
    func setAttributes(
        _ context: RequestContext, node: NodeID, _ changes: AttributeChanges
    ) throws(Errno) -> AttributesReply
    /// access(2), only without `default_permissions`.
    func access(_ context: RequestContext, node: NodeID, mask: Int32) throws(Errno)

    func readLink(_ context: RequestContext, node: NodeID) throws(Errno) -> [UInt8]
    func makeNode(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32, rdev: UInt32
    ) throws(Errno) -> EntryReply
    func makeDirectory(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32
    ) throws(Errno) -> EntryReply
    func makeSymbolicLink(
        _ context: RequestContext, parent: NodeID, name: NameBytes, target: NameBytes
    ) throws(Errno) -> EntryReply
    func link(
        _ context: RequestContext, node: NodeID, newParent: NodeID, newName: NameBytes
    ) throws(Errno) -> EntryReply
    func unlink(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno)
    func removeDirectory(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno)
    /// `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT of renameat2(2).
    func rename(
        _ context: RequestContext, parent: NodeID, name: NameBytes, newParent: NodeID, newName: NameBytes,
        flags: UInt32
    ) throws(Errno)

    func open(_ context: RequestContext, node: NodeID, flags: Int32) throws(Errno) -> OpenReply
    /// Makes a regular file and opens it.
    func create(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32, flags: Int32
    ) throws(Errno) -> (EntryReply, OpenReply)
    /// open(2) with O_TMPFILE: makes a regular file without a name in the file system of `parent`, counts one
    /// lookup of it, and opens it. `link` may name it.
    func makeUnnamed(
        _ context: RequestContext, parent: NodeID, mode: UInt32, flags: Int32
    ) throws(Errno) -> (EntryReply, OpenReply)
    /// Adds at most `count` bytes to `reply`; fewer only at the end of the file.
    func read(
        _ context: RequestContext, node: NodeID, handle: UInt64, offset: UInt64, count: Int, reply: ReadReply
    ) throws(Errno)
    /// Returns how many bytes were written.
    func write(_ context: RequestContext, node: NodeID, _ request: WriteRequest) throws(Errno) -> Int
    /// One descriptor of the open file was closed.
    func flush(_ context: RequestContext, node: NodeID, handle: UInt64) throws(Errno)
    /// The open file is gone. Default: nothing.
    func release(_ context: RequestContext, node: NodeID, handle: UInt64)
    func synchronize(_ context: RequestContext, node: NodeID, handle: UInt64, dataOnly: Bool) throws(Errno)
    /// `mode`: FALLOC_FL_* of fallocate(2).
    func allocate(
        _ context: RequestContext, node: NodeID, offset: UInt64, length: UInt64, mode: Int32
    ) throws(Errno)
    /// lseek(2) with SEEK_DATA or SEEK_HOLE only.
    func seek(_ context: RequestContext, node: NodeID, offset: UInt64, whence: Int32) throws(Errno) -> UInt64
    func copyRange(
        _ context: RequestContext, from source: NodeID, at sourceOffset: UInt64, to target: NodeID,
        at targetOffset: UInt64, count: UInt64, flags: UInt32
    ) throws(Errno) -> Int

    func openDirectory(_ context: RequestContext, node: NodeID, flags: Int32) throws(Errno) -> OpenReply
    /// Adds entries from the one after `cookie` (0: the first) until `reply` is full.
    func readDirectory(
        _ context: RequestContext, node: NodeID, handle: UInt64, after cookie: UInt64, reply: DirectoryReply
    ) throws(Errno)
    func releaseDirectory(_ context: RequestContext, node: NodeID, handle: UInt64)
    func synchronizeDirectory(_ context: RequestContext, node: NodeID, handle: UInt64, dataOnly: Bool) throws(Errno)

    func space(_ context: RequestContext, node: NodeID) throws(Errno) -> FileSystemSpace

    /// `flags`: XATTR_CREATE, XATTR_REPLACE of setxattr(2).
    func setExtendedAttribute(
        _ context: RequestContext, node: NodeID, name: NameBytes, value: UnsafeRawBufferPointer, flags: Int32
    ) throws(Errno)
    func getExtendedAttribute(_ context: RequestContext, node: NodeID, name: NameBytes) throws(Errno) -> [UInt8]
    /// Each name followed by a NUL.
    func listExtendedAttributes(_ context: RequestContext, node: NodeID) throws(Errno) -> [UInt8]
    func removeExtendedAttribute(_ context: RequestContext, node: NodeID, name: NameBytes) throws(Errno)
}

extension FileSystemOperations {
    public func start() {}
    public func stop() {}
    public func lookup(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) -> EntryReply {
        throw .notImplemented
    }
    public func forget(_ node: NodeID, count: UInt64) {}
    public func getAttributes(_ context: RequestContext, node: NodeID) throws(Errno) -> AttributesReply {
        throw .notImplemented
    }
    public func setAttributes(
        _ context: RequestContext, node: NodeID, _ changes: AttributeChanges
    ) throws(Errno) -> AttributesReply { throw .notImplemented }
    public func access(_ context: RequestContext, node: NodeID, mask: Int32) throws(Errno) { throw .notImplemented }
    public func readLink(_ context: RequestContext, node: NodeID) throws(Errno) -> [UInt8] { throw .notImplemented }
    public func makeNode(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32, rdev: UInt32
    ) throws(Errno) -> EntryReply { throw .notImplemented }
    public func makeDirectory(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32
    ) throws(Errno) -> EntryReply { throw .notImplemented }
    public func makeSymbolicLink(
        _ context: RequestContext, parent: NodeID, name: NameBytes, target: NameBytes
    ) throws(Errno) -> EntryReply { throw .notImplemented }
    public func link(
        _ context: RequestContext, node: NodeID, newParent: NodeID, newName: NameBytes
    ) throws(Errno) -> EntryReply { throw .notImplemented }
    public func unlink(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) {
        throw .notImplemented
    }
    public func removeDirectory(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) {
        throw .notImplemented
    }
    public func rename(
        _ context: RequestContext, parent: NodeID, name: NameBytes, newParent: NodeID, newName: NameBytes,
        flags: UInt32
    ) throws(Errno) { throw .notImplemented }
    public func open(_ context: RequestContext, node: NodeID, flags: Int32) throws(Errno) -> OpenReply {
        throw .notImplemented
    }
    public func create(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32, flags: Int32
    ) throws(Errno) -> (EntryReply, OpenReply) { throw .notImplemented }
    public func makeUnnamed(
        _ context: RequestContext, parent: NodeID, mode: UInt32, flags: Int32
    ) throws(Errno) -> (EntryReply, OpenReply) { throw .notImplemented }
    public func read(
        _ context: RequestContext, node: NodeID, handle: UInt64, offset: UInt64, count: Int, reply: ReadReply
    ) throws(Errno) { throw .notImplemented }
    public func write(_ context: RequestContext, node: NodeID, _ request: WriteRequest) throws(Errno) -> Int {
        throw .notImplemented
    }
    public func flush(_ context: RequestContext, node: NodeID, handle: UInt64) throws(Errno) { throw .notImplemented }
    public func release(_ context: RequestContext, node: NodeID, handle: UInt64) {}
    public func synchronize(
        _ context: RequestContext, node: NodeID, handle: UInt64, dataOnly: Bool
    ) throws(Errno) { throw .notImplemented }
    public func allocate(
        _ context: RequestContext, node: NodeID, offset: UInt64, length: UInt64, mode: Int32
    ) throws(Errno) { throw .notImplemented }
    public func seek(
        _ context: RequestContext, node: NodeID, offset: UInt64, whence: Int32
    ) throws(Errno) -> UInt64 { throw .notImplemented }
    public func copyRange(
        _ context: RequestContext, from source: NodeID, at sourceOffset: UInt64, to target: NodeID,
        at targetOffset: UInt64, count: UInt64, flags: UInt32
    ) throws(Errno) -> Int { throw .notImplemented }
    public func openDirectory(_ context: RequestContext, node: NodeID, flags: Int32) throws(Errno) -> OpenReply {
        throw .notImplemented
    }
    public func readDirectory(
        _ context: RequestContext, node: NodeID, handle: UInt64, after cookie: UInt64, reply: DirectoryReply
    ) throws(Errno) { throw .notImplemented }
    public func releaseDirectory(_ context: RequestContext, node: NodeID, handle: UInt64) {}
    public func synchronizeDirectory(
        _ context: RequestContext, node: NodeID, handle: UInt64, dataOnly: Bool
    ) throws(Errno) { throw .notImplemented }
    public func space(_ context: RequestContext, node: NodeID) throws(Errno) -> FileSystemSpace {
        throw .notImplemented
    }
    public func setExtendedAttribute(
        _ context: RequestContext, node: NodeID, name: NameBytes, value: UnsafeRawBufferPointer, flags: Int32
    ) throws(Errno) { throw .notImplemented }
    public func getExtendedAttribute(
        _ context: RequestContext, node: NodeID, name: NameBytes
    ) throws(Errno) -> [UInt8] { throw .notImplemented }
    public func listExtendedAttributes(_ context: RequestContext, node: NodeID) throws(Errno) -> [UInt8] {
        throw .notImplemented
    }
    public func removeExtendedAttribute(
        _ context: RequestContext, node: NodeID, name: NameBytes
    ) throws(Errno) { throw .notImplemented }
}
