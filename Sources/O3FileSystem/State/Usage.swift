import Glibc
import O3LSM
import Synchronization

/// How much a file system may hold. Kept in the superblock.
public struct Limits: Equatable, Sendable {
    /// Bytes of data blocks, holes not counted: the sum of what stat(2) calls blocks. nil: no limit.
    public var bytes: UInt64?
    /// Files of all kinds, the root directory and files that are open without a name included. nil: no limit.
    public var inodes: UInt64?

    public init(bytes: UInt64? = nil, inodes: UInt64? = nil) {
        self.bytes = bytes
        self.inodes = inodes
    }

    public static let none = Limits()
}

/// What one batch adds to the store, or takes from it.
struct UsageChange {
    var blocks: Int64 = 0
    var inodes: Int64 = 0

    static let none = UsageChange()

    static func added(_ row: Inode) -> UsageChange { UsageChange(blocks: Int64(clamping: row.blocks), inodes: 1) }
    static func removed(_ row: Inode) -> UsageChange { UsageChange(blocks: -Int64(clamping: row.blocks), inodes: -1) }
}

/// Counts data blocks and inodes of a store that has limits, and refuses what would go beyond; of one without,
/// nothing.
///
/// The counts are sums over the inode rows, which are always right: so they are not stored, but summed up when a
/// mount begins (about a million inodes a second), and are right after any crash. What a batch adds is reserved
/// before it is applied, what it takes is given back after. Thread-safe, without locks.
final class Usage: Sendable {
    let limits: Limits
    private let maximumBlocks: Int64
    private let maximumInodes: Int64
    private let blocks = Atomic<Int64>(0)
    private let inodes = Atomic<Int64>(0)

    var isCounting: Bool { limits != .none }

    init(_ limits: Limits, blockSize: Int, _ store: any KeyValueStore) throws(FileSystemError) {
        self.limits = limits
        maximumBlocks = limits.bytes.map { Int64(clamping: $0 / UInt64(blockSize)) } ?? .max
        maximumInodes = limits.inodes.map { Int64(clamping: $0) } ?? .max
        guard limits != .none else { return }
        var found = UsageChange()
        let cursor = try store.scan(.inode)
        while cursor.isValid {
            // A row that does not decode is counted as a file without data.
            var problem = ""
            found.inodes += 1
            if let row = Inode(cursor.value, failure: &problem) {
                found.blocks = found.blocks.addingReportingOverflow(Int64(clamping: row.blocks)).partialValue
            }
            try cursor.advance()
        }
        blocks.store(max(0, found.blocks), ordering: .relaxed)
        inodes.store(found.inodes, ordering: .relaxed)
    }

    /// Sets aside what `change` adds. ENOSPC when that is more than there may be.
    func reserve(_ change: UsageChange) throws(FileSystemError) {
        guard isCounting else { return }
        guard Self.add(change.inodes, to: inodes, limit: maximumInodes) else { throw .posix(ENOSPC) }
        guard Self.add(change.blocks, to: blocks, limit: maximumBlocks) else {
            inodes.subtract(max(0, change.inodes), ordering: .relaxed)
            throw .posix(ENOSPC)
        }
    }

    /// The batch was applied: what it took is free. Or was not: what it would have added is.
    func settle(_ change: UsageChange, applied: Bool) {
        guard isCounting else { return }
        let sign: Int64 = applied ? -1 : 1
        blocks.subtract(max(0, sign * change.blocks), ordering: .relaxed)
        inodes.subtract(max(0, sign * change.inodes), ordering: .relaxed)
    }

    /// Blocks that may be used in all, and those of them that are free; nil without a limit.
    var blockSpace: (total: UInt64, free: UInt64)? {
        limits.bytes.map { _ in Self.space(blocks, maximumBlocks) }
    }

    /// As `blockSpace`, for inodes.
    var inodeSpace: (total: UInt64, free: UInt64)? {
        limits.inodes.map { _ in Self.space(inodes, maximumInodes) }
    }

    private static func space(_ used: borrowing Atomic<Int64>, _ maximum: Int64) -> (total: UInt64, free: UInt64) {
        (UInt64(maximum), UInt64(max(0, maximum - max(0, used.load(ordering: .relaxed)))))
    }

    private static func add(_ amount: Int64, to counter: borrowing Atomic<Int64>, limit: Int64) -> Bool {
        guard amount > 0 else { return true }
        var current = counter.load(ordering: .relaxed)
        while true {
            guard amount <= limit - max(0, min(current, limit)) else { return false }
            let (done, found) = counter.compareExchange(
                expected: current, desired: current + amount, ordering: .relaxed)
            if done { return true }
            current = found
        }
    }
}

extension FileSystem {
    /// Applies a batch that changes what the store holds by `change`; ENOSPC, and nothing done, if that is too much.
    func apply(_ batch: WriteBatch, _ change: UsageChange, sync: Bool = false) throws(FileSystemError) {
        try usage.reserve(change)
        do throws(FileSystemError) {
            try store.apply(batch, sync: sync)
        } catch {
            usage.settle(change, applied: false)
            throw error
        }
        usage.settle(change, applied: true)
    }

    /// What it changes that an inode, whose stripe is locked, gets the row `row`.
    func change(_ number: InodeNumber, to row: Inode) throws(FileSystemError) -> UsageChange {
        guard usage.isCounting, !row.isDirectory, let old = try lockedInode(number) else { return .none }
        return UsageChange(blocks: Int64(clamping: row.blocks) - Int64(clamping: old.blocks))
    }
}
