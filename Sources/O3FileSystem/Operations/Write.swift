import Glibc
import O3LSM

/// Writing file data: full blocks go from the caller's memory to the engine without a copy.
extension FileSystem {
    /// The most one call writes: what one batch should hold.
    public static let maximumWriteBytes = 8 << 20

    /// Writes all of `bytes`, whose memory the engine reads in place; with `sync` they survive power loss
    /// on return (O_SYNC, O_DSYNC). `clearsPrivileges`: drop set-ID bits, as for a writer without privilege.
    /// EINVAL for more than `maximumWriteBytes`.
    public func write(
        _ inode: InodeNumber,
        offset: UInt64,
        _ bytes: UnsafeRawBufferPointer,
        sync: Bool = false,
        clearsPrivileges: PrivilegeClearing = .none
    ) throws(FileSystemError) {
        guard bytes.count <= Self.maximumWriteBytes else { throw .invalid }
        let (end, overflow) = offset.addingReportingOverflow(UInt64(bytes.count))
        guard !overflow, end <= Self.maximumFileSize else { throw .posix(EFBIG) }
        let stripe = locks.stripe(of: inode)
        locks.lock(stripe)
        defer { locks.unlock(stripe) }
        var row = try requireLockedInode(inode)
        guard !row.isDirectory else { throw .isDirectory }
        guard row.isRegular else { throw .invalid }
        guard bytes.count > 0 else { return }

        let batch = locks.batch(stripe)
        // The first and the last block may be written in part; their merged bytes live until the commit.
        let scratch = PartialBlocks(blockSize: blockSize)
        defer { scratch.deallocate() }
        try putBlocks(inode, &row, offset, end, bytes, batch, scratch)

        let now = options.clock()
        row.size = max(row.size, end)
        capBlocks(&row)
        row.modificationTime = now
        row.changeTime = now
        row.clearPrivileges(clearsPrivileges)
        dropCapabilities(inode, &row, batch)
        try commit(batch, inode, row, sync: sync)
    }

    /// As `write`; where a limit of the store leaves no room for all of it, writes as much as fits, to the end of a block,
    /// as POSIX wants it. That much is written in several steps.
    ///
    /// - Returns: bytes written. ENOSPC when not even the first block fits.
    public func writeFitting(
        _ inode: InodeNumber,
        offset: UInt64,
        _ bytes: UnsafeRawBufferPointer,
        clearsPrivileges: PrivilegeClearing = .none
    ) throws(FileSystemError) -> Int {
        do throws(FileSystemError) {
            try write(inode, offset: offset, bytes, clearsPrivileges: clearsPrivileges)
            return bytes.count
        } catch {
            guard error == .posix(ENOSPC), usage.isCounting else { throw error }
        }
        let size = UInt64(blockSize)
        var done = 0
        // The halves, quarters, … that fit add up to what does.
        var step = UInt64(1) << UInt64(63 - (UInt64(bytes.count) / size + 1).leadingZeroBitCount)
        while step > 0 {
            let start = offset + UInt64(done)
            let end = (start / size + step) * size
            let part = Int(min(end - start, UInt64(bytes.count - done)))
            if part > 0 {
                do throws(FileSystemError) {
                    try write(
                        inode, offset: start, UnsafeRawBufferPointer(rebasing: bytes[done..<done + part]),
                        clearsPrivileges: clearsPrivileges)
                    done += part
                } catch {
                    guard error == .posix(ENOSPC) else { throw error }
                }
            }
            step /= 2
        }
        guard done > 0 else { throw .posix(ENOSPC) }
        return done
    }

    private func putBlocks(
        _ number: InodeNumber,
        _ row: inout Inode,
        _ offset: UInt64,
        _ end: UInt64,
        _ bytes: UnsafeRawBufferPointer,
        _ batch: WriteBatch,
        _ scratch: borrowing PartialBlocks
    ) throws(FileSystemError) {
        let size = UInt64(blockSize)
        let first = offset / size
        let last = (end - 1) / size
        let oldBlocks = blockCount(row.size)
        let known = presence(row)
        let scan = try PresenceScan(self, number, known, first...last, oldBlocks)
        var added: UInt64 = 0
        var removed: UInt64 = 0
        for block in first...last {
            let start = block * size
            let from = max(start, offset)
            let to = min(start + size, end)
            var value = UnsafeRawBufferPointer(rebasing: bytes[Int(from - offset)..<Int(to - offset)])
            let isPresent: Bool
            switch known {
            case _ where block >= oldBlocks: isPresent = false
            case .none: isPresent = false
            case .all: isPresent = true
            case .unknown: isPresent = scan.contains(block)
            }
            // What lies before and after in the block must be kept, unless there is nothing.
            let keepsHead = from > start
            let keepsTail = to < start + size && to < row.size
            if keepsHead || (keepsTail && isPresent) {
                let old = isPresent ? try fetchBlock(number, block) : nil
                value = scratch.merge(
                    old,
                    value,
                    at: Int(from - start),
                    second: block == last && first != last
                )
            }
            if isZero(value) {
                if isPresent {
                    batch.delete(.data(number, block: block))
                    removed += 1
                }
            } else {
                batch.put(.data(number, block: block), referencing: value)
                if !isPresent { added += 1 }
            }
        }
        row.blocks = row.blocks &+ added
        row.blocks -= min(row.blocks, removed)
    }
}

/// Which blocks of a range a sparse file has: looked for only when the inode row does not tell.
private struct PresenceScan {
    private var first: UInt64 = 0
    private var bits: [Bool] = []

    /// Few blocks are looked up, more are scanned.
    private static let maximumLookups: UInt64 = 4

    init(
        _ fileSystem: FileSystem,
        _ number: InodeNumber,
        _ known: FileSystem.Presence,
        _ range: ClosedRange<UInt64>,
        _ oldBlocks: UInt64
    ) throws(FileSystemError) {
        guard known == .unknown, range.lowerBound < oldBlocks else { return }
        let end = min(range.upperBound + 1, oldBlocks)
        first = range.lowerBound
        bits = [Bool](repeating: false, count: Int(end - first))
        if end - first <= Self.maximumLookups {
            for block in first..<end {
                bits[Int(block - first)] = try fileSystem.store.fetch(.data(number, block: block)) != nil
            }
            return
        }
        var found: [UInt64] = []
        try fileSystem.forEachBlock(number, first..<end) { found.append($0) }
        for block in found where block >= first && block < end { bits[Int(block - first)] = true }
    }

    func contains(_ block: UInt64) -> Bool {
        block >= first && block - first < UInt64(bits.count) && bits[Int(block - first)]
    }
}

/// Memory for the merged bytes of the first and of the last block of a write.
private struct PartialBlocks {
    private let blockSize: Int
    private let memory: UnsafeMutableRawPointer

    init(blockSize: Int) {
        self.blockSize = blockSize
        memory = .allocate(byteCount: 2 * blockSize, alignment: 16)
    }

    func deallocate() { memory.deallocate() }

    /// `old` with `new` laid over it at `offset`; zeros between them if `old` is shorter.
    func merge(
        _ old: PinnedValue?,
        _ new: UnsafeRawBufferPointer,
        at offset: Int,
        second: Bool
    ) -> UnsafeRawBufferPointer {
        let target = memory + (second ? blockSize : 0)
        let oldCount =
            old?.withBytes { bytes -> Int in
                if let base = bytes.baseAddress { memcpy(target, base, bytes.count) }
                return bytes.count
            } ?? 0
        if oldCount < offset { memset(target + oldCount, 0, offset - oldCount) }
        if let base = new.baseAddress { memcpy(target + offset, base, new.count) }
        return UnsafeRawBufferPointer(start: target, count: max(oldCount, offset + new.count))
    }
}
