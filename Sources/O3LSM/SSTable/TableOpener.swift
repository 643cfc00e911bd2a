/// Reads the fixed parts of a table file with as few reads as possible: the header, and a tail that
/// mostly holds all the rest. Confined to one thread; lives as long as `Table.open` or `verify`.
struct TableOpener {
    let file: any ReadableFile
    let footer: TableFooter
    private let tail: [UInt8]
    private let tailOffset: UInt64

    private static let tailBytes: UInt64 = 8 << 10

    /// Checks size, header and footer.
    init(_ file: any ReadableFile) throws(EngineError) {
        let least = UInt64(TableFormat.headerBytes + TableFormat.footerBytes)
        guard file.size >= least else {
            throw .corruption(
                file: file.path,
                offset: 0,
                expected: "a table of at least \(least) bytes",
                found: "\(file.size) bytes"
            )
        }
        let tailOffset = file.size - min(file.size, Self.tailBytes)
        let footerOffset = file.size - UInt64(TableFormat.footerBytes)
        let tail = try Self.read(file, tailOffset, Int(file.size - tailOffset))
        let head =
            tailOffset == 0
            ? Array(tail.prefix(TableFormat.headerBytes)) : try Self.read(file, 0, TableFormat.headerBytes)
        try head.withEngineBytes { (bytes) throws(EngineError) in
            try TableFormat.checkHeader(bytes, file: file.path)
        }
        footer = try Array(tail.suffix(TableFormat.footerBytes)).withEngineBytes { (bytes) throws(EngineError) in
            try TableFooter.decode(bytes, file: file.path, offset: footerOffset)
        }
        (self.file, self.tail, self.tailOffset) = (file, tail, tailOffset)
    }

    func properties() throws(EngineError) -> TableProperties {
        let handle = footer.properties
        let properties = try block(handle, .raw).withBytes { (bytes) throws(EngineError) in
            try TableProperties.decode(bytes, file: file.path, offset: handle.offset)
        }
        guard properties.dataEnd >= UInt64(TableFormat.headerBytes), properties.dataEnd <= handle.offset else {
            throw .corruption(
                file: file.path,
                offset: handle.offset,
                expected: "data that ends before the properties",
                found: "data up to \(properties.dataEnd)"
            )
        }
        return properties
    }

    func tombstones() throws(EngineError) -> [RangeTombstone] {
        guard !footer.tombstones.isNone else { return [] }
        let block = try block(footer.tombstones, .entries)
        var result: [RangeTombstone] = []
        var cursor = BlockCursor()
        cursor.reset(block)
        try cursor.seekToFirst()
        while cursor.isValid {
            guard cursor.trailer.kind == .rangeDelete, compareKeys(cursor.userKey, cursor.value) < 0 else {
                throw block.damaged(at: 0, "range tombstones only")
            }
            result.append(
                RangeTombstone(
                    begin: [UInt8](cursor.userKey),
                    end: [UInt8](cursor.value),
                    sequence: cursor.trailer.sequence
                )
            )
            try cursor.next()
        }
        return result
    }

    /// A block of the footer, from the tail where it lies in it.
    func block(_ handle: BlockHandle, _ kind: Block.Kind) throws(EngineError) -> Block {
        guard handle.offset >= tailOffset else { return try BlockDecoder.read(handle, kind: kind, from: file) }
        let start = Int(handle.offset - tailOffset)
        return try tail.withEngineBytes { (bytes) throws(EngineError) in
            try BlockDecoder.decode(
                UnsafeRawBufferPointer(rebasing: bytes[start..<start + handle.storedBytes]),
                handle,
                kind: kind,
                file: file.path
            )
        }
    }

    private static func read(
        _ file: any ReadableFile,
        _ offset: UInt64,
        _ count: Int
    ) throws(EngineError) -> [UInt8] {
        var failure: EngineError?
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            do throws(EngineError) {
                initialized = try file.read(at: offset, into: UnsafeMutableRawBufferPointer(buffer))
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        guard bytes.count == count else {
            throw .corruption(
                file: file.path,
                offset: offset,
                expected: "\(count) bytes",
                found: "the end after \(bytes.count)"
            )
        }
        return bytes
    }
}
