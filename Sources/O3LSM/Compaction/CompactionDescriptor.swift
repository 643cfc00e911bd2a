/// All that a stateless executor needs to run a compaction, or the part of one in `begin ..< end`.
///
/// It reaches workers through shared memory, so that decoding trusts nothing: whatever decodes is safe
/// to run, though it may name tables that are not there. Little-endian, varints, a masked CRC-32C at the
/// end.
struct CompactionDescriptor: Sendable {
    /// Tables by level; newest first in L0, else sorted and disjoint.
    var inputs: [Compaction.Input]
    var outputLevel: Int
    /// The user keys to work on; nil: from the first, to the last. `end` is exclusive.
    var begin: [UInt8]?
    var end: [UInt8]?
    /// Sequences that readers still hold, ascending.
    var snapshots: [SequenceNumber]
    /// As in `Compaction`: sorted and disjoint.
    var deeperRanges: [KeyRange]
    /// Ascending keys at which outputs should be cut, so that none overlaps too much of the next level.
    var cutKeys: [[UInt8]]
    var tableOptions: TableOptions
    /// Bytes after which an output is cut at the next user key.
    var outputFileSize: UInt64
    /// Outputs are numbered from here on; the last of them takes all that is left.
    var firstOutputNumber: UInt64
    var outputNumberCount: Int
    /// As in `Compaction`.
    var tombstoneSources: [FileMetadata] = []

    static let maximumOutputs = 1 << 16
    private static let formatVersion: UInt8 = 3
    private static let maximumKeyBytes = 16_384

    /// Whether its outputs may have this number.
    func isOutput(_ number: UInt64) -> Bool {
        number >= firstOutputNumber && number - firstOutputNumber < UInt64(outputNumberCount)
    }

    func encode() -> [UInt8] {
        var writer = ByteWriter(capacity: 1024)
        writer.append(Self.formatVersion)
        writer.append(UInt8(outputLevel))
        writer.appendVarint(firstOutputNumber)
        writer.appendVarint(UInt64(outputNumberCount))
        writer.appendVarint(outputFileSize)
        writer.appendVarint(UInt64(tableOptions.blockSize))
        writer.appendVarint(UInt64(tableOptions.indexBlockSize))
        writer.append(UInt8(tableOptions.restartInterval))
        writer.append(UInt8(tableOptions.bloomBitsPerKey))
        writer.append(UInt8(tableOptions.compression == .lz4 ? 1 : 0))
        for bound in [begin, end] {
            writer.append(UInt8(bound == nil ? 0 : 1))
            if let bound { writer.append(prefixed: bound) }
        }
        writer.appendVarint(UInt64(snapshots.count))
        for snapshot in snapshots { writer.appendVarint(snapshot) }
        writer.appendVarint(UInt64(deeperRanges.count))
        for range in deeperRanges {
            writer.append(prefixed: range.begin)
            writer.append(prefixed: range.end)
            writer.append(UInt8(range.isEndInclusive ? 1 : 0))
        }
        writer.appendVarint(UInt64(cutKeys.count))
        for key in cutKeys { writer.append(prefixed: key) }
        writer.appendVarint(UInt64(inputs.count))
        for input in inputs {
            writer.append(UInt8(input.level))
            writer.appendVarint(UInt64(input.files.count))
            for file in input.files { file.encode(into: &writer) }
        }
        writer.appendVarint(UInt64(tombstoneSources.count))
        for file in tombstoneSources { file.encode(into: &writer) }
        writer.appendChecksum()
        return writer.bytes
    }

    /// - Throws: `.corruption` that names `source` when the bytes are not a descriptor that is safe to run.
    static func decode(_ bytes: UnsafeRawBufferPointer, source: String) throws(EngineError) -> CompactionDescriptor {
        guard let body = checkedBody(bytes) else {
            throw .corruption(
                file: source, offset: 0, expected: "a compaction descriptor with its checksum",
                found: "\(bytes.count) other bytes")
        }
        var reader = ByteReader(body)
        guard let result = read(&reader), reader.remaining == 0 else {
            throw .corruption(
                file: source, offset: UInt64(reader.offset), expected: "a field of a compaction descriptor",
                found: "other bytes")
        }
        return result
    }

    private static func read(_ reader: inout ByteReader) -> CompactionDescriptor? {
        guard reader.read(UInt8.self) == formatVersion,
            let outputLevel = reader.read(UInt8.self), outputLevel < Compaction.levelCount,
            let firstNumber = reader.readVarint(), firstNumber > 0, firstNumber < 1 << 62,
            let numberCount = reader.readVarint(), (1...UInt64(maximumOutputs)).contains(numberCount),
            let fileSize = reader.readVarint(), fileSize > 0,
            let options = readOptions(&reader),
            let begin = readBound(&reader), let end = readBound(&reader),
            let snapshots = readList(&reader, { $0.readVarint() }),
            isAscending(snapshots, { $0 < $1 }), snapshots.last ?? 0 <= maximumSequenceNumber,
            let deeper = readList(&reader, readRange), isAscending(deeper, { $0.isBefore($1) }),
            let cutKeys = readList(&reader, readKey), isAscending(cutKeys, { compareKeys($0, $1) < 0 }),
            let inputs = readList(&reader, readInput), !inputs.isEmpty,
            let sources = readList(&reader, { FileMetadata.decode(&$0) })
        else { return nil }
        for input in inputs where input.level > 0 {
            guard isAscending(input.files, { KeyRange($0).isBefore(KeyRange($1)) }) else { return nil }
        }
        // An output must never truncate an input.
        let numbers = firstNumber..<firstNumber + numberCount
        guard !(inputs.flatMap(\.files) + sources).contains(where: { numbers.contains($0.number) }) else { return nil }
        return CompactionDescriptor(
            inputs: inputs, outputLevel: Int(outputLevel), begin: begin, end: end, snapshots: snapshots,
            deeperRanges: deeper, cutKeys: cutKeys, tableOptions: options, outputFileSize: fileSize,
            firstOutputNumber: firstNumber, outputNumberCount: Int(numberCount),
            tombstoneSources: sources)
    }

    private static func readOptions(_ reader: inout ByteReader) -> TableOptions? {
        guard let blockSize = reader.readVarint(), (1024...(1 << 20)).contains(blockSize),
            let indexBlockSize = reader.readVarint(), (1024...(1 << 24)).contains(indexBlockSize),
            let restartInterval = reader.read(UInt8.self), restartInterval > 0,
            let bloomBits = reader.read(UInt8.self), bloomBits <= 32,
            let compression = reader.read(UInt8.self), compression <= 1
        else { return nil }
        var options = TableOptions()
        options.blockSize = Int(blockSize)
        options.indexBlockSize = Int(indexBlockSize)
        options.restartInterval = Int(restartInterval)
        options.bloomBitsPerKey = Int(bloomBits)
        options.compression = compression == 1 ? .lz4 : .none
        return options
    }

    /// The outer nil: malformed; the inner one: no bound.
    private static func readBound(_ reader: inout ByteReader) -> [UInt8]?? {
        switch reader.read(UInt8.self) {
        case 0: return .some(nil)
        case 1: return readKey(&reader).map { .some($0) }
        default: return nil
        }
    }

    private static func readKey(_ reader: inout ByteReader) -> [UInt8]? {
        guard let key = reader.readPrefixed(), key.count <= maximumKeyBytes else { return nil }
        return key
    }

    private static func readRange(_ reader: inout ByteReader) -> KeyRange? {
        guard let begin = readKey(&reader), let end = readKey(&reader),
            let inclusive = reader.read(UInt8.self), inclusive <= 1,
            compareKeys(begin, end) < (inclusive == 1 ? 1 : 0)
        else { return nil }
        return KeyRange(begin: begin, end: end, isEndInclusive: inclusive == 1)
    }

    private static func readInput(_ reader: inout ByteReader) -> Compaction.Input? {
        guard let level = reader.read(UInt8.self), level < Compaction.levelCount,
            let files = readList(&reader, { FileMetadata.decode(&$0) })
        else { return nil }
        return Compaction.Input(level: Int(level), files: files)
    }

    private static func isAscending<Element>(_ list: [Element], _ isBefore: (Element, Element) -> Bool) -> Bool {
        zip(list, list.dropFirst()).allSatisfy(isBefore)
    }
}

/// A varint count, then as many elements; each takes a byte at least, so that a forged count costs nothing.
func readList<Element>(_ reader: inout ByteReader, _ element: (inout ByteReader) -> Element?) -> [Element]? {
    guard let count = reader.readVarint(), count <= UInt64(reader.remaining) else { return nil }
    var result: [Element] = []
    for _ in 0..<count {
        guard let next = element(&reader) else { return nil }
        result.append(next)
    }
    return result
}

/// What lies before the masked CRC-32C at the end of `bytes`; nil when the sum is wrong.
func checkedBody(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
    guard bytes.count >= 4 else { return nil }
    let body = UnsafeRawBufferPointer(rebasing: bytes.dropLast(4))
    let stored = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: bytes.count - 4, as: UInt32.self))
    return stored == CRC32C.masked(CRC32C.checksum(body)) ? body : nil
}

extension ByteWriter {
    /// Appends the masked CRC-32C of all bytes so far.
    mutating func appendChecksum() {
        append(bytes.withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) })
    }
}
