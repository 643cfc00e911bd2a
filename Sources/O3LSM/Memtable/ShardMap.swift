/// Which shard holds a key: an immutable table of shards sorted by their first keys. A memtable that
/// splits a shard publishes a new map.
final class ShardMap: @unchecked Sendable {
    // @unchecked: immutable after init.

    /// Sorted by lower bound; the first one's is empty.
    let shards: [Shard]
    /// The same, without reference counting; alive as long as the map.
    let references: UnsafeMutablePointer<Unmanaged<Shard>>
    private let bounds: UnsafeMutablePointer<UnsafeRawBufferPointer>
    private let boundBytes: UnsafeMutableRawPointer

    /// - Parameter shards: sorted, not empty, the first with an empty lower bound.
    init(_ shards: [Shard]) {
        self.shards = shards
        let total = shards.reduce(0) { $0 + $1.lowerBound.count }
        boundBytes = .allocate(byteCount: max(total, 1), alignment: 1)
        bounds = .allocate(capacity: shards.count)
        references = .allocate(capacity: shards.count)
        var offset = 0
        for (index, shard) in shards.enumerated() {
            shard.lowerBound.withUnsafeBytes { source in
                guard let base = source.baseAddress else { return }
                (boundBytes + offset).copyMemory(from: base, byteCount: source.count)
            }
            references[index] = Unmanaged.passUnretained(shard)
            bounds[index] = UnsafeRawBufferPointer(start: boundBytes + offset, count: shard.lowerBound.count)
            offset += shard.lowerBound.count
        }
    }

    deinit {
        bounds.deallocate()
        references.deallocate()
        boundBytes.deallocate()
    }

    /// The position of the shard whose range holds the key.
    @inline(__always)
    func route(_ key: UnsafeRawBufferPointer) -> Int {
        var low = 0
        var high = shards.count
        while high - low > 1 {
            let middle = (low + high) >> 1
            if compareKeys(bounds[middle], key) <= 0 { low = middle } else { high = middle }
        }
        return low
    }

    /// First key after the shard at `position`; nil for the last one.
    func upperBound(_ position: Int) -> [UInt8]? {
        position + 1 < shards.count ? shards[position + 1].lowerBound : nil
    }
}
