import CSystem
import FUSE
import Glibc
import O3FileSystem
import O3LSM
import Synchronization

/// Answers the kernel's requests with the file system. Thread-safe; keeps nothing but options.
///
/// `create` and `flush` are left to their defaults on purpose, and so are `open` and `openDirectory` unless every
/// read is to be seen: declined once, the kernel stops sending them. A file that is open is known to the kernel, so its
/// lookup count keeps it alive after the last name is gone.
final class FileSystemAdapter: FileSystemOperations {
    /// How long the kernel may believe what it was told, in seconds. Only this daemon changes the store, and
    /// only on the kernel's behalf, so that what the kernel knows does not age.
    struct Timeouts: Sendable {
        var attributes = 86_400.0
        var entries = 86_400.0
        /// For names that do not exist.
        var absences = 86_400.0
    }

    /// Whose the files are shown to be, whoever's they are in the store (`uid=`, `gid=`); nil: theirs.
    struct ShownOwner: Equatable, Sendable {
        var uid: UInt32?
        var gid: UInt32?
    }

    private let files: FileSystem
    private let shownOwner: ShownOwner
    private let timeouts: Timeouts
    private let isReadOnly: Bool
    private let report: @Sendable (FileSystemError) -> Void
    private let doneBefore = Atomic<UInt64>(0)

    /// `report` gets each failure that a person must look into.
    init(
        _ files: FileSystem, timeouts: Timeouts = Timeouts(), shownOwner: ShownOwner = ShownOwner(),
        isReadOnly: Bool = false,
        report: @escaping @Sendable (FileSystemError) -> Void
    ) {
        self.files = files
        self.timeouts = timeouts
        self.shownOwner = shownOwner
        self.isReadOnly = isReadOnly
        self.report = report
    }

    // MARK: Names

    func lookup(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) -> EntryReply {
        do throws(FileSystemError) {
            return entry(try files.lookup(parent, name, retain: true))
        } catch {
            if case .posix(ENOENT) = error { return .absent(timeout: timeouts.absences) }
            throw errno(error)
        }
    }

    func forget(_ node: NodeID, count: UInt64) {
        // The root is always known.
        guard node != rootNode else { return }
        files.forget(node, count: count)
    }

    func makeNode(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32, rdev: UInt32
    ) throws(Errno) -> EntryReply {
        if wasDone(context) { return try result(parent, name) }
        return try once(context) { (ticket) throws(FileSystemError) in
            entry(
                try files.makeNode(
                    in: parent, name, mode: mode, rdev: rdev, umask: context.umask, owner: Owner(context), retain: true,
                    request: ticket))
        }
    }

    func makeDirectory(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32
    ) throws(Errno) -> EntryReply {
        if wasDone(context) { return try result(parent, name) }
        return try once(context) { (ticket) throws(FileSystemError) in
            entry(
                try files.makeDirectory(
                    in: parent, name, permissions: mode & 0o7777, umask: context.umask, owner: Owner(context), retain: true,
                    request: ticket))
        }
    }

    func makeSymbolicLink(
        _ context: RequestContext, parent: NodeID, name: NameBytes, target: NameBytes
    ) throws(Errno) -> EntryReply {
        if wasDone(context) { return try result(parent, name) }
        return try once(context) { (ticket) throws(FileSystemError) in
            entry(
                try files.makeSymbolicLink(
                    in: parent, name, target: target, owner: Owner(context), retain: true,
                    request: ticket))
        }
    }

    /// Not remembered: done again, it makes another file, and the first goes at the next mount.
    func makeUnnamed(
        _ context: RequestContext, parent: NodeID, mode: UInt32, flags: Int32
    ) throws(Errno) -> (EntryReply, OpenReply) {
        try answer { () throws(FileSystemError) in
            let made = try files.createUnnamed(
                in: parent, permissions: mode & 0o7777, umask: context.umask, owner: Owner(context))
            return (entry(made), OpenReply())
        }
    }

    func readLink(_ context: RequestContext, node: NodeID) throws(Errno) -> [UInt8] {
        let target = try answer { () throws(FileSystemError) in try files.readSymbolicLink(node) }
        noteAccess(node)
        return target
    }

    func link(
        _ context: RequestContext, node: NodeID, newParent: NodeID, newName: NameBytes
    ) throws(Errno) -> EntryReply {
        if wasDone(context) { return try result(newParent, newName) }
        return try once(context) { (ticket) throws(FileSystemError) in
            entry(try files.link(node, in: newParent, newName, retain: true, request: ticket))
        }
    }

    func unlink(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) {
        if wasDone(context) { return }
        try once(context) { (ticket) throws(FileSystemError) in try files.unlink(in: parent, name, request: ticket) }
    }

    func removeDirectory(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) {
        if wasDone(context) { return }
        try once(context) { (ticket) throws(FileSystemError) in
            try files.removeDirectory(in: parent, name, request: ticket)
        }
    }

    func rename(
        _ context: RequestContext, parent: NodeID, name: NameBytes, newParent: NodeID, newName: NameBytes,
        flags: UInt32
    ) throws(Errno) {
        if wasDone(context) { return }
        let mode: RenameMode
        // It takes the old name, as overlay file systems want it.
        let whiteout = flags & o3_RENAME_WHITEOUT != 0 ? Owner(context) : nil
        switch flags & ~o3_RENAME_WHITEOUT {
        case 0: mode = .replace
        case o3_RENAME_NOREPLACE: mode = .noReplace
        case o3_RENAME_EXCHANGE where whiteout == nil: mode = .exchange
        default: throw .invalid
        }
        try once(context) { (ticket) throws(FileSystemError) in
            try files.rename(
                from: parent, name, to: newParent, newName, mode: mode, whiteout: whiteout, request: ticket)
        }
    }

    // MARK: Requests that come again

    /// For operations that must not be done twice.
    private func ticket(_ context: RequestContext) -> RequestTicket {
        RequestTicket(unique: context.unique, slot: UInt16(truncatingIfNeeded: context.thread))
    }

    /// As `answer`, for what must not be done twice, and is remembered therefore.
    private func once<Result>(
        _ context: RequestContext, _ body: (RequestTicket) throws(FileSystemError) -> Result
    ) throws(Errno) -> Result {
        let result = try answer { () throws(FileSystemError) in try body(ticket(context)) }
        FaultPoint.beforeAnswer.hit()
        return result
    }

    /// Whether a process before this one did what the request asks for, and died before it could say so.
    private func wasDone(_ context: RequestContext) -> Bool {
        guard context.isResent, files.isDone(ticket(context)) else { return false }
        doneBefore.add(1, ordering: .relaxed)
        return true
    }

    /// Requests that came again and that an earlier process had done.
    var alreadyDone: UInt64 { doneBefore.load(ordering: .relaxed) }

    /// What a request that was done has made. It is there still: the kernel keeps the directory locked until the
    /// request is answered. It is counted as looked up already: that was done before.
    private func result(_ parent: NodeID, _ name: NameBytes) throws(Errno) -> EntryReply {
        try answer { () throws(FileSystemError) in entry(try files.lookup(parent, name, retain: files.lookupCountsDescriptor == nil)) }
    }

    // MARK: Attributes

    func getAttributes(_ context: RequestContext, node: NodeID) throws(Errno) -> AttributesReply {
        try answer { () throws(FileSystemError) in attributes(try files.getAttributes(node)) }
    }

    func setAttributes(
        _ context: RequestContext, node: NodeID, _ changes: FUSE.AttributeChanges
    ) throws(Errno) -> AttributesReply {
        try answer { () throws(FileSystemError) in
            var changes = O3FileSystem.AttributeChanges(changes)
            // A request that changes nothing is chown(2) to nobody, which takes set-ID bits like any other chown;
            // the kernel lets anybody make it, and only the owner and root may change the mode.
            if changes.isEmpty {
                let owner = try files.getAttributes(node).uid
                changes.clearsPrivileges = context.uid == 0 || context.uid == owner ? .ofPrograms : .none
            } else if changes.clearsPrivileges != .none {
                changes.clearsPrivileges = try clearing(context, node)
            }
            return attributes(try files.setAttributes(node, changes))
        }
    }

    // MARK: Data

    func read(
        _ context: RequestContext, node: NodeID, handle: UInt64, offset: UInt64, count: Int, reply: ReadReply
    ) throws(Errno) {
        let sink: ReadSink
        if let kept = reply.attachment as? ReadSink {
            sink = kept
        } else {
            sink = ReadSink()
            reply.attachment = sink
        }
        // What the pieces are pinned to is released as soon as the answer is sent.
        defer { sink.clear() }
        try answer { () throws(FileSystemError) in
            try files.read(node, offset: offset, length: count, into: sink)
        }
        // Before the answer, so that who has read sees it.
        if reply.openFlags & o3_O_NOATIME == 0 { noteAccess(node) }
        for piece in sink.pieces { reply.append(piece.bytes) }
        reply.send()
    }

    private func noteAccess(_ node: NodeID) {
        if !isReadOnly { files.noteAccess(node) }
    }

    /// With `strictatime` each open forgets what the kernel has of the file, so that the reads which follow arrive
    /// here.
    func open(_ context: RequestContext, node: NodeID, flags: Int32) throws(Errno) -> OpenReply {
        guard files.options.accessTimes == .always else { throw .notImplemented }
        return OpenReply(keepsCache: false)
    }

    func openDirectory(_ context: RequestContext, node: NodeID, flags: Int32) throws(Errno) -> OpenReply {
        guard files.options.accessTimes == .always else { throw .notImplemented }
        return OpenReply(handle: flags & o3_O_NOATIME != 0 ? Self.leavesAccessTime : 0, keepsCache: false, cachesListing: false)
    }

    /// The handle of a directory that was opened with O_NOATIME.
    private static let leavesAccessTime: UInt64 = 1

    /// ENOSPC for pages that the kernel writes back and for which there is no room, after what there is room for was
    /// written: it does not look at how much that was, and takes them all for clean.
    ///
    /// O_SYNC and O_DSYNC: the kernel sends fsync after such a write, but not after an asynchronous one with O_DIRECT,
    /// and does not tell the two apart.
    func write(_ context: RequestContext, node: NodeID, _ request: WriteRequest) throws(Errno) -> Int {
        let written = try answer { () throws(FileSystemError) in
            let written = try files.writeFitting(
                node, offset: request.offset, request.bytes,
                clearsPrivileges: request.clearsPrivileges ? try clearing(context, node) : .none)
            if request.openFlags & o3_O_DIRECT != 0, request.openFlags & O_DSYNC != 0 { try files.sync() }
            return written
        }
        guard written == request.bytes.count || !request.isWriteBack else { throw Errno(ENOSPC) }
        return written
    }

    func synchronize(_ context: RequestContext, node: NodeID, handle: UInt64, dataOnly: Bool) throws(Errno) {
        guard !isReadOnly else { return }
        try answer { () throws(FileSystemError) in try files.sync() }
    }

    func synchronizeDirectory(
        _ context: RequestContext, node: NodeID, handle: UInt64, dataOnly: Bool
    ) throws(Errno) {
        try synchronize(context, node: node, handle: handle, dataOnly: dataOnly)
    }

    func allocate(
        _ context: RequestContext, node: NodeID, offset: UInt64, length: UInt64, mode: Int32
    ) throws(Errno) {
        let allocation: AllocationMode
        switch mode {
        case 0: allocation = .extend
        case o3_FALLOC_FL_KEEP_SIZE: allocation = .keepSize
        case o3_FALLOC_FL_PUNCH_HOLE | o3_FALLOC_FL_KEEP_SIZE: allocation = .punchHole
        case o3_FALLOC_FL_ZERO_RANGE: allocation = .zeroRange
        case o3_FALLOC_FL_ZERO_RANGE | o3_FALLOC_FL_KEEP_SIZE: allocation = .zeroRangeKeepSize
        default: throw .notSupported
        }
        try answer { () throws(FileSystemError) in
            // The kernel does not say here who may keep set-user-ID bits; root may.
            try files.allocate(
                node, offset: offset, length: length, mode: allocation,
                clearsPrivileges: context.uid != 0 ? try clearing(context, node) : .none)
        }
    }

    func copyRange(
        _ context: RequestContext, from source: NodeID, at sourceOffset: UInt64, to target: NodeID,
        at targetOffset: UInt64, count: UInt64, flags: UInt32
    ) throws(Errno) -> Int {
        guard flags == 0 else { throw .invalid }
        return try answer { () throws(FileSystemError) in
            // As for `allocate`, root may keep set-user-ID bits.
            Int(clamping: try files.copyRange(
                from: source, at: sourceOffset, to: target, at: targetOffset, length: count,
                clearsPrivileges: context.uid != 0 ? try clearing(context, target) : .none))
        }
    }

    func seek(_ context: RequestContext, node: NodeID, offset: UInt64, whence: Int32) throws(Errno) -> UInt64 {
        let target: SeekTarget
        switch whence {
        case o3_SEEK_DATA: target = .data
        case o3_SEEK_HOLE: target = .hole
        default: throw .invalid
        }
        return try answer { () throws(FileSystemError) in try files.seek(node, from: offset, to: target) }
    }

    // MARK: Directories

    func readDirectory(
        _ context: RequestContext, node: NodeID, handle: UInt64, after cookie: UInt64, reply: DirectoryReply
    ) throws(Errno) {
        let wantsAttributes = reply.wantsAttributes
        try answer { () throws(FileSystemError) in
            try files.readDirectory(
                node, after: cookie, attributes: wantsAttributes, retain: wantsAttributes,
                expected: reply.expectedEntries
            ) { found in
                guard let known = found.attributes else {
                    return reply.add(
                        name: found.name, inode: found.inode, type: found.type.rawValue, cookie: found.cookie)
                }
                return reply.add(name: found.name, entry: entry(known), cookie: found.cookie)
            }
        }
        if handle != Self.leavesAccessTime { noteAccess(node) }
    }

    // MARK: Extended attributes

    func setExtendedAttribute(
        _ context: RequestContext, node: NodeID, name: NameBytes, value: UnsafeRawBufferPointer, flags: Int32
    ) throws(Errno) {
        if wasDone(context) { return }
        try checkNamespace(name)
        let mode: ExtendedAttributeMode
        switch flags {
        case 0: mode = .createOrReplace
        case Self.xattrCreate: mode = .create
        case Self.xattrReplace: mode = .replace
        case Self.xattrCreate | Self.xattrReplace: mode = .contradictory
        default: throw .invalid
        }
        try once(context) { (ticket) throws(FileSystemError) in
            let isList = name.starts(with: Self.systemPrefix)
            var keepsSetGroupID = true
            if isList { keepsSetGroupID = try mayKeepSetGroupID(context, node) }
            try files.setExtendedAttribute(
                node, name, value, mode: mode, keepsSetGroupID: keepsSetGroupID, request: ticket)
        }
    }

    func getExtendedAttribute(_ context: RequestContext, node: NodeID, name: NameBytes) throws(Errno) -> [UInt8] {
        try checkNamespace(name)
        return try answer { () throws(FileSystemError) in
            try files.getExtendedAttribute(node, name).copy()
        }
    }

    func listExtendedAttributes(_ context: RequestContext, node: NodeID) throws(Errno) -> [UInt8] {
        let names = try answer { () throws(FileSystemError) in try files.listExtendedAttributes(node) }
        // Names that only root may read are shown to nobody else.
        guard context.uid != 0, !names.isEmpty else { return names }
        return names.split(separator: 0).filter { !$0.starts(with: Self.trustedPrefix) }.flatMap { $0 + [0] }
    }

    func removeExtendedAttribute(_ context: RequestContext, node: NodeID, name: NameBytes) throws(Errno) {
        if wasDone(context) { return }
        try checkNamespace(name)
        try once(context) { (ticket) throws(FileSystemError) in
            try files.removeExtendedAttribute(node, name, request: ticket)
        }
    }

    /// XATTR_CREATE and XATTR_REPLACE of setxattr(2).
    private static let xattrCreate: Int32 = 1
    private static let xattrReplace: Int32 = 2

    /// Who may use a namespace the kernel checks; what is in none is not supported. Access control lists live in
    /// "system."; one that is stored but not enforced would be a lie.
    private func checkNamespace(_ name: NameBytes) throws(Errno) {
        for prefix in Self.freePrefixes where name.starts(with: prefix) {
            guard name.count > prefix.count else { throw .invalid }
            return
        }
        guard files.options.accessControlLists, files.isAccessControlList(name) else { throw .notSupported }
    }

    /// Of a file's group, or root: as for chmod(2).
    private func mayKeepSetGroupID(_ context: RequestContext, _ node: NodeID) throws(FileSystemError) -> Bool {
        if context.uid == 0 { return true }
        return context.belongs(to: try files.getAttributes(node).gid)
    }

    /// What a caller without privilege takes from a file by changing its contents. The kernel speaks of programs only;
    /// where the group may not execute, the bit goes unless the caller is in it.
    private func clearing(_ context: RequestContext, _ node: NodeID) throws(FileSystemError) -> PrivilegeClearing {
        let found = try files.getAttributes(node)
        guard context.uid != 0, found.mode & S_ISGID != 0, found.mode & S_IXGRP == 0, !context.belongs(to: found.gid) else {
            return .ofPrograms
        }
        return .all
    }

    private static let systemPrefix = Array("system.".utf8)
    private static let trustedPrefix = Array("trusted.".utf8)
    private static let freePrefixes = ["user.", "security.", "trusted."].map { Array($0.utf8) }

    // MARK: The whole

    func space(_ context: RequestContext, node: NodeID) throws(Errno) -> FUSE.FileSystemSpace {
        let space = try answer { () throws(FileSystemError) in try files.space() }
        // Where inodes are not limited no count is given, as by other such file systems.
        return FUSE.FileSystemSpace(
            blockSize: UInt64(space.blockSize), totalBlocks: space.totalBlocks, freeBlocks: space.freeBlocks,
            availableBlocks: space.freeBlocks, totalFiles: space.totalInodes,
            freeFiles: space.freeInodes,
            maximumNameLength: UInt64(space.maximumNameLength))
    }

    // MARK: Answers

    private func entry(_ attributes: O3FileSystem.Attributes) -> EntryReply {
        EntryReply(
            node: attributes.inode, generation: attributes.generation, attributes: shown(attributes),
            attributeTimeout: timeouts.attributes, entryTimeout: timeouts.entries)
    }

    private func attributes(_ attributes: O3FileSystem.Attributes) -> AttributesReply {
        AttributesReply(shown(attributes), timeout: timeouts.attributes)
    }

    private func shown(_ attributes: O3FileSystem.Attributes) -> FUSE.Attributes {
        var result = FUSE.Attributes(attributes)
        result.uid = shownOwner.uid ?? result.uid
        result.gid = shownOwner.gid ?? result.gid
        return result
    }

    @inline(__always)
    private func answer<Result>(_ body: () throws(FileSystemError) -> Result) throws(Errno) -> Result {
        do throws(FileSystemError) { return try body() } catch { throw errno(error) }
    }

    private func errno(_ error: FileSystemError) -> Errno {
        if case .posix(let code) = error { return Errno(code) }
        report(error)
        return Errno(error.posixCode)
    }
}
