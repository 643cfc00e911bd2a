import Glibc
import Synchronization
import Testing

@testable import O3FileSystem
@testable import O3LSM

/// The simplest store that keeps the protocol's promises: a sorted array under one lock. A snapshot is
/// a copy of it. It counts batches, and can be told to fail. A thread that writes while it holds a cursor or a value
/// is an issue: on an engine whose memory is full it would wait for what only it can give back.
final class MemoryStore: KeyValueStore {
    struct Rows: Sendable {
        var keys: [[UInt8]] = []
        var values: [[UInt8]] = []

        /// Where `key` is, or would be put.
        func position(_ key: [UInt8]) -> Int {
            var low = 0
            var high = keys.count
            while low < high {
                let middle = (low + high) / 2
                if compareKeys(keys[middle], key) < 0 { low = middle + 1 } else { high = middle }
            }
            return low
        }

        func value(_ key: [UInt8]) -> [UInt8]? {
            let place = position(key)
            return place < keys.count && keys[place] == key ? values[place] : nil
        }

        mutating func put(_ key: [UInt8], _ value: [UInt8]) {
            let place = position(key)
            if place < keys.count, keys[place] == key {
                values[place] = value
            } else {
                keys.insert(key, at: place)
                values.insert(value, at: place)
            }
        }

        mutating func remove(_ range: Range<Int>) {
            keys.removeSubrange(range)
            values.removeSubrange(range)
        }
    }

    struct State: Sendable {
        var rows = Rows()
        var snapshots: [UInt64: Rows] = [:]
        var sequence: UInt64 = 0
        var batches = 0
        var operations = 0
        var failure: EngineError?
        var isFull = false
        var unreadable: Set<[UInt8]> = []
        var held: [pthread_t: Int] = [:]
    }

    let state = Mutex(State())

    var rows: Rows {
        get { state.withLock { $0.rows } }
        set { state.withLock { $0.rows = newValue } }
    }
    var batchCount: Int { state.withLock { $0.batches } }
    var operationCount: Int { state.withLock { $0.operations } }

    /// Whether a write would have to wait.
    var isFull: Bool {
        get { state.withLock { $0.isFull } }
        set { state.withLock { $0.isFull = newValue } }
    }

    /// Every later write fails with this; nil: none does.
    func failWrites(_ error: EngineError?) { state.withLock { $0.failure = error } }

    /// Every later look-up of the key fails, alone or among others, as that of a key in a damaged block.
    func damage(_ key: RowKey) { state.withLock { _ = $0.unreadable.insert(key.bytes) } }

    private func expectReadable(_ keys: [[UInt8]]) throws(EngineError) {
        guard state.withLock({ $0.unreadable.isDisjoint(with: keys) }) else {
            throw .corruption(file: "sst/1", offset: 0, expected: "a checksum", found: "another one")
        }
    }

    private func rows(_ snapshot: Snapshot?) -> Rows {
        state.withLock { state in
            guard let snapshot else { return state.rows }
            return state.snapshots[snapshot.sequence] ?? state.rows
        }
    }

    func lookup(_ key: UnsafeRawBufferPointer, snapshot: Snapshot?) throws(EngineError) -> PinnedValue? {
        try expectReadable([[UInt8](key)])
        return rows(snapshot).value([UInt8](key)).map { LentBox($0, self).pinned }
    }

    func multiGet(_ keys: [[UInt8]], snapshot: Snapshot?) throws(EngineError) -> [[UInt8]?] {
        try expectReadable(keys)
        let rows = rows(snapshot)
        return keys.map { rows.value($0) }
    }

    func write(_ batch: WriteBatch, sync: Bool) throws(EngineError) {
        if state.withLock({ $0.held[pthread_self(), default: 0] }) > 0 { Issue.record("a write while something read is held") }
        try apply(batch)
    }

    func writeWithoutWaiting(_ batch: WriteBatch) throws(EngineError) -> Bool {
        if isFull { return false }
        try apply(batch)
        return true
    }

    private func apply(_ batch: WriteBatch) throws(EngineError) {
        let operations = batch.operations.map { operation in
            (operation.kind, [UInt8](batch.key(of: operation)), [UInt8](batch.value(of: operation)))
        }
        let failure = state.withLock { state -> EngineError? in
            if let failure = state.failure { return failure }
            state.batches += 1
            state.operations += operations.count
            state.sequence += 1
            for (kind, key, value) in operations {
                switch kind {
                case .put: state.rows.put(key, value)
                case .delete:
                    let place = state.rows.position(key)
                    if place < state.rows.keys.count, state.rows.keys[place] == key {
                        state.rows.remove(place..<place + 1)
                    }
                case .rangeDelete: state.rows.remove(state.rows.position(key)..<state.rows.position(value))
                }
            }
            return nil
        }
        if let failure { throw failure }
    }

    func makeSnapshot() -> Snapshot {
        let sequence = state.withLock { state in
            state.sequence += 1
            state.snapshots[state.sequence] = state.rows
            return state.sequence
        }
        return Snapshot(sequence: sequence) { [weak self] sequence in
            self?.state.withLock { _ = $0.snapshots.removeValue(forKey: sequence) }
        }
    }

    func makeCursor(_ options: ReadOptions) throws(EngineError) -> any KeyValueCursor {
        let rows = rows(options.snapshot)
        let end = options.upperBound.map { rows.position($0) } ?? rows.keys.count
        return Cursor(rows, end: end, lower: options.lowerBound ?? [], self)
    }

    func sync() throws(EngineError) {}
    func space() throws(EngineError) -> (free: UInt64, total: UInt64) { (1 << 30, 1 << 40) }

    /// A value that the store's user holds.
    private final class LentBox {
        let box: Box
        private let store: MemoryStore
        private let thread = pthread_self()
        init(_ bytes: [UInt8], _ store: MemoryStore) {
            box = Box(bytes)
            self.store = store
            store.state.withLock { $0.held[thread, default: 0] += 1 }
        }
        deinit { store.state.withLock { $0.held[thread, default: 0] -= 1 } }
        var pinned: PinnedValue { PinnedValue(bytes: box.pinned.bytes, owner: self) }
    }

    /// Bytes that stay where they are for as long as the box lives.
    private final class Box {
        let buffer: UnsafeMutableRawBufferPointer
        init(_ bytes: [UInt8]) {
            buffer = .allocate(byteCount: bytes.count, alignment: 8)
            buffer.copyBytes(from: bytes)
        }
        deinit { buffer.deallocate() }
        var pinned: PinnedValue { PinnedValue(bytes: UnsafeRawBufferPointer(buffer), owner: self) }
    }

    private final class Cursor: KeyValueCursor {
        private let rows: Rows
        private let end: Int
        private let lower: [UInt8]
        private var place: Int
        private var keyBox: Box?
        private var valueBox: Box?
        private let store: MemoryStore
        private let thread = pthread_self()

        init(_ rows: Rows, end: Int, lower: [UInt8], _ store: MemoryStore) {
            self.store = store
            self.rows = rows
            self.end = end
            self.lower = lower
            place = end
            store.state.withLock { $0.held[thread, default: 0] += 1 }
        }

        deinit { store.state.withLock { $0.held[thread, default: 0] -= 1 } }

        var isValid: Bool { place < end }
        var key: UnsafeRawBufferPointer { keyBox?.pinned.bytes ?? UnsafeRawBufferPointer(start: nil, count: 0) }
        var value: UnsafeRawBufferPointer { valueBox?.pinned.bytes ?? UnsafeRawBufferPointer(start: nil, count: 0) }

        func seek(_ key: [UInt8]) throws(EngineError) {
            place = rows.position(compareKeys(key, lower) < 0 ? lower : key)
            load()
        }
        func next() throws(EngineError) {
            place += 1
            load()
        }
        private func load() {
            keyBox = isValid ? Box(rows.keys[place]) : nil
            valueBox = isValid ? Box(rows.values[place]) : nil
        }
    }
}
