/// Finds the blocks of a table whose index cannot be read: they lie one after the other, so that the end of each is
/// where the checksum behind it holds. An idea of tools that carve files out of damaged disks.
enum BlockScan {
    /// Bytes without a block in which an end is looked for; far more than a builder makes of one value.
    private static let longestBlock = 64 << 20
    private static let firstWindow = 64 << 10

    /// The block that begins at `offset` and ends before `limit`; nil when no checksum holds.
    static func block(
        at offset: UInt64, before limit: UInt64, in file: any ReadableFile
    ) throws(EngineError) -> BlockHandle? {
        guard offset < limit else { return nil }
        var window = firstWindow
        while true {
            let count = Int(min(limit - offset, UInt64(window)))
            let bytes = try file.bytes(at: offset, count)
            if let size = bytes.withUnsafeBytes({ payloadSize($0) }) {
                return BlockHandle(offset: offset, size: UInt64(size))
            }
            guard bytes.count == count, count == window, window < longestBlock else { return nil }
            window *= 8
        }
    }

    /// Where the first checksum holds that a block may have.
    private static func payloadSize(_ bytes: UnsafeRawBufferPointer) -> Int? {
        var sum: UInt32 = 0
        var size = 0
        while size + TableFormat.blockTrailerBytes <= bytes.count {
            let type = bytes[size]
            if size > 0, BlockCompression(rawValue: type) != nil {
                let stored = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: size + 1, as: UInt32.self))
                let found = CRC32C.masked(withUnsafeBytes(of: type) { CRC32C.checksum($0, seed: sum) })
                if stored == found { return size }
            }
            sum = CRC32C.checksum(UnsafeRawBufferPointer(rebasing: bytes[size...size]), seed: sum)
            size += 1
        }
        return nil
    }
}

extension ReadableFile {
    /// `count` bytes from `offset`; fewer at the end of the file.
    func bytes(at offset: UInt64, _ count: Int) throws(EngineError) -> [UInt8] {
        var failure: EngineError?
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            do throws(EngineError) {
                initialized = try read(at: offset, into: UnsafeMutableRawBufferPointer(buffer))
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }
}
