/// What of a database's options shapes its tables.
struct TableOptions: Sendable {
    /// Uncompressed bytes of a data block.
    var blockSize = 4 << 10
    var compression = Compression.lz4
    /// 0: no filter.
    var bloomBitsPerKey = 10
    /// Entries of a data block from one full key to the next.
    var restartInterval = 16
    /// Uncompressed bytes of an index block; a larger index gets a second level.
    var indexBlockSize = 128 << 10

    init() {}

    init(_ options: Options) {
        blockSize = options.blockSize
        compression = options.compression
        bloomBitsPerKey = options.bloomBitsPerKey
    }
}
