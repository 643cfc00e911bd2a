import CLZ4

/// Writes a backup stream (`BackupFormat`). One thread.
final class BackupWriter {
    private let sink: (UnsafeRawBufferPointer) throws(EngineError) -> Void
    private var contents = ByteBuffer()
    private var compressed = ByteBuffer()
    private var frames: UInt64 = 0
    private(set) var counts = BackupCounts()

    /// - Parameter sink: takes all bytes it is given, or throws.
    init(_ header: BackupHeader, _ sink: @escaping (UnsafeRawBufferPointer) throws(EngineError) -> Void)
        throws(EngineError)
    {
        self.sink = sink
        try header.encoded.withEngineBytes { bytes throws(EngineError) in try emit(bytes) }
    }

    func put(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws(EngineError) {
        contents.append(UInt8(1))
        contents.appendVarint(key.count)
        contents.append(key)
        contents.appendVarint(value.count)
        contents.append(value)
        counts.values += 1
        counts.bytes += UInt64(key.count + value.count)
        try writeFullFrame()
    }

    func remove(_ key: UnsafeRawBufferPointer) throws(EngineError) {
        contents.append(UInt8(0))
        contents.appendVarint(key.count)
        contents.append(key)
        counts.removals += 1
        counts.bytes += UInt64(key.count)
        try writeFullFrame()
    }

    /// Call last: a stream without its end is refused.
    func finish() throws(EngineError) {
        try writeFrame(.entries)
        contents.append(counts.values)
        contents.append(counts.removals)
        try writeFrame(.end)
    }

    private func writeFullFrame() throws(EngineError) {
        if contents.count >= BackupFormat.frameBytes { try writeFrame(.entries) }
    }

    private func writeFrame(_ kind: BackupFormat.FrameKind) throws(EngineError) {
        guard contents.count > 0 else { return }
        compressed.truncate(to: 0)
        compressed.reserve(contents.count)
        let source = contents.bytes
        let size = LZ4_compress_default(
            source.baseAddress?.assumingMemoryBound(to: CChar.self), compressed.base.assumingMemoryBound(to: CChar.self),
            Int32(source.count), Int32(source.count - 1))
        // 0: it does not get any smaller.
        if size > 0 { compressed.setCount(Int(size)) }
        let stored = size > 0 ? compressed.bytes : source
        var header = ByteWriter(capacity: BackupFormat.frameHeaderBytes)
        header.append(kind.rawValue)
        header.append(raw: [0, 0, 0])
        header.append(UInt32(source.count))
        header.append(UInt32(stored.count))
        let prefix = header.bytes
        header.append(prefix.withUnsafeBytes { BackupFormat.checksum(index: frames, prefix: $0, stored: stored) })
        try header.bytes.withEngineBytes { bytes throws(EngineError) in try emit(bytes) }
        try emit(stored)
        frames += 1
        contents.truncate(to: 0)
    }

    private func emit(_ bytes: UnsafeRawBufferPointer) throws(EngineError) {
        try sink(bytes)
        counts.streamBytes += UInt64(bytes.count)
    }
}
