import Glibc

/// How the kernel names a file: any number but 0 that the file system hands out. The root is 1.
public typealias NodeID = UInt64

public let rootNode: NodeID = 1

/// A file name or path as the kernel sends it: bytes without the terminating NUL, valid during the call.
public typealias NameBytes = UnsafeRawBufferPointer

/// Who asks.
public struct RequestContext: Sendable {
    public let uid: UInt32
    public let gid: UInt32
    /// The calling thread, 0 when the kernel asks on its own behalf.
    public let pid: Int32
    /// Only with requests that make a file. Already applied to modes by the kernel, unless
    /// `SessionOptions.accessControlLists` is set: then it is the file system's to apply.
    public var umask: UInt32
    /// The kernel's number of this request: unique during the life of a mount, and the same when it is sent again.
    public let unique: UInt64
    /// Which of the session's threads serves it: each serves one request at a time.
    public var thread = 0
    /// It was sent before, to a process that has left no answer, but may have done what it asks for.
    public var isResent = false

    /// Whether the caller is in the group, by its own or by a supplementary one. Reads /proc: for rare requests.
    public func belongs(to group: UInt32) -> Bool {
        if gid == group { return true }
        guard pid > 0, let file = fopen("/proc/\(pid)/status", "re") else { return false }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 1 << 16)
        while fgets(&line, Int32(line.count), file) != nil {
            let text = line.withUnsafeBufferPointer { String(decoding: $0.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self) }
            guard text.hasPrefix("Groups:") else { continue }
            return text.split(whereSeparator: \.isWhitespace).dropFirst().contains { UInt32($0) == group }
        }
        return false
    }
}

/// Seconds since 1970 (negative before) and 0 …< 1,000,000,000 nanoseconds.
public struct Time: Equatable, Hashable, Sendable {
    public var seconds: Int64
    public var nanoseconds: UInt32

    public init(seconds: Int64, nanoseconds: UInt32 = 0) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }

    init(_ time: timespec) {
        self.init(seconds: Int64(time.tv_sec), nanoseconds: UInt32(truncatingIfNeeded: time.tv_nsec))
    }

    var timespec: timespec { Glibc.timespec(tv_sec: Int(seconds), tv_nsec: Int(nanoseconds)) }
}

/// What stat(2) tells of a file.
public struct Attributes: Equatable, Sendable {
    public var inode: UInt64
    /// Type and permission bits.
    public var mode: UInt32
    public var linkCount: UInt32
    public var uid: UInt32
    public var gid: UInt32
    public var rdev: UInt32
    /// Bytes.
    public var size: UInt64
    /// 512-byte units that are stored.
    public var blocks512: UInt64
    /// The preferred size of a read or write, in bytes.
    public var blockSize: UInt32
    public var accessTime: Time
    public var modificationTime: Time
    public var changeTime: Time
    /// When the file was made; nil if nobody knows.
    public var birthTime: Time?

    public init(
        inode: UInt64, mode: UInt32, linkCount: UInt32 = 1, uid: UInt32 = 0, gid: UInt32 = 0, rdev: UInt32 = 0,
        size: UInt64 = 0, blocks512: UInt64 = 0, blockSize: UInt32 = 4096,
        accessTime: Time = Time(seconds: 0), modificationTime: Time = Time(seconds: 0),
        changeTime: Time = Time(seconds: 0), birthTime: Time? = nil
    ) {
        self.inode = inode
        self.mode = mode
        self.linkCount = linkCount
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.size = size
        self.blocks512 = blocks512
        self.blockSize = blockSize
        self.accessTime = accessTime
        self.modificationTime = modificationTime
        self.changeTime = changeTime
        self.birthTime = birthTime
    }
}

/// Answer to what looks up or makes a name. The kernel counts one lookup of `node` for each, until it
/// forgets them.
public struct EntryReply: Sendable {
    /// 0 says that the name does not exist and that the kernel may remember so for `entryTimeout`.
    public var node: NodeID
    public var generation: UInt64
    public var attributes: Attributes
    /// How long the kernel may go without asking again, in seconds.
    public var attributeTimeout: Double
    public var entryTimeout: Double

    public init(
        node: NodeID, generation: UInt64 = 0, attributes: Attributes, attributeTimeout: Double, entryTimeout: Double
    ) {
        self.node = node
        self.generation = generation
        self.attributes = attributes
        self.attributeTimeout = attributeTimeout
        self.entryTimeout = entryTimeout
    }

    /// The name does not exist; the kernel remembers that for `timeout` seconds.
    public static func absent(timeout: Double) -> EntryReply {
        EntryReply(
            node: 0, attributes: Attributes(inode: 0, mode: 0), attributeTimeout: timeout, entryTimeout: timeout)
    }
}

/// Answer to getattr and setattr.
public struct AttributesReply: Sendable {
    public var attributes: Attributes
    /// How long the kernel may go without asking again, in seconds.
    public var timeout: Double

    public init(_ attributes: Attributes, timeout: Double) {
        self.attributes = attributes
        self.timeout = timeout
    }
}

/// A time to set: the clock's, or one given.
public enum TimeChange: Equatable, Sendable {
    case now
    case to(Time)
}

/// Which attributes to change; nil leaves one as it is.
public struct AttributeChanges: Equatable, Sendable {
    /// Permission bits (type bits are to be ignored).
    public var mode: UInt32?
    public var uid: UInt32?
    public var gid: UInt32?
    public var size: UInt64?
    public var accessTime: TimeChange?
    public var modificationTime: TimeChange?
    /// Sent by a kernel that keeps times itself (writeback cache).
    public var changeTime: Time?
    /// Also drop set-user-ID, and set-group-ID where the group may execute.
    public var clearsPrivileges = false

    public init() {}
}

/// What a file system answers when a file or directory is opened.
public struct OpenReply: Sendable {
    /// Comes back with each request on this open file.
    public var handle: UInt64
    /// Keep cached data of earlier opens.
    public var keepsCache: Bool
    /// Bypass the page cache.
    public var directIO: Bool
    /// The kernel may keep the listing (directories).
    public var cachesListing: Bool

    public init(handle: UInt64 = 0, keepsCache: Bool = true, directIO: Bool = false, cachesListing: Bool = true) {
        self.handle = handle
        self.keepsCache = keepsCache
        self.directIO = directIO
        self.cachesListing = cachesListing
    }
}

/// What statfs(2) tells.
public struct FileSystemSpace: Sendable {
    public var blockSize: UInt64
    public var totalBlocks: UInt64
    public var freeBlocks: UInt64
    /// Blocks that a user without privilege may still fill.
    public var availableBlocks: UInt64
    public var totalFiles: UInt64
    public var freeFiles: UInt64
    public var maximumNameLength: UInt64

    public init(
        blockSize: UInt64, totalBlocks: UInt64, freeBlocks: UInt64, availableBlocks: UInt64, totalFiles: UInt64,
        freeFiles: UInt64, maximumNameLength: UInt64 = 255
    ) {
        self.blockSize = blockSize
        self.totalBlocks = totalBlocks
        self.freeBlocks = freeBlocks
        self.availableBlocks = availableBlocks
        self.totalFiles = totalFiles
        self.freeFiles = freeFiles
        self.maximumNameLength = maximumNameLength
    }
}

/// A write request.
public struct WriteRequest {
    public let offset: UInt64
    /// Valid during the call; page-aligned.
    public let bytes: UnsafeRawBufferPointer
    public let handle: UInt64
    /// The flags of open(2).
    public let openFlags: Int32
    /// The kernel writes back its cache; the context's user is not the writer.
    public let isWriteBack: Bool
    /// Drop set-user-ID and set-group-ID, for the writer lacks the privilege to keep them.
    public let clearsPrivileges: Bool
}
