import O3LSM

/// What the file system needs of the engine, and nothing more: `Database` conforms as it is, tests
/// stand an in-memory store or a failing one in its place.
///
/// Class-bound, so that a call through it costs one indirect jump (about 2 ns beside the hundreds of
/// any engine call). Every method is thread-safe; the meanings are those of `Database`.
public protocol KeyValueStore: AnyObject, Sendable {
    /// The value of `key` without a copy, nil when there is none.
    func lookup(_ key: UnsafeRawBufferPointer, snapshot: Snapshot?) throws(EngineError) -> PinnedValue?
    /// The values of many keys, in the order of `keys`.
    func multiGet(_ keys: [[UInt8]], snapshot: Snapshot?) throws(EngineError) -> [[UInt8]?]
    /// Applies the batch atomically; with `sync`, returns when it survives power loss.
    func write(_ batch: WriteBatch, sync: Bool) throws(EngineError)
    /// As `write`, or, where that would wait for memory or storage, false and nothing done.
    func writeWithoutWaiting(_ batch: WriteBatch) throws(EngineError) -> Bool
    func makeSnapshot() -> Snapshot
    /// A cursor over the keys within the bounds of `options`, not yet positioned.
    func makeCursor(_ options: ReadOptions) throws(EngineError) -> any KeyValueCursor
    /// Returns when everything written before the call survives power loss.
    func sync() throws(EngineError)
    /// Bytes that can still be stored, and bytes there are in all.
    func space() throws(EngineError) -> (free: UInt64, total: UInt64)
}

/// A snapshot-consistent cursor in key order. One thread; `key` and `value` are valid until it moves.
public protocol KeyValueCursor: AnyObject {
    var isValid: Bool { get }
    var key: UnsafeRawBufferPointer { get }
    var value: UnsafeRawBufferPointer { get }
    /// To the first key at or after `key`.
    func seek(_ key: [UInt8]) throws(EngineError)
    func next() throws(EngineError)
}
