import Glibc
import O3LSM

/// A POSIX file system whose every row is a key of an engine store.
///
/// One operation is one write batch: after any crash it is there whole or not at all. All operations
/// are thread-safe and block only on the engine and on other operations on the same files. Names are
/// bytes (1 … 255, neither "/" nor NUL, not "." or ".."). Permissions are the caller's business (the
/// kernel's `default_permissions`); this class keeps the tree right.
///
/// Times: an operation sets modification and change time as POSIX says; access time is set at creation
/// and by `setAttributes` only, as on a file system mounted with noatime.
///
/// Files that are looked up with `retain: true` are counted, as the kernel counts them: one that is
/// unlinked while it is counted lives on, unnamed, until `forget` has brought its count to zero.
public final class FileSystem: Sendable {
    /// What a caller may choose when a store is opened.
    public struct Options: Sendable {
        /// Bytes of a data block of a store that is made now: a power of two, 4 KiB … 256 KiB.
        public var blockSize = 4096
        /// Make a file system in an empty store.
        public var formatIfEmpty = true
        /// Who owns the root directory of a new file system, and its permissions.
        public var rootOwner = Owner.root
        public var rootPermissions: UInt32 = 0o755
        /// The kernel still counts files that an earlier process looked up for it: keep orphans.
        public var continuesEarlierMount = false
        /// Inode rows kept in memory, at about 150 bytes each; 0 for none.
        public var cachedInodes = 65_536
        /// Links a file may have before EMLINK.
        public var maximumLinks: UInt32 = 0x7fff_ffff
        /// Where "now" comes from.
        public var clock: @Sendable () -> Timestamp = { Timestamp.now() }

        public init() {}
    }

    public let store: any KeyValueStore
    public let options: Options

    /// Opens the file system in `store`, making one if the store is empty and the options say so;
    /// reclaims files that were unlinked but open when the last mount ended.
    ///
    /// Throws EINVAL for a bad block size, ENOENT for an empty store that must not be formatted, EIO
    /// for a superblock that does not decode.
    public init(_ store: any KeyValueStore, options: Options = Options()) throws(FileSystemError) {
        self.store = store
        self.options = options
    }
}
