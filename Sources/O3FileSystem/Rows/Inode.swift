import Glibc
import O3LSM

/// The row of an inode, decoded. Plain bytes: it is cached and copied freely.
struct Inode: Equatable, Sendable {
    /// Bits of `flags`.
    enum Flag {
        /// `blocks` is an estimate: a large sparse file was cut without counting what went.
        static let estimatedBlocks: UInt32 = 1
        /// There are, or were, extended attributes; without it there are none to look for.
        static let extendedAttributes: UInt32 = 2
        /// There is an access control list beside the permission bits; a directory's list for new files; a
        /// program's capabilities: extended attributes all of them.
        static let accessList: UInt32 = 4
        static let defaultList: UInt32 = 8
        static let capabilities: UInt32 = 16
        static let all: UInt32 = 31
    }

    var mode: UInt32
    var uid: UInt32
    var gid: UInt32
    /// Names of a file; 2 and the subdirectories of a directory; 0 once it has no name.
    var linkCount: UInt32
    var rdev: UInt32 = 0
    var flags: UInt32 = 0
    /// Bytes of a file or link target; entries of a directory.
    var size: UInt64 = 0
    /// Data rows there are.
    var blocks: UInt64 = 0
    var accessTime: Timestamp
    var modificationTime: Timestamp
    var changeTime: Timestamp
    var birthTime: Timestamp
    /// The directory a directory is in (the root: itself); 0 for other files.
    var parent: InodeNumber = 0
    var generation: UInt64 = 0

    /// A new file, all its times the same.
    init(mode: UInt32, owner: Owner, linkCount: UInt32, time: Timestamp) {
        self.mode = mode
        uid = owner.uid
        gid = owner.gid
        self.linkCount = linkCount
        accessTime = time
        modificationTime = time
        changeTime = time
        birthTime = time
    }

    var isDirectory: Bool { mode & S_IFMT == S_IFDIR }
    var isRegular: Bool { mode & S_IFMT == S_IFREG }
    var isSymbolicLink: Bool { mode & S_IFMT == S_IFLNK }
    var type: FileType { FileType(mode: mode) ?? .regular }
    var hasExtendedAttributes: Bool { flags & Flag.extendedAttributes != 0 }
    var hasEstimatedBlocks: Bool { flags & Flag.estimatedBlocks != 0 }

    /// What a writer without privilege does to set-ID bits.
    mutating func clearPrivileges(_ clearing: PrivilegeClearing) {
        guard clearing != .none else { return }
        mode &= ~S_ISUID
        if clearing == .all || mode & S_IXGRP != 0 { mode &= ~S_ISGID }
    }

    func attributes(of number: InodeNumber, blockSize: Int) -> Attributes {
        Attributes(
            inode: number,
            mode: mode,
            uid: uid,
            gid: gid,
            linkCount: linkCount,
            rdev: rdev,
            size: size,
            blocks512: blocks &* UInt64(blockSize / 512),
            blockSize: UInt32(blockSize),
            accessTime: accessTime,
            modificationTime: modificationTime,
            changeTime: changeTime,
            birthTime: birthTime,
            generation: generation
        )
    }
}

/// The stored form, all little-endian (docs/formats.md, "File-system rows"):
///
///     0 version (1)   1 … 3 zero    4 mode         8 uid         12 gid
///    16 link count   20 rdev       24 size (8)    32 blocks (8)
///    40 access, 48 modification, 56 change, 64 birth time: seconds (8 each, signed)
///    72 access, 76 modification, 80 change, 84 birth time: nanoseconds
///    88 parent (8)   96 generation (8)           104 flags      108 end
extension Inode {
    static let encodedLength = 108
    private static let version: UInt8 = 1

    /// Calls `body` with the stored form, which is on the stack.
    @inline(__always)
    func withEncoded<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        var words = InlineArray<14, UInt64>(repeating: 0)
        return withUnsafeMutableBytes(of: &words) { buffer in
            func store<T: FixedWidthInteger>(_ value: T, _ offset: Int) {
                buffer.storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
            }
            store(Self.version, 0)
            store(mode, 4)
            store(uid, 8)
            store(gid, 12)
            store(linkCount, 16)
            store(rdev, 20)
            store(size, 24)
            store(blocks, 32)
            store(accessTime.seconds, 40)
            store(modificationTime.seconds, 48)
            store(changeTime.seconds, 56)
            store(birthTime.seconds, 64)
            store(accessTime.nanoseconds, 72)
            store(modificationTime.nanoseconds, 76)
            store(changeTime.nanoseconds, 80)
            store(birthTime.nanoseconds, 84)
            store(parent, 88)
            store(generation, 96)
            store(flags, 104)
            return body(UnsafeRawBufferPointer(rebasing: buffer[..<Self.encodedLength]))
        }
    }

    /// Decodes bytes that are not trusted. `failure` says what is wrong when the result is nil.
    init?(_ bytes: UnsafeRawBufferPointer, failure: inout String) {
        guard bytes.count == Self.encodedLength else {
            failure = "its value has \(bytes.count) bytes instead of \(Self.encodedLength)"
            return nil
        }
        guard bytes[0] == Self.version else {
            failure = "it has version \(bytes[0]); this build reads version \(Self.version)"
            return nil
        }
        func load<T: FixedWidthInteger>(_ offset: Int, _ type: T.Type = T.self) -> T {
            T(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: T.self))
        }
        mode = load(4)
        uid = load(8)
        gid = load(12)
        linkCount = load(16)
        rdev = load(20)
        size = load(24)
        blocks = load(32)
        accessTime = Timestamp(seconds: load(40), nanoseconds: load(72))
        modificationTime = Timestamp(seconds: load(48), nanoseconds: load(76))
        changeTime = Timestamp(seconds: load(56), nanoseconds: load(80))
        birthTime = Timestamp(seconds: load(64), nanoseconds: load(84))
        parent = load(88)
        generation = load(96)
        flags = load(104)
        guard FileType(mode: mode) != nil, mode & ~UInt32(0o177777) == 0 else {
            failure = "its mode is \(mode)"
            return nil
        }
        guard size <= UInt64(Int64.max), blocks <= size else {
            failure = "its size is \(size) with \(blocks) blocks"
            return nil
        }
        let latest = max(
            max(accessTime.nanoseconds, modificationTime.nanoseconds),
            max(changeTime.nanoseconds, birthTime.nanoseconds)
        )
        guard latest < 1_000_000_000 else {
            failure = "a time has \(latest) nanoseconds"
            return nil
        }
        guard isDirectory == (parent != 0), flags & ~Flag.all == 0 else {
            failure = "its parent is \(parent), its flags \(flags)"
            return nil
        }
    }
}

/// The row of a directory entry: inode (8 bytes, little-endian), type (1 byte, a `FileType`).
struct Dentry: Equatable, Sendable {
    static let encodedLength = 9

    var inode: InodeNumber
    var type: FileType

    init(inode: InodeNumber, type: FileType) {
        self.inode = inode
        self.type = type
    }

    /// nil for bytes that are no dentry.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Self.encodedLength, let type = FileType(rawValue: bytes[8]) else { return nil }
        inode = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        self.type = type
        guard isInodeNumber(inode) else { return nil }
    }

    @inline(__always)
    func withEncoded<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        let words = (inode.littleEndian, UInt64(type.rawValue).littleEndian)
        return withUnsafeBytes(of: words) { body(UnsafeRawBufferPointer(rebasing: $0[..<Self.encodedLength])) }
    }
}
