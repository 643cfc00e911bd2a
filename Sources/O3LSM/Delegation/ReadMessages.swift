/// Requests of delegated reads and their answers, as they stand in a ring. Documented byte by byte in
/// `docs/formats.md`; integers are in the machine's byte order, unaligned.
enum ReadMessage {
    static let lookup: UInt8 = 1
    static let range: UInt8 = 2
    static let lastRange: UInt32 = 1
    static let unknownRange: UInt32 = 2
    static let headBytes = 24
    static let memtableBytes = 16
    static let keyHeadBytes = 4
    static let answerHeadBytes = 24
    static let rangeHeadBytes = 8
    static let entryHeadBytes = 24
    /// Memtables of one lookup at most.
    static let maximumMemtables = 16
}

/// A memtable as requests name it.
struct MemtableName: Hashable {
    var id: UInt64
    var slot: UInt32
}

/// What a server says of one key.
struct ReadAnswer {
    enum State: UInt8 {
        /// None of the memtables has an entry of it that is old enough.
        case notFound = 0
        case deleted = 1
        /// The value is in the answer.
        case value = 2
        /// The value is too long: it is read where it lies.
        case place = 3
        /// The server cannot say.
        case unknown = 4
    }

    var state: State
    /// Which of the memtables asked has the entry.
    var memtable = 0
    var shard = 0
    var offset: UInt32 = 0
    var sequence: SequenceNumber = 0
    /// In the ring: only while the answer is read.
    var value = UnsafeRawBufferPointer(start: nil, count: 0)
}

/// An entry of a memtable, as a server sends it.
struct RangeEntry {
    var key: UnsafeRawBufferPointer
    var trailer: Trailer
    /// nil: it is read where it lies.
    var value: UnsafeRawBufferPointer?
    var offset: UInt32
    var shard: Int
}

/// Reads numbers and bytes one after the other and never beyond the end: nil there.
struct MessageReader {
    private let bytes: UnsafeRawBufferPointer
    private(set) var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    @inline(__always)
    mutating func number<Number: FixedWidthInteger & BitwiseCopyable>(_: Number.Type) -> Number? {
        guard bytes.count - position >= MemoryLayout<Number>.size else { return nil }
        defer { position += MemoryLayout<Number>.size }
        return bytes.loadUnaligned(fromByteOffset: position, as: Number.self)
    }

    @inline(__always)
    mutating func take(_ count: Int) -> UnsafeRawBufferPointer? {
        guard count >= 0, bytes.count - position >= count else { return nil }
        defer { position += count }
        return UnsafeRawBufferPointer(rebasing: bytes[position..<(position + count)])
    }

    /// The next answer about a key.
    mutating func answer(memtables: Int) -> ReadAnswer? {
        guard let stateByte = number(UInt8.self), let memtable = number(UInt8.self), let shard = number(UInt16.self),
            let offset = number(UInt32.self), let sequence = number(UInt64.self), let length = number(UInt32.self),
            number(UInt32.self) != nil, let state = ReadAnswer.State(rawValue: stateByte), memtable < memtables,
            shard < RegionLayout.MemtableSlot.maximumShards, sequence <= maximumSequenceNumber
        else { return nil }
        var answer = ReadAnswer(
            state: state, memtable: Int(memtable), shard: Int(shard), offset: offset, sequence: sequence)
        if state == .value {
            guard let value = take(Int(length)) else { return nil }
            answer.value = value
        }
        return answer
    }

    /// The next entry of a range.
    mutating func entry() -> RangeEntry? {
        guard let trailerWord = number(UInt64.self), let keyLength = number(UInt32.self), let valueLength = number(UInt32.self),
            let offset = number(UInt32.self), let shard = number(UInt16.self), let isInline = number(UInt16.self),
            let key = take(Int(keyLength))
        else { return nil }
        let trailer = Trailer(rawValue: trailerWord)
        guard trailer.kind != nil else { return nil }
        var entry = RangeEntry(key: key, trailer: trailer, offset: offset, shard: Int(shard))
        if isInline == 1 {
            guard let value = take(Int(valueLength)) else { return nil }
            entry.value = value
        }
        return entry
    }
}

/// Writes numbers and bytes one after the other; false, and nothing written, beyond the end.
struct MessageWriter {
    private let bytes: UnsafeMutableRawBufferPointer
    private(set) var position = 0

    init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }

    var room: Int { bytes.count - position }

    @inline(__always)
    mutating func number<Number: FixedWidthInteger & BitwiseCopyable>(_ value: Number) {
        guard room >= MemoryLayout<Number>.size else { return }
        bytes.storeBytes(of: value, toByteOffset: position, as: Number.self)
        position += MemoryLayout<Number>.size
    }

    @inline(__always)
    mutating func put(_ source: UnsafeRawBufferPointer) {
        guard room >= source.count else { return }
        UnsafeMutableRawBufferPointer(rebasing: bytes[position...]).copyMemory(from: source)
        position += source.count
    }

    /// Writes a number where one has been left out.
    mutating func overwrite<Number: FixedWidthInteger & BitwiseCopyable>(_ value: Number, at offset: Int) {
        guard offset + MemoryLayout<Number>.size <= position else { return }
        bytes.storeBytes(of: value, toByteOffset: offset, as: Number.self)
    }

    /// Writes a request for keys in memtables, newest first; the caller has made sure of the room.
    ///
    /// - Parameter life: distinguishes the owner from the ones before it.
    mutating func lookup(
        _ questions: [ReadDelegation.Question], _ memtables: ArraySlice<Memtable>, _ sequence: SequenceNumber, life: UInt64
    ) {
        number(ReadMessage.lookup)
        number(UInt8(memtables.count))
        number(UInt16(questions.count))
        number(UInt32(0))
        number(sequence)
        number(life)
        for memtable in memtables { name(memtable) }
        for question in questions {
            number(UInt16(question.key.count))
            number(UInt8(question.memtables))
            number(UInt8(0))
            put(question.key)
        }
    }

    /// Writes a request for entries of a memtable at and after an internal key, `count` at most; the caller has made sure of
    /// the room.
    mutating func range(
        _ memtable: Memtable, from key: UnsafeRawBufferPointer, _ trailer: Trailer, atMost count: UInt16, life: UInt64
    ) {
        number(ReadMessage.range)
        number(UInt8(1))
        number(count)
        number(UInt32(key.count))
        number(trailer.rawValue)
        number(life)
        name(memtable)
        put(key)
    }

    private mutating func name(_ memtable: Memtable) {
        number(memtable.id)
        number(UInt32(memtable.slot))
        number(UInt32(0))
    }

    /// Writes what is known of a key; the caller has made sure of the room.
    mutating func answer(_ answer: ReadAnswer) {
        number(answer.state.rawValue)
        number(UInt8(truncatingIfNeeded: answer.memtable))
        number(UInt16(truncatingIfNeeded: answer.shard))
        number(answer.offset)
        number(answer.sequence)
        number(UInt32(truncatingIfNeeded: answer.value.count))
        number(UInt32(0))
        if answer.state == .value { put(answer.value) }
    }
}
