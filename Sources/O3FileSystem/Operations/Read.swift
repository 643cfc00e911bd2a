import Glibc
import O3LSM

/// Reading file data. No lock is taken: what was read while nobody changed the inode's stripe is one
/// state; otherwise the read is repeated through a snapshot, so that it sees each write whole or not
/// at all.
extension FileSystem {
    /// Reads of the length of so many blocks, of the first and the last a part, look each one up; longer ones scan. A
    /// look-up finds the newest state of a block without reading older ones, and its value goes to the reply without a
    /// copy; a scan must read everything that has been overwritten in the range and is not compacted yet.
    static let maximumPointReads: UInt64 = 256

    /// Adds the bytes of the range to `sink`, which must be empty; fewer than `length` only at the end
    /// of the file.
    public func read(
        _ inode: InodeNumber,
        offset: UInt64,
        length: Int,
        into sink: ReadSink
    ) throws(FileSystemError) {
        let stripe = locks.stripe(of: inode)
        let version = locks.version(stripe)
        if version & 1 == 0 {
            try gather(inode, try requireInode(inode), offset, length, nil, sink)
            if locks.isUnchanged(stripe, since: version) { return }
            sink.clear()
        }
        let snapshot = store.makeSnapshot()
        guard let row = try store.fetchInode(inode, snapshot) else { throw .notFound }
        try gather(inode, row, offset, length, snapshot, sink)
    }

    private func gather(
        _ number: InodeNumber,
        _ row: Inode,
        _ offset: UInt64,
        _ length: Int,
        _ snapshot: Snapshot?,
        _ sink: ReadSink
    ) throws(FileSystemError) {
        guard !row.isDirectory else { throw .isDirectory }
        guard row.isRegular, length >= 0 else { throw .invalid }
        guard offset < row.size, length > 0 else { return }
        let end = offset + min(UInt64(length), row.size - offset)
        guard row.blocks > 0 || row.hasEstimatedBlocks else { return sink.appendZeros(Int(end - offset)) }
        let size = UInt64(blockSize)
        let blocks = offset / size...(end - 1) / size
        if blocks.upperBound - blocks.lowerBound <= Self.maximumPointReads {
            for block in blocks {
                let from = max(offset, block * size) - block * size
                let to = min(end - block * size, size)
                try append(fetchBlock(number, block, snapshot), Int(from)..<Int(to), sink)
            }
        } else {
            try scan(number, offset..<end, blocks, snapshot, sink)
        }
    }

    /// The part of a block, zeros where nothing is stored.
    private func append(_ value: PinnedValue?, _ part: Range<Int>, _ sink: ReadSink) {
        var position = part.lowerBound
        if let value, value.bytes.count > position {
            let stored = min(part.upperBound, value.bytes.count)
            sink.append(UnsafeRawBufferPointer(rebasing: value.bytes[position..<stored]), pinnedBy: value)
            position = stored
        }
        if position < part.upperBound { sink.appendZeros(part.upperBound - position) }
    }

    private func scan(
        _ number: InodeNumber,
        _ range: Range<UInt64>,
        _ blocks: ClosedRange<UInt64>,
        _ snapshot: Snapshot?,
        _ sink: ReadSink
    ) throws(FileSystemError) {
        let size = UInt64(blockSize)
        sink.reserveScratch(Int(range.upperBound - range.lowerBound))
        let cursor = try store.scan(
            from: RowKey.data(number, block: blocks.lowerBound).bytes,
            to: RowKey.data(number, block: blocks.upperBound + 1).bytes,
            snapshot
        )
        var position = range.lowerBound
        while cursor.isValid {
            guard case .data(_, let block)? = ParsedKey(cursor.key), blocks.contains(block) else {
                throw .corruptRow(row: KeyDescription.describe(cursor.key), problem: "it is not a data row's key")
            }
            let value = cursor.value
            try checkBlock(number, block, value)
            let start = block * size
            if position < start {
                sink.appendZeros(Int(start - position))
                position = start
            }
            let stored = min(range.upperBound, start + UInt64(value.count))
            if position < stored {
                sink.appendCopy(
                    UnsafeRawBufferPointer(rebasing: value[Int(position - start)..<Int(stored - start)])
                )
                position = stored
            }
            try cursor.advance()
        }
        if position < range.upperBound { sink.appendZeros(Int(range.upperBound - position)) }
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE. ENXIO past the end (or with no data after `offset`).
    ///
    /// A hole is a block without a row; a block with one is data throughout.
    public func seek(
        _ inode: InodeNumber,
        from offset: UInt64,
        to target: SeekTarget
    ) throws(FileSystemError) -> UInt64 {
        let snapshot = store.makeSnapshot()
        guard let row = try store.fetchInode(inode, snapshot) else { throw .notFound }
        guard row.isRegular else { throw row.isDirectory ? .isDirectory : .invalid }
        guard offset < row.size else { throw .posix(ENXIO) }
        let size = UInt64(blockSize)
        let blocks = offset / size..<blockCount(row.size)
        let cursor = try store.scan(
            from: RowKey.data(inode, block: blocks.lowerBound).bytes,
            to: RowKey.data(inode, block: blocks.upperBound).bytes,
            snapshot
        )
        var expected = blocks.lowerBound
        while cursor.isValid {
            guard case .data(_, let block)? = ParsedKey(cursor.key), blocks.contains(block) else {
                throw .corruptRow(row: KeyDescription.describe(cursor.key), problem: "it is not a data row's key")
            }
            if target == .data { return max(offset, block * size) }
            if block != expected { break }
            expected += 1
            try cursor.advance()
        }
        if target == .data { throw .posix(ENXIO) }
        return min(row.size, max(offset, expected * size))
    }
}
