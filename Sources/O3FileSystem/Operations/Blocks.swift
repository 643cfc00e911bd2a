import Glibc
import O3LSM

/// Which data blocks a file has, and taking them away. The inode's stripe is locked by the caller.
///
/// A file's data is one row for each block that is not all zero. A row holds the bytes from the start of
/// its block, at most a block and never beyond the file's size; what it does not hold is zero. So a
/// file grows without touching its last block, and a shorter file must cut it.
extension FileSystem {
    /// Sizes and offsets fit an off_t.
    static let maximumFileSize = UInt64(Int64.max)
    /// Rows counted to keep the number of blocks exact when part of a sparse file goes; beyond, an
    /// estimate, so that the caller waits no longer for a larger file.
    private static let maximumCountedRows: UInt64 = 4096

    /// Blocks that hold the first `size` bytes.
    @inline(__always)
    func blockCount(_ size: UInt64) -> UInt64 {
        size / UInt64(blockSize) + (size % UInt64(blockSize) == 0 ? 0 : 1)
    }

    /// What the inode row says of its blocks, so that most writes need not look for them.
    enum Presence {
        case none
        case all
        case unknown
    }

    /// Presence of the blocks within the file's size.
    func presence(_ row: Inode) -> Presence {
        if row.hasEstimatedBlocks { return .unknown }
        if row.blocks == 0 { return .none }
        return row.blocks == blockCount(row.size) ? .all : .unknown
    }

    func fetchBlock(
        _ number: InodeNumber,
        _ block: UInt64,
        _ snapshot: Snapshot? = nil
    ) throws(FileSystemError) -> PinnedValue? {
        guard let value = try store.fetch(.data(number, block: block), snapshot) else { return nil }
        try checkBlock(number, block, value.bytes)
        return value
    }

    func checkBlock(
        _ number: InodeNumber,
        _ block: UInt64,
        _ bytes: UnsafeRawBufferPointer
    ) throws(FileSystemError) {
        guard bytes.count <= blockSize else {
            throw .corruptRow(
                row: "data \(number)/block \(block)",
                problem: "it has \(bytes.count) bytes of at most \(blockSize)"
            )
        }
    }

    /// The blocks of `range` that have a row, handed to `body` in order.
    func forEachBlock(
        _ number: InodeNumber,
        _ range: Range<UInt64>,
        limit: UInt64 = .max,
        _ body: (UInt64) -> Void
    ) throws(FileSystemError) {
        guard !range.isEmpty else { return }
        let cursor = try store.scan(
            from: RowKey.data(number, block: range.lowerBound).bytes,
            to: RowKey.data(number, block: range.upperBound).bytes
        )
        var count: UInt64 = 0
        while cursor.isValid, count < limit {
            guard case .data(_, let block)? = ParsedKey(cursor.key) else {
                throw .corruptRow(row: KeyDescription.describe(cursor.key), problem: "it is not a data row's key")
            }
            body(block)
            count += 1
            try cursor.advance()
        }
    }

    /// Adds the deletion of the blocks of `range`, which lies within the file's size, to `batch`.
    func removeBlocks(
        _ number: InodeNumber,
        _ row: inout Inode,
        _ range: Range<UInt64>,
        _ batch: WriteBatch
    ) throws(FileSystemError) {
        let count = range.upperBound - min(range.lowerBound, range.upperBound)
        let presence = presence(row)
        guard count > 0, presence != .none else { return }
        if count <= Self.maximumPointDeletes {
            if presence == .all {
                for block in range { batch.delete(.data(number, block: block)) }
                row.blocks -= count
            } else {
                var removed: UInt64 = 0
                try forEachBlock(number, range) { block in
                    batch.delete(.data(number, block: block))
                    removed += 1
                }
                row.blocks -= min(removed, row.blocks)
            }
            return
        }
        batch.deleteRange(
            .data(number, block: range.lowerBound),
            .data(number, block: range.upperBound)
        )
        let total = blockCount(row.size)
        if presence == .all {
            row.blocks -= count
        } else if count == total {
            row.blocks = 0
            row.flags &= ~Inode.Flag.estimatedBlocks
        } else if !row.hasEstimatedBlocks, let removed = try countBlocks(number, range) {
            row.blocks -= min(removed, row.blocks)
        } else {
            // As if the blocks there are lay evenly.
            let share = row.blocks.multipliedFullWidth(by: count)
            row.blocks -= min(row.blocks, total.dividingFullWidth(share).quotient)
            row.flags |= Inode.Flag.estimatedBlocks
        }
    }

    /// nil when there are too many to count.
    private func countBlocks(_ number: InodeNumber, _ range: Range<UInt64>) throws(FileSystemError) -> UInt64? {
        var count: UInt64 = 0
        try forEachBlock(number, range, limit: Self.maximumCountedRows + 1) { _ in count += 1 }
        return count > Self.maximumCountedRows ? nil : count
    }

    // MARK: Truncation

    /// Adds to `batch` what brings the file to `size`. `cut` must stay alive until the batch is applied.
    func resize(
        _ number: InodeNumber,
        _ row: inout Inode,
        to size: UInt64,
        _ batch: WriteBatch,
        _ cut: inout [UInt8]
    ) throws(FileSystemError) {
        if size < row.size {
            try removeBlocks(number, &row, blockCount(size)..<blockCount(row.size), batch)
            let rest = Int(size % UInt64(blockSize))
            if rest > 0, row.blocks > 0 || row.hasEstimatedBlocks {
                try trimBlock(number, &row, size / UInt64(blockSize), to: rest, batch, &cut)
            }
        }
        row.size = size
        capBlocks(&row)
    }

    /// No file has more blocks than its size holds: an estimate that says more is brought down to that. Where nothing
    /// is left, it is exact.
    func capBlocks(_ row: inout Inode) {
        row.blocks = min(row.blocks, blockCount(row.size))
        if row.size == 0 { row.flags &= ~Inode.Flag.estimatedBlocks }
    }

    /// Keeps the first `length` bytes of a block.
    private func trimBlock(
        _ number: InodeNumber,
        _ row: inout Inode,
        _ block: UInt64,
        to length: Int,
        _ batch: WriteBatch,
        _ cut: inout [UInt8]
    ) throws(FileSystemError) {
        guard let old = try fetchBlock(number, block), old.bytes.count > length else { return }
        cut = old.withBytes { [UInt8]($0[..<length]) }
        cut.withUnsafeBytes { bytes in
            if isZero(bytes) {
                batch.delete(.data(number, block: block))
                row.blocks -= min(1, row.blocks)
            } else {
                batch.put(.data(number, block: block), bytes)
            }
        }
    }

    // MARK: Allocation

    /// fallocate(2). ENOSPC when the store could not hold what the range lacks: room is checked, not reserved, for a
    /// log-structured store writes each block anew whatever was set aside for it.
    public func allocate(
        _ inode: InodeNumber,
        offset: UInt64,
        length: UInt64,
        mode: AllocationMode,
        clearsPrivileges: PrivilegeClearing = .none
    ) throws(FileSystemError) {
        guard length > 0 else { throw .invalid }
        let (end, overflow) = offset.addingReportingOverflow(length)
        guard !overflow, end <= Self.maximumFileSize else { throw .posix(EFBIG) }
        let stripe = locks.stripe(of: inode)
        locks.lock(stripe)
        defer { locks.unlock(stripe) }
        var row = try requireLockedInode(inode)
        guard !row.isDirectory else { throw .isDirectory }
        guard row.isRegular else { throw .posix(ENODEV) }
        let batch = locks.batch(stripe)
        let now = options.clock()
        switch mode {
        case .extend, .keepSize:
            try checkRoom(inode, row, offset / UInt64(blockSize)..<blockCount(end))
            if mode == .extend { row.size = max(row.size, end) }
        case .punchHole, .zeroRange, .zeroRangeKeepSize:
            try zero(inode, &row, offset..<end, batch)
            if mode == .zeroRange { row.size = max(row.size, end) }
        }
        row.clearPrivileges(clearsPrivileges)
        dropCapabilities(inode, &row, batch)
        row.modificationTime = now
        row.changeTime = now
        try commit(batch, inode, row)
    }

    /// ENOSPC when there is no room for the blocks of `range` that the file does not have. They are looked through only
    /// if the answer depends on it.
    private func checkRoom(
        _ number: InodeNumber,
        _ row: Inode,
        _ range: Range<UInt64>
    ) throws(FileSystemError) {
        let free = try space().freeBlocks
        let wanted = UInt64(range.count)
        guard wanted > free else { return }
        let missing = wanted - free
        let within = range.clamped(to: 0..<blockCount(row.size))
        var present: UInt64 = 0
        switch presence(row) {
        case .none: break
        case .all: present = UInt64(within.count)
        case .unknown: try forEachBlock(number, within, limit: missing) { _ in present += 1 }
        }
        guard present >= missing else { throw .posix(ENOSPC) }
    }

    /// Adds to `batch` what makes the bytes of `range` zero, up to the file's size, which stays.
    private func zero(
        _ number: InodeNumber,
        _ row: inout Inode,
        _ range: Range<UInt64>,
        _ batch: WriteBatch
    ) throws(FileSystemError) {
        let end = min(range.upperBound, row.size)
        guard range.lowerBound < end else { return }
        let size = UInt64(blockSize)
        // Whole blocks, and the last one up to the end of the file, go; the edges are rewritten.
        let firstWhole = blockCount(range.lowerBound)
        let afterWhole = end == row.size ? blockCount(end) : end / size
        if range.lowerBound % size != 0 {
            let block = range.lowerBound / size
            let to = min(end, (block + 1) * size)
            try zeroPart(number, &row, block, Int(range.lowerBound % size)..<Int(to - block * size), batch)
        }
        if afterWhole * size < end, afterWhole >= firstWhole {
            try zeroPart(number, &row, afterWhole, 0..<Int(end - afterWhole * size), batch)
        }
        if firstWhole < afterWhole { try removeBlocks(number, &row, firstWhole..<afterWhole, batch) }
    }

    private func zeroPart(
        _ number: InodeNumber,
        _ row: inout Inode,
        _ block: UInt64,
        _ part: Range<Int>,
        _ batch: WriteBatch
    ) throws(FileSystemError) {
        guard let old = try fetchBlock(number, block), old.bytes.count > part.lowerBound else { return }
        var bytes = old.copy()
        for index in part.lowerBound..<min(part.upperBound, bytes.count) { bytes[index] = 0 }
        bytes.withUnsafeBytes { bytes in
            if isZero(bytes) {
                batch.delete(.data(number, block: block))
                row.blocks -= min(1, row.blocks)
            } else {
                batch.put(.data(number, block: block), bytes)
            }
        }
    }
}

/// Whether all bytes are zero; ends at the first word that is not.
func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard let base = bytes.baseAddress else { return true }
    var offset = 0
    while bytes.count - offset >= 32 {
        let a = base.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
        let b = base.loadUnaligned(fromByteOffset: offset + 8, as: UInt64.self)
        let c = base.loadUnaligned(fromByteOffset: offset + 16, as: UInt64.self)
        let d = base.loadUnaligned(fromByteOffset: offset + 24, as: UInt64.self)
        if a | b | c | d != 0 { return false }
        offset += 32
    }
    while offset < bytes.count {
        if base.load(fromByteOffset: offset, as: UInt8.self) != 0 { return false }
        offset += 1
    }
    return true
}
