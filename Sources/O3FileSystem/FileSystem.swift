import Glibc
import O3LSM

/// A POSIX file system whose every row is a key of an engine store.
///
/// One operation is one write batch: after any crash it is there whole or not at all. All operations
/// are thread-safe and block only on the engine and on other operations on the same files. Names are
/// bytes (1 … 255, neither "/" nor NUL). Permissions are the caller's business (the kernel's
/// `default_permissions`); this class keeps the tree right.
///
/// Times: an operation sets modification and change time as POSIX says; the access time is set at creation,
/// by `setAttributes`, and by `noteAccess`, which the caller makes after a read.
///
/// Files that are looked up with `retain: true` are counted, as the kernel counts them: one that loses
/// its last name while it is counted lives on, unnamed, until `forget` has brought its count to zero.
///
/// How it is put together: `Rows` are the keys and values of the store; `State` is what is kept in
/// memory (locks, lookup counts, cached inodes: all of it can be lost); `Operations` are the calls;
/// `Inspection` is for people who look into a store.
public final class FileSystem: Sendable {
    /// What a caller may choose when a store is opened.
    public struct Options: Sendable {
        /// Bytes of a data block of a store that is made now: a power of two, 4 KiB … 256 KiB.
        public var blockSize = 4096
        /// Make a file system in an empty store.
        public var formatIfEmpty = true
        /// The store cannot be written to: orphans stay.
        public var isReadOnly = false
        /// Who owns the root directory of a new file system, and its permissions.
        public var rootOwner = Owner.root
        public var rootPermissions: UInt32 = 0o755
        /// The kernel still counts files that an earlier process looked up for it: keep orphans.
        public var continuesEarlierMount = false
        /// The store has lost what came last, and the kernel still knows it: numbers of files that are gone are not given out
        /// again, or what is open would be another file.
        public var mayHaveLostNumbers = false
        /// A file of lookup counts of the earlier process (`lookupCountsDescriptor`), owned from here on. Without
        /// one, files that were there when the mount was continued are kept as orphans when they lose their names,
        /// unless the kernel forgets more look-ups than were counted here.
        public var lookupCounts: Int32?
        /// How many processes have served the mount before this one; nil: nobody goes on with it after this one
        /// either, and no request is remembered.
        public var generation: UInt64?
        /// Inode rows kept in memory, at about 150 bytes each; 0 for none.
        public var cachedInodes = 65_536
        /// Limits the store has from now on; nil leaves those it has.
        public var maximumBytes: LimitChange?
        public var maximumInodes: LimitChange?
        /// Whether new files inherit access control lists.
        public var accessControlLists = true
        /// When reading sets access times, and whether that of directories.
        public var accessTimes = AccessTimePolicy.relative
        public var directoryAccessTimes = true
        /// Links a file may have before EMLINK.
        public var maximumLinks: UInt32 = 0x7fff_ffff
        /// In place of the stored one, which is lost.
        var superblock: Superblock?
        /// Where "now" comes from.
        public var clock: @Sendable () -> Timestamp = { Timestamp.now() }
        /// Hears of what a person must look into, where no call can fail with it.
        public var report: @Sendable (FileSystemError) -> Void = { _ in }

        public init() {}
    }

    /// What becomes of a limit.
    public enum LimitChange: Equatable, Sendable {
        case unlimited
        case to(UInt64)

        var value: UInt64? {
            guard case .to(let value) = self else { return nil }
            return value
        }
    }

    public let store: any KeyValueStore
    public let options: Options
    /// Bytes of a data block of this store.
    public let blockSize: Int

    let nameHash: NameHash
    let locks = StripedLocks()
    let cache: InodeCache
    let lookups: LookupCounts
    let listings = ListingCache()
    let outcomes: OutcomeLog
    let usage: Usage
    let allocator: InodeAllocator
    /// Held while a directory changes its parent, so that the way from any directory up to the root
    /// stays what it is while it is walked. Taken before stripes.
    let topology = LockArray(count: 1)
    /// Inodes below this one may be known to the kernel without being counted here.
    let firstCounted: InodeNumber

    /// Opens the file system in `store`, making one if the store is empty and the options say so. Files that were
    /// unlinked but open when the last mount ended are there until `reclaimOrphans`.
    ///
    /// Throws EINVAL for a bad block size, ENOENT for an empty store that must not be formatted, EIO
    /// for a superblock that does not decode.
    public init(_ store: any KeyValueStore, options: Options = Options()) throws(FileSystemError) {
        let superblock = try Self.updateLimits(try Self.loadSuperblock(store, options), store, options)
        self.store = store
        self.options = options
        blockSize = superblock.blockSize
        nameHash = superblock.nameHash
        cache = InodeCache(capacity: options.cachedInodes)
        allocator = InodeAllocator(superblock, store: store, mayHaveLostNumbers: options.mayHaveLostNumbers)
        usage = try Usage(superblock.limits, blockSize: superblock.blockSize, store)
        outcomes = try OutcomeLog(store, generation: options.generation, mayWrite: options.formatIfEmpty)
        // Without generations nobody will go on with the counts.
        let file = options.generation == nil ? nil : try CountFile(continuing: options.lookupCounts)
        lookups = LookupCounts(file)
        let knowsCounts = !options.continuesEarlierMount || file?.isContinued == true
        firstCounted = knowsCounts ? 0 : superblock.nextInode
    }

    /// What a process that goes on with the mount after this one needs (`Options.lookupCounts`); nil without
    /// `Options.generation`. Valid as long as this object.
    public var lookupCountsDescriptor: Int32? { lookups.file?.descriptor }

    /// Gives back the inode numbers reserved but unused, and forgets the requests that were done: all are answered.
    /// Call last; the store stays open.
    ///
    /// - Parameter goesOn: another process serves the mount after this one. What was done stays known to it: a request
    ///   that an earlier process left unanswered may be sent again only then.
    public func close(goesOn: Bool = false) throws(FileSystemError) {
        try allocator.close()
        if !goesOn { try outcomes.forgetAll(store) }
    }

    /// Whether an earlier process of the mount has done what the request asks for. Only operations that take a
    /// request are remembered; one that was done answers as a look at its result does.
    public func isDone(_ request: RequestTicket) -> Bool { outcomes.isDone(request) }

    /// Forgets the requests that earlier processes have done: each was answered.
    public func forgetEarlierRequests() throws(FileSystemError) { try outcomes.forgetEarlier(store) }

    /// fsync, fdatasync, syncfs: everything that was done before survives power loss.
    public func sync() throws(FileSystemError) {
        do throws(EngineError) { try store.sync() } catch { throw .engine(error) }
    }

    public func space() throws(FileSystemError) -> FileSystemSpace {
        do throws(EngineError) {
            let (free, total) = try store.space()
            let blocks = usage.blockSpace ?? (total: .max, free: .max)
            let inodes = usage.inodeSpace ?? (total: 0, free: 0)
            return FileSystemSpace(
                blockSize: UInt32(blockSize),
                totalBlocks: min(blocks.total, total / UInt64(blockSize)),
                freeBlocks: min(blocks.free, free / UInt64(blockSize)),
                totalInodes: inodes.total,
                freeInodes: inodes.free,
                maximumNameLength: UInt32(NameKey.maximumNameLength)
            )
        } catch {
            throw .engine(error)
        }
    }

    /// Writes the limits that the options ask for, if they are not those there are.
    private static func updateLimits(
        _ found: Superblock,
        _ store: any KeyValueStore,
        _ options: Options
    ) throws(FileSystemError) -> Superblock {
        var superblock = found
        if let change = options.maximumBytes { superblock.limits.bytes = change.value }
        if let change = options.maximumInodes { superblock.limits.inodes = change.value }
        guard superblock != found, options.formatIfEmpty else { return found }
        let batch = WriteBatch()
        batch.put(RowKey.superblock.bytes, superblock.encoded)
        try store.apply(batch, sync: true)
        return superblock
    }

    private static func loadSuperblock(
        _ store: any KeyValueStore,
        _ options: Options
    ) throws(FileSystemError) -> Superblock {
        if let lost = options.superblock { return lost }
        if let value = try store.fetch(.superblock) {
            return try withExtendedLifetime(value) { () throws(FileSystemError) in try Superblock(value.bytes) }
        }
        guard options.formatIfEmpty else { throw .notFound }
        guard try !store.scan(from: [0], to: nil).isValid else {
            throw .corruptRow(row: "the superblock", problem: "it is gone; o3fs repair can make another one")
        }
        return try format(store, options)
    }

    /// Writes a superblock and a root directory, in one batch.
    private static func format(
        _ store: any KeyValueStore,
        _ options: Options
    ) throws(FileSystemError) -> Superblock {
        guard Superblock.isValid(blockSize: options.blockSize) else {
            throw .engine(
                .invalidArgument(
                    "the block size must be a power of two between \(Superblock.blockSizes.lowerBound) and "
                        + "\(Superblock.blockSizes.upperBound) bytes, not \(options.blockSize)"
                )
            )
        }
        let now = options.clock()
        let superblock = Superblock(
            blockSize: options.blockSize,
            nextInode: rootInode + 1,
            nameHash: try NameHash.random(),
            birth: now
        )
        var root = Inode(
            mode: S_IFDIR | (options.rootPermissions & 0o7777),
            owner: options.rootOwner,
            linkCount: 2,
            time: now
        )
        root.parent = rootInode
        let batch = WriteBatch()
        batch.put(RowKey.superblock.bytes, superblock.encoded)
        batch.put(.inode(rootInode), root)
        try store.apply(batch, sync: true)
        return superblock
    }
}
