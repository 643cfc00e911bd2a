/// Collects one entry a data block: a separator key, and where the block lies.
///
/// A separator is at or after every entry of its block and before every entry of the next one. An
/// index that outgrows one block becomes two levels: blocks of entries, and a block that names them.
/// Not thread-safe.
struct IndexBuilder: ~Copyable {
    private var current: BlockBuilder
    private let blockSize: Int
    /// Finished blocks of the lower level, each with its last separator. Kept until the data is
    /// complete, so that data blocks lie in one piece.
    private var finished: [(separator: InternalKey, contents: [UInt8])] = []
    private var finishedBytes = 0
    private var lastSeparator = InternalKey(userKey: [], trailer: .last)
    private var handle = ByteBuffer(capacity: 32)

    init(blockSize: Int) {
        self.blockSize = blockSize
        // Full keys, so that a search is binary all the way; compression takes the redundancy out.
        current = BlockBuilder(restartInterval: 1, capacity: 4096)
    }

    /// Bytes of the index so far.
    var size: Int { finishedBytes + current.size }

    mutating func add(_ separator: InternalKey, _ block: BlockHandle) throws(EngineError) {
        handle.truncate(to: 0)
        block.encode(into: &handle)
        append(separator.userKey, separator.trailer)
        lastSeparator = separator
        if current.size >= blockSize { try finishBlock() }
    }

    private mutating func append(_ userKey: [UInt8], _ trailer: Trailer) {
        userKey.withUnsafeBytes { current.add($0, trailer, handle.bytes, shared: 0) }
    }

    private mutating func finishBlock() throws(EngineError) {
        let contents = try current.finish { (bytes) throws(EngineError) in [UInt8](bytes) }
        finishedBytes += contents.count
        finished.append((lastSeparator, contents))
    }

    /// Hands each block to `write`, the top one last. Answers its handle and the number of levels.
    mutating func finish(
        _ write: ([UInt8]) throws(EngineError) -> BlockHandle
    ) throws(EngineError) -> (top: BlockHandle, levels: UInt32) {
        if !current.isEmpty { try finishBlock() }
        guard let only = finished.first else { return (.none, 0) }
        if finished.count == 1 { return (try write(only.contents), 1) }
        for block in finished {
            let place = try write(block.contents)
            handle.truncate(to: 0)
            place.encode(into: &handle)
            append(block.separator.userKey, block.separator.trailer)
        }
        let top = try current.finish { (bytes) throws(EngineError) in [UInt8](bytes) }
        return (try write(top), 2)
    }
}
