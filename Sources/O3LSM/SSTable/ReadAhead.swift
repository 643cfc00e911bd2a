/// Reads several adjacent blocks at once for a cursor that goes through a file in order.
///
/// Off until reads turn out sequential (or from the start when told a size); then each read is twice
/// as long as the one before, up to 1 MiB. Works in both directions. Not thread-safe.
struct ReadAhead: ~Copyable {
    private var buffer = ByteBuffer(capacity: 16)
    /// Where the buffered bytes begin in the file.
    private var bufferOffset: UInt64 = 0
    private let initial: Int
    /// Bytes of the next read; 0: off.
    private var window: Int
    private var lastStart: UInt64 = .max
    private var lastEnd: UInt64 = .max

    static let firstWindow = 16 << 10
    static let largestWindow = 1 << 20
    /// From this size on, the system is told of the next window while this one is used.
    private static let prefetchWindow = 128 << 10

    init(initial: Int) {
        self.initial = max(0, min(initial, Self.largestWindow))
        window = self.initial
    }

    /// Notes a visit to the block, also when it did not need storage.
    mutating func visit(_ handle: BlockHandle) {
        lastStart = handle.offset
        lastEnd = handle.end
    }

    /// The stored bytes of the block (trailer included), valid until the next call; nil when the block
    /// is better read alone. The data blocks of the file lie in `TableFormat.headerBytes ..< dataEnd`.
    mutating func stored(
        _ handle: BlockHandle,
        in file: any ReadableFile,
        dataEnd: UInt64
    ) throws(EngineError) -> UnsafeRawBufferPointer? {
        if let slice = slice(handle) { return slice }
        let isForward = handle.offset == lastEnd
        let isBackward = handle.end == lastStart
        if isForward || isBackward {
            window = window == 0 ? Self.firstWindow : min(window * 2, Self.largestWindow)
        } else {
            window = initial
        }
        guard window > handle.storedBytes else { return nil }
        var start = handle.offset
        var end = min(dataEnd, start + UInt64(window))
        if isBackward {
            end = handle.end
            start = end - min(end - UInt64(TableFormat.headerBytes), UInt64(window))
        }
        buffer.truncate(to: 0)
        buffer.reserve(Int(end - start))
        let count = try file.read(
            at: start,
            into: UnsafeMutableRawBufferPointer(start: buffer.base, count: Int(end - start))
        )
        buffer.setCount(count)
        bufferOffset = start
        if !isBackward, window >= Self.prefetchWindow { file.prefetch(at: end, length: window) }
        return slice(handle)
    }

    private borrowing func slice(_ handle: BlockHandle) -> UnsafeRawBufferPointer? {
        guard handle.offset >= bufferOffset, handle.end <= bufferOffset + UInt64(buffer.count) else { return nil }
        let start = Int(handle.offset - bufferOffset)
        return UnsafeRawBufferPointer(rebasing: buffer.bytes[start..<start + handle.storedBytes])
    }
}
