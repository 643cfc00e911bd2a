/// Builds the contents of one block of entries. Not thread-safe; reused from block to block.
///
/// An entry holds the length of the user-key prefix it shares with the entry before it, the length of
/// the rest, the length of the value, the rest of the user key, eight bytes of trailer, the value.
/// Every `restartInterval` entries, or earlier when they are large, the prefix is empty: a restart
/// point, where a search can begin.
/// The offsets of the restart points, and their count, end the block (LevelDB's layout, with the
/// trailer outside of the shared prefix, so that the search need not rebuild keys).
struct BlockBuilder: ~Copyable {
    private var buffer: ByteBuffer
    private var restarts: [UInt32] = []
    private var sinceRestart = 0
    private var lastRestart = 0
    private let restartInterval: Int
    private(set) var entryCount = 0
    /// Between entries larger than this, a search would walk memory for a prefix of a few bytes.
    private static let restartBytes = 1024

    init(restartInterval: Int, capacity: Int) {
        self.restartInterval = max(1, restartInterval)
        buffer = ByteBuffer(capacity: capacity)
    }

    var isEmpty: Bool { entryCount == 0 }

    /// Bytes of the block if it were finished now.
    var size: Int { buffer.count + restarts.count * 4 + 4 }

    /// Appends an entry that sorts after all others of the block. `shared`: bytes of prefix that the
    /// user key has in common with the one before it.
    mutating func add(
        _ userKey: UnsafeRawBufferPointer,
        _ trailer: Trailer,
        _ value: UnsafeRawBufferPointer,
        shared: Int
    ) {
        var shared = shared
        if sinceRestart == 0 || sinceRestart >= restartInterval || buffer.count - lastRestart >= Self.restartBytes {
            lastRestart = buffer.count
            restarts.append(UInt32(lastRestart))
            sinceRestart = 0
            shared = 0
        }
        buffer.appendVarint(shared)
        buffer.appendVarint(userKey.count - shared)
        buffer.appendVarint(value.count)
        buffer.append(UnsafeRawBufferPointer(rebasing: userKey.dropFirst(shared)))
        buffer.append(trailer.rawValue)
        buffer.append(value)
        sinceRestart += 1
        entryCount += 1
    }

    /// Appends the restart points and hands the contents to `body`; then the builder is empty.
    mutating func finish<Result>(
        _ body: (UnsafeRawBufferPointer) throws(EngineError) -> Result
    ) throws(EngineError) -> Result {
        for restart in restarts { buffer.append(restart) }
        buffer.append(UInt32(restarts.count))
        defer { removeAll() }
        return try body(buffer.bytes)
    }

    private mutating func removeAll() {
        buffer.truncate(to: 0)
        restarts.removeAll(keepingCapacity: true)
        sinceRestart = 0
        entryCount = 0
    }
}
