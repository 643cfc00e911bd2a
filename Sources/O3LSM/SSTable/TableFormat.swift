/// The fixed parts of a table file: header, footer, block handles. `docs/formats.md` has the pictures.
enum TableFormat {
    /// "O3SST" and three zero bytes, at both ends of a file.
    static let magic: UInt64 = 0x0000_0054_5353_334f
    static let version: UInt32 = 1

    static let headerBytes = 16
    static let footerBytes = 96
    /// Compression byte and checksum behind each block.
    static let blockTrailerBytes = 5

    /// Limits of what a reader accepts, far above what a builder writes.
    static let maximumBlockBytes = 1 << 30

    static func encodeHeader() -> [UInt8] {
        var writer = ByteWriter(capacity: headerBytes)
        writer.append(magic)
        writer.append(version)
        writer.append(maskedChecksum(of: writer.bytes))
        return writer.bytes
    }

    /// Throws `.corruption`, or `.unsupportedFormat` for a later version.
    static func checkHeader(_ bytes: UnsafeRawBufferPointer, file: String) throws(EngineError) {
        var reader = ByteReader(bytes)
        guard let found = reader.read(UInt64.self), let version = reader.read(UInt32.self),
            let checksum = reader.read(UInt32.self)
        else { throw .corruption(file: file, offset: 0, expected: "a table header", found: "\(bytes.count) bytes") }
        try checkMagic(found, file: file, offset: 0)
        try checkChecksum(bytes, headerBytes - 4, checksum, file: file, offset: 0, of: "header")
        guard version == Self.version else {
            throw .unsupportedFormat(file: file, found: version, supported: Self.version)
        }
    }

    fileprivate static func maskedChecksum(of bytes: [UInt8]) -> UInt32 {
        bytes.withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) }
    }

    fileprivate static func checkMagic(_ found: UInt64, file: String, offset: UInt64) throws(EngineError) {
        guard found == magic else {
            throw .corruption(
                file: file,
                offset: offset,
                expected: "the magic of a table, \(hexadecimal(magic))",
                found: hexadecimal(found)
            )
        }
    }

    fileprivate static func checkChecksum(
        _ bytes: UnsafeRawBufferPointer,
        _ count: Int,
        _ stored: UInt32,
        file: String,
        offset: UInt64,
        of what: String
    ) throws(EngineError) {
        let computed = CRC32C.masked(CRC32C.checksum(UnsafeRawBufferPointer(rebasing: bytes.prefix(count))))
        guard computed == stored else {
            throw .corruption(
                file: file,
                offset: offset,
                expected: "\(what) checksum \(hexadecimal(UInt64(stored)))",
                found: hexadecimal(UInt64(computed))
            )
        }
    }
}

/// Where a block lies in its file: its first byte, and its bytes without the trailer. Size 0: no block.
struct BlockHandle: Equatable, Sendable {
    var offset: UInt64
    var size: UInt64

    static let none = BlockHandle(offset: 0, size: 0)
    var isNone: Bool { size == 0 }
    /// The first byte after the block's trailer. Only for a handle that was validated.
    var end: UInt64 { offset + size + UInt64(TableFormat.blockTrailerBytes) }
    /// Bytes on storage, trailer included. Only for a handle that was validated.
    var storedBytes: Int { Int(size) + TableFormat.blockTrailerBytes }

    /// Whether the block lies between the header and `limit`, and is of a size that a reader accepts.
    func isWithin(_ limit: UInt64) -> Bool {
        let trailer = UInt64(TableFormat.blockTrailerBytes)
        return size > 0 && size <= UInt64(TableFormat.maximumBlockBytes)
            && offset >= UInt64(TableFormat.headerBytes) && offset <= limit
            && limit - offset >= size + trailer
    }

    /// Two varints, as values of index entries.
    func encode(into buffer: inout ByteBuffer) {
        buffer.appendVarint(Int(truncatingIfNeeded: offset))
        buffer.appendVarint(Int(truncatingIfNeeded: size))
    }

    /// nil when the bytes are not exactly two varints.
    @inline(__always)
    static func decode(_ bytes: UnsafeRawBufferPointer) -> BlockHandle? {
        var reader = ByteReader(bytes)
        guard let offset = reader.readVarint(), let size = reader.readVarint(), reader.remaining == 0 else {
            return nil
        }
        return BlockHandle(offset: offset, size: size)
    }
}

/// The last bytes of a table: where everything that is not a data block lies.
struct TableFooter: Equatable, Sendable {
    var filter = BlockHandle.none
    var tombstones = BlockHandle.none
    var properties = BlockHandle.none
    var index = BlockHandle.none
    /// 1: the index block names data blocks. 2: it names index blocks that do. 0: no data.
    var indexLevels: UInt32 = 0

    func encode() -> [UInt8] {
        var writer = ByteWriter(capacity: TableFormat.footerBytes)
        for handle in [filter, tombstones, properties, index] {
            writer.append(handle.offset)
            writer.append(handle.size)
        }
        writer.append(indexLevels)
        writer.append(UInt32(0))
        writer.append(UInt64(0))
        writer.append(TableFormat.version)
        writer.append(TableFormat.maskedChecksum(of: writer.bytes))
        writer.append(TableFormat.magic)
        return writer.bytes
    }

    /// `offset` is where the footer begins: every block must end before it.
    static func decode(
        _ bytes: UnsafeRawBufferPointer,
        file: String,
        offset: UInt64
    ) throws(EngineError) -> TableFooter {
        func corrupt(_ expected: String, _ found: String) -> EngineError {
            .corruption(file: file, offset: offset, expected: expected, found: found)
        }
        var reader = ByteReader(bytes)
        var footer = TableFooter()
        func handle(_ reader: inout ByteReader) -> BlockHandle? {
            guard let offset = reader.read(UInt64.self), let size = reader.read(UInt64.self) else { return nil }
            return BlockHandle(offset: offset, size: size)
        }
        guard let filter = handle(&reader), let tombstones = handle(&reader), let properties = handle(&reader),
            let index = handle(&reader), let levels = reader.read(UInt32.self), reader.readBytes(12) != nil,
            let version = reader.read(UInt32.self), let checksum = reader.read(UInt32.self),
            let magic = reader.read(UInt64.self)
        else { throw corrupt("a footer of \(TableFormat.footerBytes) bytes", "\(bytes.count) bytes") }
        try TableFormat.checkMagic(magic, file: file, offset: offset + UInt64(TableFormat.footerBytes - 8))
        try TableFormat.checkChecksum(
            bytes,
            TableFormat.footerBytes - 12,
            checksum,
            file: file,
            offset: offset,
            of: "footer"
        )
        guard version == TableFormat.version else {
            throw .unsupportedFormat(file: file, found: version, supported: TableFormat.version)
        }
        (footer.filter, footer.tombstones, footer.properties, footer.index) = (filter, tombstones, properties, index)
        footer.indexLevels = levels
        for (name, handle, required) in [
            ("filter", filter, false), ("tombstone", tombstones, false), ("properties", properties, true),
            ("index", index, levels > 0),
        ] where required || handle != .none {
            guard handle.isWithin(offset) else {
                throw corrupt("a \(name) block within the file", "offset \(handle.offset), size \(handle.size)")
            }
        }
        guard levels <= 2, (levels == 0) == (index == .none) else {
            throw corrupt("an index of at most 2 levels", "\(levels) levels")
        }
        return footer
    }
}

/// `0x…`, for messages.
func hexadecimal(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
