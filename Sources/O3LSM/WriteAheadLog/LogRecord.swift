import Glibc

/// The payload of one write-ahead-log record: entries with consecutive sequence numbers, ending with the
/// last entry of a batch.
///
/// ```
/// u64 first sequence   u32 number of entries
/// each entry: u8 kind (bit 7: last of its batch)  u16 key length  u32 value length  key  value
/// ```
struct LogRecordBuilder: ~Copyable {
    private var storage: UnsafeMutableRawPointer
    private var capacity: Int
    /// Bytes of the payload so far.
    private(set) var count = LogRecordBuilder.headerBytes
    private(set) var entries: UInt32 = 0
    private(set) var firstSequence: SequenceNumber = 0
    private(set) var lastSequence: SequenceNumber = 0
    /// Of the entries; there must be some.
    var sequences: ClosedRange<SequenceNumber> { firstSequence...lastSequence }

    static let headerBytes = 12
    static let entryHeaderBytes = 7

    init(capacity: Int = 1 << 20) {
        self.capacity = capacity
        storage = .allocate(byteCount: capacity, alignment: 8)
    }

    deinit { storage.deallocate() }

    /// The finished payload; valid until the builder is changed.
    var payload: UnsafeRawBufferPointer {
        storage.storeBytes(of: firstSequence.littleEndian, as: UInt64.self)
        storage.storeBytes(of: entries.littleEndian, toByteOffset: 8, as: UInt32.self)
        return UnsafeRawBufferPointer(start: storage, count: count)
    }

    mutating func clear() {
        count = LogRecordBuilder.headerBytes
        entries = 0
    }

    mutating func append(_ entry: EntryView) {
        let key = entry.key
        let value = entry.value
        let bytes = LogRecordBuilder.entryHeaderBytes + key.count + value.count
        if count + bytes > capacity { grow(toHold: count + bytes) }
        let target = storage + count
        target.storeBytes(of: entry.kindByte, as: UInt8.self)
        target.storeBytes(of: UInt16(truncatingIfNeeded: key.count).littleEndian, toByteOffset: 1, as: UInt16.self)
        target.storeBytes(of: UInt32(truncatingIfNeeded: value.count).littleEndian, toByteOffset: 3, as: UInt32.self)
        if let base = key.baseAddress { memcpy(target + LogRecordBuilder.entryHeaderBytes, base, key.count) }
        if let base = value.baseAddress {
            memcpy(target + LogRecordBuilder.entryHeaderBytes + key.count, base, value.count)
        }
        count += bytes
        if entries == 0 { firstSequence = entry.sequence }
        lastSequence = entry.sequence
        entries += 1
    }

    private mutating func grow(toHold wanted: Int) {
        let newCapacity = max(wanted, capacity * 2)
        let newStorage = UnsafeMutableRawPointer.allocate(byteCount: newCapacity, alignment: 8)
        memcpy(newStorage, storage, count)
        storage.deallocate()
        storage = newStorage
        capacity = newCapacity
    }
}

/// Reads a record's payload back; the bytes are not trusted.
enum LogRecordReader {
    /// Calls `body` for each entry in order.
    ///
    /// - Returns: the last sequence of the record.
    /// - Throws: `.corruption` when the payload is not a record.
    static func forEach(
        _ payload: UnsafeRawBufferPointer, file: String, offset: UInt64,
        _ body: (
            _ sequence: SequenceNumber, _ kind: EntryKind, _ isLast: Bool, _ key: UnsafeRawBufferPointer,
            _ value: UnsafeRawBufferPointer
        ) throws(EngineError) -> Void
    ) throws(EngineError) -> SequenceNumber {
        func corrupt(_ expected: String, _ found: String) -> EngineError {
            .corruption(file: file, offset: offset, expected: expected, found: found)
        }
        guard payload.count >= LogRecordBuilder.headerBytes else {
            throw corrupt("a record header of \(LogRecordBuilder.headerBytes) bytes", "\(payload.count) bytes")
        }
        let first = UInt64(littleEndian: payload.loadUnaligned(as: UInt64.self))
        let entries = UInt32(littleEndian: payload.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
        guard first >= 1, first <= maximumSequenceNumber - UInt64(entries), entries >= 1 else {
            throw corrupt("entries with sequence numbers", "\(entries) entries from \(first)")
        }
        var position = LogRecordBuilder.headerBytes
        for index in 0..<UInt64(entries) {
            guard payload.count - position >= LogRecordBuilder.entryHeaderBytes else {
                throw corrupt("\(entries) entries", "\(index)")
            }
            let kindByte = payload[position]
            let keyCount = Int(UInt16(littleEndian: payload.loadUnaligned(fromByteOffset: position + 1, as: UInt16.self)))
            let valueCount = Int(
                UInt32(littleEndian: payload.loadUnaligned(fromByteOffset: position + 3, as: UInt32.self)))
            position += LogRecordBuilder.entryHeaderBytes
            guard let kind = EntryKind(rawValue: kindByte & ~RegionLayout.Entry.batchEndFlag), keyCount >= 1,
                payload.count - position >= keyCount + valueCount
            else { throw corrupt("an entry", "kind \(kindByte), \(keyCount) + \(valueCount) bytes") }
            try body(
                first + index, kind, kindByte & RegionLayout.Entry.batchEndFlag != 0,
                UnsafeRawBufferPointer(rebasing: payload[position..<position + keyCount]),
                UnsafeRawBufferPointer(rebasing: payload[position + keyCount..<position + keyCount + valueCount]))
            position += keyCount + valueCount
        }
        guard position == payload.count else { throw corrupt("the record's end", "\(payload.count - position) more bytes") }
        return first + UInt64(entries) - 1
    }
}
