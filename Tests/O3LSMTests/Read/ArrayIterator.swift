@testable import O3LSM

/// An entry of a test's model.
struct ModelEntry: Equatable, Comparable, CustomStringConvertible {
    var key: [UInt8]
    var trailer: Trailer
    var value: [UInt8]

    init(_ key: [UInt8], _ sequence: SequenceNumber, _ kind: EntryKind = .put, _ value: [UInt8] = []) {
        self.key = key
        trailer = Trailer(sequence: sequence, kind: kind)
        self.value = value
    }

    var internalKey: InternalKey { InternalKey(userKey: key, trailer: trailer) }
    static func < (left: ModelEntry, right: ModelEntry) -> Bool { left.internalKey < right.internalKey }
    var description: String { "\(key)@\(trailer.sequence):\(trailer.rawValue & 0xff)=\(value)" }
}

/// A cursor over entries in memory. Each entry's key is in memory of its own that is given back when
/// the cursor moves, so that a reader who keeps a key too long reads something else.
final class ArrayIterator: InternalIterator {
    private let entries: [ModelEntry]
    private var index = -1
    private var buffer: UnsafeMutableRawBufferPointer?
    /// Moves until the next one throws; nil: never.
    var movesUntilFailure: Int?

    init(_ entries: [ModelEntry]) { self.entries = entries.sorted() }
    deinit { buffer?.deallocate() }

    override var isValid: Bool { entries.indices.contains(index) }
    override var userKey: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer!)[0..<entries[index].key.count])
    }
    override var trailer: Trailer { entries[index].trailer }
    override var value: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer!)[entries[index].key.count...])
    }

    private func move(to place: Int) throws(EngineError) {
        if let old = buffer {
            old.initializeMemory(as: UInt8.self, repeating: 0xee)
            old.deallocate()
            buffer = nil
        }
        index = -1
        if let left = movesUntilFailure {
            movesUntilFailure = left - 1
            if left == 0 { throw .io(operation: "read", path: "array", code: 5) }
        }
        index = place
        guard isValid else { return }
        let bytes = entries[index].key + entries[index].value
        let fresh = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        fresh.copyBytes(from: bytes)
        buffer = fresh
    }

    private func firstIndex(notBefore key: UnsafeRawBufferPointer, _ trailer: Trailer) -> Int {
        let target = InternalKey(key, trailer)
        return entries.firstIndex { $0.internalKey >= target } ?? entries.count
    }

    override func seekToFirst() throws(EngineError) { try move(to: 0) }
    override func seekToLast() throws(EngineError) { try move(to: entries.count - 1) }
    override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        try move(to: firstIndex(notBefore: userKey, trailer))
    }
    override func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        try move(to: firstIndex(notBefore: userKey, trailer) - 1)
    }
    override func next() throws(EngineError) { try move(to: index + 1) }
    override func previous() throws(EngineError) { try move(to: index - 1) }
}

extension InternalIterator {
    /// The current entry, copied.
    var entry: ModelEntry {
        var entry = ModelEntry([UInt8](userKey), 0, .put, [UInt8](value))
        entry.trailer = trailer
        return entry
    }

    /// Everything from the first entry on.
    func allEntries() throws -> [ModelEntry] {
        var result: [ModelEntry] = []
        try seekToFirst()
        while isValid {
            result.append(entry)
            try next()
        }
        return result
    }
}
