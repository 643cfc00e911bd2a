import O3LSM
import Synchronization

/// Who asks for an operation that must not be done twice: the number of the request, and the slot (a thread of the
/// caller) that holds no other request meanwhile.
public struct RequestTicket: Sendable {
    /// The same when the request is sent again to another process; never that of another request of the mount.
    public var unique: UInt64
    public var slot: UInt16

    public init(unique: UInt64, slot: UInt16) {
        self.unique = unique
        self.slot = slot
    }
}

/// Remembers which requests have been done, across the death of the process, so that one that was done and not
/// answered is not done again.
///
/// A request's number is written in the very batch that does it, to the row of its slot: there are as many rows as
/// slots, for a slot's earlier request was answered before it took the next. That the batch is there is all that
/// needs to be known: an operation that failed has changed nothing and may fail again.
///
/// Each process of a mount (*generation*) writes rows of its own: those of an earlier one stay until every request
/// that was sent to it is answered (`forgetEarlier`), which may take several processes. Thread-safe.
final class OutcomeLog: Sendable {
    /// nil: nothing is remembered.
    private let generation: UInt64?
    private let done: Set<UInt64>

    /// Reads what earlier generations of the mount have left; with `generation` 0 or nil there can be nothing, and
    /// what another mount left is removed.
    init(_ store: any KeyValueStore, generation: UInt64?, mayWrite: Bool) throws(FileSystemError) {
        self.generation = mayWrite ? generation : nil
        let rows = mayWrite ? try Self.rows(store, before: .max) : []
        let continues = (generation ?? 0) > 0
        done = continues ? Set(rows.compactMap(\.unique)) : []
        if !continues { try Self.remove(rows, store) }
    }

    /// Whether an earlier process has done it.
    func isDone(_ request: RequestTicket) -> Bool { done.contains(request.unique) }

    /// Adds to `batch` that it does the request.
    @inline(__always)
    func note(_ request: RequestTicket?, in batch: WriteBatch) {
        guard let generation, let request else { return }
        withUnsafeBytes(of: request.unique.littleEndian) {
            batch.put(.request(generation: generation, slot: request.slot), $0)
        }
    }

    /// Removes what earlier generations have left. For when all their requests are answered.
    func forgetEarlier(_ store: any KeyValueStore) throws(FileSystemError) {
        guard let generation else { return }
        try Self.remove(try Self.rows(store, before: generation), store)
    }

    /// Removes every row. For the end of a process that has answered all it was asked.
    func forgetAll(_ store: any KeyValueStore) throws(FileSystemError) {
        guard generation != nil else { return }
        try Self.remove(try Self.rows(store, before: .max), store)
    }

    private typealias Row = (key: RowKey, unique: UInt64?)

    /// A row of a few dozen bytes for each slot of each generation: few.
    private static func rows(_ store: any KeyValueStore, before generation: UInt64) throws(FileSystemError) -> [Row] {
        var rows: [Row] = []
        let cursor = try store.scan(.request)
        while cursor.isValid {
            if case .request(let found, let slot)? = ParsedKey(cursor.key), found < generation {
                rows.append((.request(generation: found, slot: UInt16(truncatingIfNeeded: slot)), decode(cursor.value)))
            }
            try cursor.advance()
        }
        return rows
    }

    private static func remove(_ rows: [Row], _ store: any KeyValueStore) throws(FileSystemError) {
        guard !rows.isEmpty else { return }
        let batch = WriteBatch()
        for row in rows { batch.delete(row.key) }
        try store.apply(batch)
    }

    private static func decode(_ value: UnsafeRawBufferPointer) -> UInt64? {
        guard value.count == 8 else { return nil }
        return UInt64(littleEndian: value.loadUnaligned(as: UInt64.self))
    }
}
