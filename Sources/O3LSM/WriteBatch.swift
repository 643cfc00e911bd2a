import Glibc

/// A set of operations that is applied atomically: after any crash it is there whole or not at all.
///
/// Keys and values are copied into the batch, except for `put(_:referencing:)`, whose value is copied
/// once, by `Database.write`, straight into disaggregated memory. Later operations win over earlier
/// ones on the same key. A batch belongs to one thread at a time and may be reused after `clear()`.
public final class WriteBatch {
    struct Operation {
        var kind: EntryKind
        var keyOffset: Int
        var keyCount: Int
        /// Where the value lies outside the batch; nil when it lies in it at `valueOffset`.
        var referencedValue: UnsafeRawPointer?
        var valueOffset: Int
        var valueCount: Int
    }

    /// Where `WritePath` has put an operation's entry.
    struct Placement {
        var shard: Unmanaged<Shard>
        var offset: UInt32
        var height: UInt8
    }

    private(set) var operations: [Operation] = []
    /// Scratch of the write path, one for each operation while the batch is being written.
    var placements: [Placement] = []
    var splice = Splice()
    private var bytes: UnsafeMutableRawPointer
    private var capacity: Int
    private var used = 0

    public init(capacity: Int = 256) {
        self.capacity = max(capacity, 64)
        bytes = .allocate(byteCount: self.capacity, alignment: 8)
    }

    deinit { bytes.deallocate() }

    public var count: Int { operations.count }
    public var isEmpty: Bool { operations.isEmpty }

    public func put(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        let keyOffset = append(key)
        let valueOffset = append(value)
        operations.append(
            Operation(
                kind: .put, keyOffset: keyOffset, keyCount: key.count,
                referencedValue: nil, valueOffset: valueOffset, valueCount: value.count))
    }

    /// As `put`, without copying the value into the batch: its memory must stay valid and unchanged
    /// until `Database.write` has returned.
    public func put(_ key: UnsafeRawBufferPointer, referencing value: UnsafeRawBufferPointer) {
        guard let base = value.baseAddress else { return put(key, value) }
        let keyOffset = append(key)
        operations.append(
            Operation(
                kind: .put, keyOffset: keyOffset, keyCount: key.count,
                referencedValue: base, valueOffset: 0, valueCount: value.count))
    }

    public func delete(_ key: UnsafeRawBufferPointer) {
        let keyOffset = append(key)
        operations.append(
            Operation(
                kind: .delete, keyOffset: keyOffset, keyCount: key.count,
                referencedValue: nil, valueOffset: used, valueCount: 0))
    }

    /// Deletes every key in `begin ..< end`; a range that is empty or reversed deletes nothing.
    public func deleteRange(_ begin: UnsafeRawBufferPointer, _ end: UnsafeRawBufferPointer) {
        guard compareKeys(begin, end) < 0 else { return }
        let keyOffset = append(begin)
        let valueOffset = append(end)
        operations.append(
            Operation(
                kind: .rangeDelete, keyOffset: keyOffset, keyCount: begin.count,
                referencedValue: nil, valueOffset: valueOffset, valueCount: end.count))
    }

    public func put(_ key: [UInt8], _ value: [UInt8]) {
        key.withUnsafeBytes { k in value.withUnsafeBytes { v in put(k, v) } }
    }
    public func delete(_ key: [UInt8]) { key.withUnsafeBytes { delete($0) } }
    public func deleteRange(_ begin: [UInt8], _ end: [UInt8]) {
        begin.withUnsafeBytes { b in end.withUnsafeBytes { e in deleteRange(b, e) } }
    }

    /// Empties the batch and keeps its memory.
    public func clear() {
        operations.removeAll(keepingCapacity: true)
        used = 0
    }

    /// Valid until the batch is changed.
    @inline(__always)
    func key(of operation: Operation) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: bytes + operation.keyOffset, count: operation.keyCount)
    }
    @inline(__always)
    func value(of operation: Operation) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(
            start: operation.referencedValue ?? UnsafeRawPointer(bytes + operation.valueOffset),
            count: operation.valueCount)
    }

    private func append(_ source: UnsafeRawBufferPointer) -> Int {
        let offset = used
        if used + source.count > capacity { grow(toHold: used + source.count) }
        if let base = source.baseAddress { memcpy(bytes + offset, base, source.count) }
        used += source.count
        return offset
    }

    private func grow(toHold wanted: Int) {
        let newCapacity = max(wanted, capacity * 2)
        let newBytes = UnsafeMutableRawPointer.allocate(byteCount: newCapacity, alignment: 8)
        memcpy(newBytes, bytes, used)
        bytes.deallocate()
        bytes = newBytes
        capacity = newCapacity
    }
}
