import Glibc

/// Owned memory that grows as bytes are appended and keeps its room when it is emptied: for building
/// blocks and holding the current key of a cursor without an allocation an entry. Not thread-safe.
struct ByteBuffer: ~Copyable {
    private(set) var base: UnsafeMutableRawPointer
    private(set) var count = 0
    private var capacity: Int

    init(capacity: Int = 64) {
        self.capacity = max(capacity, 16)
        base = .allocate(byteCount: self.capacity, alignment: 16)
    }

    deinit { base.deallocate() }

    /// Valid until the buffer is changed.
    var bytes: UnsafeRawBufferPointer {
        @inline(__always) borrowing get { UnsafeRawBufferPointer(start: base, count: count) }
    }

    @inline(__always)
    mutating func append(_ source: UnsafeRawBufferPointer) {
        guard let start = source.baseAddress else { return }
        reserve(source.count)
        memcpy(base + count, start, source.count)
        count += source.count
    }

    @inline(__always)
    mutating func append<T: FixedWidthInteger>(_ value: T) {
        reserve(MemoryLayout<T>.size)
        base.storeBytes(of: value.littleEndian, toByteOffset: count, as: T.self)
        count += MemoryLayout<T>.size
    }

    /// LEB128, as `ByteWriter.appendVarint`.
    @inline(__always)
    mutating func appendVarint(_ value: Int) {
        reserve(10)
        var rest = UInt64(truncatingIfNeeded: value)
        while rest >= 0x80 {
            base.storeBytes(of: UInt8(truncatingIfNeeded: rest) | 0x80, toByteOffset: count, as: UInt8.self)
            count += 1
            rest >>= 7
        }
        base.storeBytes(of: UInt8(truncatingIfNeeded: rest), toByteOffset: count, as: UInt8.self)
        count += 1
    }

    /// Keeps the first `length` bytes. `length` is at most `count`.
    @inline(__always)
    mutating func truncate(to length: Int) { count = min(length, count) }

    /// Makes room for `additional` bytes.
    @inline(__always)
    mutating func reserve(_ additional: Int) {
        if count + additional > capacity { grow(count + additional) }
    }

    /// Declares the first `length` bytes, which the caller has written through `base` after `reserve`, to be content.
    mutating func setCount(_ length: Int) {
        precondition(length <= capacity, "the caller has reserved the room")
        count = length
    }

    @inline(never)
    private mutating func grow(_ wanted: Int) {
        let newCapacity = max(wanted, capacity * 2)
        let newBase = UnsafeMutableRawPointer.allocate(byteCount: newCapacity, alignment: 16)
        memcpy(newBase, base, count)
        base.deallocate()
        base = newBase
        capacity = newCapacity
    }
}

/// How many leading bytes of the two, within the first `limit`, are the same. Both hold `limit` bytes.
@inline(__always)
func commonPrefixLength(_ left: UnsafeRawPointer, _ right: UnsafeRawPointer, _ limit: Int) -> Int {
    var index = 0
    while limit - index >= 8 {
        let difference =
            left.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            ^ right.loadUnaligned(fromByteOffset: index, as: UInt64.self)
        if difference != 0 { return index + UInt64(littleEndian: difference).trailingZeroBitCount >> 3 }
        index += 8
    }
    while index < limit,
        left.load(fromByteOffset: index, as: UInt8.self) == right.load(fromByteOffset: index, as: UInt8.self)
    {
        index += 1
    }
    return index
}
