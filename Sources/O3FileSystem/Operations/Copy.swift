import Glibc
import O3LSM

/// copy_file_range(2): bytes go from file to file inside the process, holes as holes.
extension FileSystem {
    /// Bytes of one write batch, and the most one call copies, so that it ends soon.
    private static let copyStepBytes: UInt64 = 1 << 20
    private static let maximumCopyBytes: UInt64 = 64 << 20
    /// The same with holes: the kernel is told the result in 32 bits.
    private static let maximumCopyLength: UInt64 = 1 << 30

    /// Answers how many bytes were copied: fewer than `length` at the end of the source, after 64 MiB of data or 1 GiB
    /// in all, and when something failed after the first step. Each step is atomic, the copy is not; ranges of one file
    /// must not overlap (EINVAL).
    public func copyRange(
        from source: InodeNumber,
        at sourceOffset: UInt64,
        to target: InodeNumber,
        at targetOffset: UInt64,
        length: UInt64,
        clearsPrivileges: PrivilegeClearing = .none
    ) throws(FileSystemError) -> UInt64 {
        let row = try requireInode(source)
        guard row.isRegular, try requireInode(target).isRegular else { throw .invalid }
        guard sourceOffset < row.size else { return 0 }
        let length = min(length, row.size - sourceOffset, Self.maximumCopyLength)
        let (targetEnd, overflow) = targetOffset.addingReportingOverflow(length)
        guard !overflow, targetEnd <= Self.maximumFileSize else { throw .posix(EFBIG) }
        if source == target {
            guard sourceOffset + length <= targetOffset || targetEnd <= sourceOffset else { throw .invalid }
        }
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: Int(min(length, Self.copyStepBytes)), alignment: 16)
        defer { buffer.deallocate() }
        let sink = ReadSink()
        var copied: UInt64 = 0
        var moved: UInt64 = 0
        do throws(FileSystemError) {
            while copied < length, moved < Self.maximumCopyBytes {
                let position = sourceOffset + copied
                let rest = length - copied
                let hole = try holeLength(source, at: position, limit: rest)
                if hole > 0 {
                    try allocate(
                        target, offset: targetOffset + copied, length: hole, mode: .zeroRange,
                        clearsPrivileges: clearsPrivileges)
                    copied += hole
                    continue
                }
                sink.clear()
                try read(source, offset: position, length: Int(min(rest, Self.copyStepBytes)), into: sink)
                // Cut meanwhile.
                guard sink.count > 0 else { break }
                let bytes = sink.gather(into: buffer)
                // What was read keeps memtables from being given back, for whose memory the write may wait.
                sink.clear()
                try write(target, offset: targetOffset + copied, bytes, clearsPrivileges: clearsPrivileges)
                copied += UInt64(bytes.count)
                moved += UInt64(bytes.count)
            }
        } catch {
            guard copied > 0 else { throw error }
        }
        return copied
    }

    /// Bytes up to the next data, at most `limit`; 0 where there is data, or the file ends.
    private func holeLength(
        _ inode: InodeNumber,
        at offset: UInt64,
        limit: UInt64
    ) throws(FileSystemError) -> UInt64 {
        do throws(FileSystemError) {
            return min(limit, try seek(inode, from: offset, to: .data) - offset)
        } catch {
            guard error == .posix(ENXIO) else { throw error }
            let size = try requireInode(inode).size
            return min(limit, size > offset ? size - offset : 0)
        }
    }
}

extension ReadSink {
    /// Everything read, in `buffer`, which is large enough; more is cut off.
    fileprivate func gather(into buffer: UnsafeMutableRawBufferPointer) -> UnsafeRawBufferPointer {
        var used = 0
        for piece in pieces {
            guard let base = piece.bytes.baseAddress, let target = buffer.baseAddress else { continue }
            let count = min(piece.bytes.count, buffer.count - used)
            memcpy(target + used, base, count)
            used += count
        }
        return UnsafeRawBufferPointer(rebasing: buffer[..<used])
    }
}
