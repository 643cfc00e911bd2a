import CLZ4
import CSystem
import Glibc

/// How a block's contents are stored. The raw values are part of the format.
enum BlockCompression: UInt8 {
    case none = 0
    /// A varint of the decompressed size, then one LZ4 block.
    case lz4 = 1
}

/// Turns contents into stored blocks: compresses, and adds the trailer. Not thread-safe.
struct BlockEncoder: ~Copyable {
    private var compressed = ByteBuffer(capacity: 32 << 10)
    private var trailer = ByteBuffer(capacity: TableFormat.blockTrailerBytes)
    private let compression: Compression

    init(_ compression: Compression) { self.compression = compression }

    /// Appends the block to `file`, whose size so far is `offset`. LZ4 is kept only where it saves an
    /// eighth: below that, reading raw costs less than decompressing.
    mutating func write(
        _ contents: UnsafeRawBufferPointer,
        compress: Bool,
        to file: any WritableFile,
        at offset: UInt64
    ) throws(EngineError) -> BlockHandle {
        var payload = contents
        var type = BlockCompression.none
        if compress, compression == .lz4, let packed = pack(contents) {
            payload = packed
            type = .lz4
        }
        trailer.truncate(to: 0)
        trailer.append(type.rawValue)
        trailer.append(blockChecksum(payload, type.rawValue))
        try file.append(payload)
        try file.append(trailer.bytes)
        return BlockHandle(offset: offset, size: UInt64(payload.count))
    }

    private mutating func pack(_ contents: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard contents.count >= 64, contents.count < Int(LZ4_MAX_INPUT_SIZE),
            let source = contents.baseAddress?.assumingMemoryBound(to: CChar.self)
        else { return nil }
        // Room for less than the contents: LZ4 gives up early on what does not compress.
        let limit = contents.count - contents.count / 8
        compressed.truncate(to: 0)
        compressed.appendVarint(contents.count)
        let prefix = compressed.count
        compressed.reserve(limit)
        let target = (compressed.base + prefix).assumingMemoryBound(to: CChar.self)
        let size = LZ4_compress_default(source, target, Int32(contents.count), Int32(limit - prefix))
        guard size > 0 else { return nil }
        compressed.setCount(prefix + Int(size))
        return compressed.bytes
    }
}

/// The stored checksum of a block: contents as stored, then the compression byte.
@inline(__always)
func blockChecksum(_ payload: UnsafeRawBufferPointer, _ type: UInt8) -> UInt32 {
    let sum = CRC32C.checksum(payload)
    return CRC32C.masked(withUnsafeBytes(of: type) { CRC32C.checksum($0, seed: sum) })
}

/// Reads stored blocks: checks the trailer, decompresses. Every failure is `.corruption` at the block.
enum BlockDecoder {
    /// Reads one block of a file. `handle` was checked to lie within the file.
    ///
    /// - Parameter expectsRaw: whether the block is likely not compressed: its bytes are then read to where they stay.
    ///   What is unpacked leaves the stored bytes behind, and those need no memory of their own.
    static func read(
        _ handle: BlockHandle,
        kind: Block.Kind,
        expectsRaw: Bool,
        from file: any ReadableFile
    ) throws(EngineError) -> (block: Block, compression: BlockCompression) {
        let stored = handle.storedBytes
        let scratch = expectsRaw || stored > Int(O3_SCRATCH_BYTES) ? nil : o3_scratch()
        let memory = scratch ?? UnsafeMutableRawPointer.allocate(byteCount: stored, alignment: Block.alignment(kind))
        var isOwned = scratch == nil
        defer { if isOwned { memory.deallocate() } }
        let count = try file.read(
            at: handle.offset,
            into: UnsafeMutableRawBufferPointer(start: memory, count: stored)
        )
        guard count == stored else {
            throw .corruption(
                file: file.path,
                offset: handle.offset,
                expected: "a block of \(stored) bytes",
                found: "the end of the file after \(count)"
            )
        }
        let bytes = UnsafeRawBufferPointer(start: memory, count: stored)
        let payload = UnsafeRawBufferPointer(rebasing: bytes.prefix(Int(handle.size)))
        let compression = try checkTrailer(bytes, handle, file.path)
        switch compression {
        case .none where isOwned:
            isOwned = false
            let block = try Block(
                adopting: memory,
                count: payload.count,
                allocated: stored,
                kind: kind,
                file: file.path,
                fileOffset: handle.offset
            )
            return (block, compression)
        case .none:
            return (try copy(payload, handle, kind, file.path), compression)
        case .lz4:
            return (try unpack(payload, handle, kind, file.path), compression)
        }
    }

    /// The same of a block that is expected to be as its kind mostly is: entries compressed, others not.
    static func read(_ handle: BlockHandle, kind: Block.Kind, from file: any ReadableFile) throws(EngineError) -> Block
    {
        try read(handle, kind: kind, expectsRaw: kind == .raw, from: file).block
    }

    /// Makes a block of its own from stored bytes (trailer included) that lie in a larger buffer.
    static func decode(
        _ stored: UnsafeRawBufferPointer,
        _ handle: BlockHandle,
        kind: Block.Kind,
        file: String
    ) throws(EngineError) -> Block {
        let type = try checkTrailer(stored, handle, file)
        let payload = UnsafeRawBufferPointer(rebasing: stored.prefix(Int(handle.size)))
        return type == .none ? try copy(payload, handle, kind, file) : try unpack(payload, handle, kind, file)
    }

    private static func copy(
        _ payload: UnsafeRawBufferPointer,
        _ handle: BlockHandle,
        _ kind: Block.Kind,
        _ file: String
    ) throws(EngineError) -> Block {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: payload.count, alignment: Block.alignment(kind))
        if let source = payload.baseAddress { memcpy(memory, source, payload.count) }
        return try Block(
            adopting: memory,
            count: payload.count,
            allocated: payload.count,
            kind: kind,
            file: file,
            fileOffset: handle.offset
        )
    }

    /// `stored` holds exactly `handle.storedBytes`.
    private static func checkTrailer(
        _ stored: UnsafeRawBufferPointer,
        _ handle: BlockHandle,
        _ file: String
    ) throws(EngineError) -> BlockCompression {
        let size = Int(handle.size)
        let type = stored[size]
        let expected = UInt32(littleEndian: stored.loadUnaligned(fromByteOffset: size + 1, as: UInt32.self))
        let found = blockChecksum(UnsafeRawBufferPointer(rebasing: stored.prefix(size)), type)
        guard expected == found else {
            throw .corruption(
                file: file,
                offset: handle.offset,
                expected: "block checksum \(hexadecimal(UInt64(expected)))",
                found: hexadecimal(UInt64(found))
            )
        }
        guard let compression = BlockCompression(rawValue: type) else {
            throw .corruption(
                file: file,
                offset: handle.offset,
                expected: "a known compression",
                found: "compression \(type)"
            )
        }
        return compression
    }

    private static func unpack(
        _ payload: UnsafeRawBufferPointer,
        _ handle: BlockHandle,
        _ kind: Block.Kind,
        _ file: String
    ) throws(EngineError) -> Block {
        var reader = ByteReader(payload)
        // LZ4 expands by less than 255; what claims more is not worth allocating for.
        guard let size = reader.readVarint(), size > 0, size <= UInt64(TableFormat.maximumBlockBytes),
            size <= UInt64(payload.count) * 255, let source = payload.baseAddress
        else {
            throw .corruption(
                file: file,
                offset: handle.offset,
                expected: "the decompressed size of an LZ4 block",
                found: "a size that its \(payload.count) bytes cannot have"
            )
        }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: Int(size), alignment: Block.alignment(kind))
        let count = LZ4_decompress_safe(
            (source + reader.offset).assumingMemoryBound(to: CChar.self),
            memory.assumingMemoryBound(to: CChar.self),
            Int32(payload.count - reader.offset),
            Int32(size)
        )
        guard count == Int32(size) else {
            memory.deallocate()
            throw .corruption(
                file: file,
                offset: handle.offset,
                expected: "an LZ4 block of \(size) bytes",
                found: count < 0 ? "malformed LZ4" : "one of \(count) bytes"
            )
        }
        return try Block(
            adopting: memory,
            count: Int(size),
            allocated: Int(size),
            kind: kind,
            file: file,
            fileOffset: handle.offset
        )
    }
}
