/// A cursor over internal entries in internal-key order: user key ascending, newest entry first.
///
/// A base class and not a protocol, because a virtual call is cheaper than an existential's. An
/// iterator belongs to one thread. `userKey` and `value` point into memory that the iterator keeps
/// alive until it is moved or released. Range tombstones are not among the entries: the sources hand
/// them over separately (see `RangeTombstone`). After a throw the iterator is not valid.
class InternalIterator {
    /// Whether the cursor stands on an entry.
    var isValid: Bool { false }
    /// The entry's user key. Only while `isValid`.
    var userKey: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }
    /// The entry's sequence and kind. Only while `isValid`.
    var trailer: Trailer { .last }
    /// The entry's value; empty for a deletion. Only while `isValid`.
    var value: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// Whether `announceSeek` does anything.
    var wantsSeeksAnnounced: Bool { false }
    /// Says that `seek` to the same place comes next, after those of cursors that hear it earlier.
    func announceSeek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) {}
    func seekToFirst() throws(EngineError) {}
    func seekToLast() throws(EngineError) {}
    /// To the first entry at or after (`userKey`, `trailer`).
    func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {}
    /// To the last entry before (`userKey`, `trailer`), strictly.
    func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {}
    func next() throws(EngineError) {}
    func previous() throws(EngineError) {}
    /// While the cursor, valid and moving forward, stands before `userKey`: may pass over entries whose user keys are
    /// before it and whose sequences are at most `sequence`, because a range tombstone covers them all. It passes over no
    /// other, and may stay where it is. (RocksDB's DeleteRange skips levels and files likewise.)
    func skip(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {}
    /// The same backward. While the cursor, valid and moving backward, stands at or after `userKey`: may pass over entries
    /// whose user keys are not before it and whose sequences are at most `sequence`. It passes over no other, and may stay
    /// where it is.
    func skipBack(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {}
}

extension Unmanaged where Instance == InternalIterator {
    /// Calls `body` on an iterator that somebody else keeps alive meanwhile.
    @inline(__always)
    func with(_ body: (InternalIterator) throws(EngineError) -> Void) throws(EngineError) {
        var failure: EngineError?
        _withUnsafeGuaranteedRef { iterator in
            do throws(EngineError) { try body(iterator) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

/// All keys in `begin ..< end` with a sequence below `sequence` are deleted.
struct RangeTombstone: Equatable, Sendable {
    var begin: [UInt8]
    var end: [UInt8]
    var sequence: SequenceNumber
}

/// A value that stays readable while the result is held, without a copy: `owner` keeps the memory
/// (a cached block, a memtable) alive.
public struct PinnedValue: @unchecked Sendable {
    // @unchecked: the bytes are immutable for as long as `owner` lives.
    public let bytes: UnsafeRawBufferPointer
    @usableFromInline let owner: AnyObject?

    @usableFromInline init(bytes: UnsafeRawBufferPointer, owner: AnyObject?) {
        self.bytes = bytes
        self.owner = owner
    }

    /// Reads the bytes while they are certainly alive.
    @inlinable
    public func withBytes<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
        try withExtendedLifetime(owner) { try body(bytes) }
    }

    public func copy() -> [UInt8] { withBytes { [UInt8]($0) } }
}

/// What one source (a memtable, a table) knows of a key at a sequence.
enum LookupResult {
    /// The newest visible entry, and its sequence: a put or a delete.
    case put(PinnedValue, SequenceNumber)
    case deleted(SequenceNumber)
    case notFound
}
