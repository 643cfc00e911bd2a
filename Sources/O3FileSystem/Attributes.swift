import Glibc

/// Identifies a file for as long as the store exists: never reused. The root directory is 1.
public typealias InodeNumber = UInt64

public let rootInode: InodeNumber = 1

/// All inode numbers are below, so that a number read from a damaged row can be counted on without overflow.
let inodeNumberEnd = InodeNumber(Int64.max)

/// Whether a file may have the number.
func isInodeNumber(_ number: InodeNumber) -> Bool { number > 0 && number < inodeNumberEnd }

/// A point in time: seconds since 1970 (negative before), and 0 …< 1,000,000,000 nanoseconds.
public struct Timestamp: Equatable, Comparable, Hashable, Sendable {
    public var seconds: Int64
    public var nanoseconds: UInt32

    public init(seconds: Int64, nanoseconds: UInt32 = 0) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }

    /// The system's real-time clock.
    public static func now() -> Timestamp {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Timestamp(seconds: Int64(time.tv_sec), nanoseconds: UInt32(truncatingIfNeeded: time.tv_nsec))
    }

    public static func < (left: Timestamp, right: Timestamp) -> Bool {
        (left.seconds, left.nanoseconds) < (right.seconds, right.nanoseconds)
    }
}

/// What a file is: the values of the type bits of `mode` shifted down by 12, which are those of
/// `d_type` in a directory entry (DT_DIR = 4, DT_REG = 8, …).
public enum FileType: UInt8, Sendable, CaseIterable {
    case pipe = 1
    case characterDevice = 2
    case directory = 4
    case blockDevice = 6
    case regular = 8
    case symbolicLink = 10
    case socket = 12

    /// nil for type bits that mean nothing.
    public init?(mode: UInt32) { self.init(rawValue: UInt8(truncatingIfNeeded: (mode & 0o170000) >> 12)) }

    /// The type bits in their place in a mode.
    public var modeBits: UInt32 { UInt32(rawValue) << 12 }
}

/// What stat(2) tells of a file.
public struct Attributes: Equatable, Sendable {
    public var inode: InodeNumber
    /// Type and permission bits, as in st_mode.
    public var mode: UInt32
    public var uid: UInt32
    public var gid: UInt32
    public var linkCount: UInt32
    /// Device number of a device node, as the caller gave it.
    public var rdev: UInt32
    /// Bytes of a file or of a symbolic link's target; number of entries of a directory.
    public var size: UInt64
    /// 512-byte units that are stored; holes do not count.
    public var blocks512: UInt64
    /// The preferred size of a read or write.
    public var blockSize: UInt32
    public var accessTime: Timestamp
    public var modificationTime: Timestamp
    public var changeTime: Timestamp
    public var birthTime: Timestamp
    public var generation: UInt64

    /// nil only for a mode that the store cannot hold.
    public var type: FileType? { FileType(mode: mode) }
}

/// Who a new file belongs to.
public struct Owner: Equatable, Sendable {
    public var uid: UInt32
    public var gid: UInt32

    public init(uid: UInt32, gid: UInt32) {
        self.uid = uid
        self.gid = gid
    }

    public static let root = Owner(uid: 0, gid: 0)
}

/// A time to set: the clock's, or one given.
public enum TimeChange: Equatable, Sendable {
    case now
    case to(Timestamp)
}

/// What a change of contents takes from a file's mode.
public enum PrivilegeClearing: Equatable, Sendable, ExpressibleByBooleanLiteral {
    case none
    /// Set-user-ID, and set-group-ID where the group may execute.
    case ofPrograms
    /// Set-user-ID and set-group-ID: the writer does not belong to the file's group.
    case all

    public init(booleanLiteral value: Bool) { self = value ? .ofPrograms : .none }
}

/// Which attributes to change; nil leaves one as it is.
public struct AttributeChanges: Equatable, Sendable {
    /// Permission bits; type bits are ignored.
    public var mode: UInt32?
    public var uid: UInt32?
    public var gid: UInt32?
    /// Truncates or extends a regular file.
    public var size: UInt64?
    public var accessTime: TimeChange?
    public var modificationTime: TimeChange?
    /// Set by a kernel that keeps times itself (writeback cache); nil: now.
    public var changeTime: Timestamp?
    /// Which set-ID bits go (a caller without privilege changes the size).
    public var clearsPrivileges = PrivilegeClearing.none

    public init() {}

    /// Only the time of the change.
    public var isEmpty: Bool { self == AttributeChanges() }
}

/// One entry of a directory listing.
public struct DirectoryEntry {
    /// Valid during the call that hands the entry over.
    public let name: UnsafeRawBufferPointer
    public let inode: InodeNumber
    public let type: FileType
    /// Where a listing goes on after this entry; positive as a signed 64-bit offset.
    public let cookie: UInt64
    /// Only in a listing with attributes; nil also when the file vanished meanwhile, or its inode cannot be read.
    public let attributes: Attributes?
}

/// What statfs(2) tells.
public struct FileSystemSpace: Equatable, Sendable {
    public var blockSize: UInt32
    public var totalBlocks: UInt64
    public var freeBlocks: UInt64
    /// Both 0 when inodes are not limited: then they are not counted.
    public var totalInodes: UInt64 = 0
    public var freeInodes: UInt64 = 0
    public var maximumNameLength: UInt32
}

/// How rename(2) treats an existing target.
public enum RenameMode: Sendable {
    case replace
    /// RENAME_NOREPLACE: an existing target is EEXIST.
    case noReplace
    /// RENAME_EXCHANGE: both must exist and change places.
    case exchange
}

/// How setxattr(2) treats an existing value.
public enum ExtendedAttributeMode: Sendable {
    case createOrReplace
    /// XATTR_CREATE: an existing value is EEXIST.
    case create
    /// XATTR_REPLACE: no value is ENODATA.
    case replace
    /// Both: EEXIST or ENODATA, as on other file systems.
    case contradictory
}

/// What fallocate(2) does to a range.
public enum AllocationMode: Sendable {
    /// Extends the file to the end of the range.
    case extend
    /// FALLOC_FL_KEEP_SIZE: checks for space, changes nothing: a log-structured store reserves none.
    case keepSize
    /// FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE.
    case punchHole
    /// FALLOC_FL_ZERO_RANGE, without or with FALLOC_FL_KEEP_SIZE.
    case zeroRange
    case zeroRangeKeepSize
}

/// SEEK_DATA and SEEK_HOLE of lseek(2).
public enum SeekTarget: Sendable {
    case data
    case hole
}
