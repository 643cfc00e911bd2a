import O3LSM

/// With `--verify`, a value begins with the first 8 bytes of its key: an entry tells by itself whether it is the one that
/// was asked for.
enum ValueStamp {
    static let byteCount = 8

    /// Whether `value` was written under `key`; both have at least 8 bytes when they were written by a benchmark.
    @inline(__always)
    static func matches(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool {
        guard key.count >= byteCount, value.count >= byteCount else { return false }
        return key.loadUnaligned(as: UInt64.self) == value.loadUnaligned(as: UInt64.self)
    }
}

/// What `--verify` reports: the store answered, and the answer is wrong.
private func benchmarkCorruption(expected: String, found: String) -> EngineError {
    .corruption(file: "the store", offset: 0, expected: expected, found: found)
}

/// Checks that a scan meets each key once and in order, by the number that begins it. One thread.
struct ScanOrder {
    let backward: Bool
    private var last: UInt64?

    init(backward: Bool) { self.backward = backward }

    /// Throws `corruption` for a key that is not beyond the last one.
    mutating func check(_ key: UnsafeRawBufferPointer) throws(EngineError) {
        guard key.count >= ValueStamp.byteCount else {
            throw benchmarkCorruption(expected: "a key of a benchmark", found: "one of \(key.count) bytes")
        }
        let number = UInt64(bigEndian: key.loadUnaligned(as: UInt64.self))
        if let last, backward ? number >= last : number <= last {
            throw benchmarkCorruption(expected: "a key \(backward ? "below" : "above") \(last)", found: "\(number)")
        }
        last = number
    }
}

extension WorkloadThread {
    /// With `--verify`, throws `corruption` unless the value is that of the key.
    @inline(__always)
    func verify(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws(EngineError) {
        guard group.settings.verify, !ValueStamp.matches(key, value) else { return }
        throw foreignValue
    }

    @inline(__always)
    func verify(_ key: [UInt8], _ value: PinnedValue) throws(EngineError) {
        guard group.settings.verify else { return }
        let matches = key.withUnsafeBytes { key in value.withBytes { ValueStamp.matches(key, $0) } }
        guard matches else { throw foreignValue }
    }

    private var foreignValue: EngineError {
        benchmarkCorruption(expected: "the value of the key that was read", found: "another one")
    }

    /// Adds an entry to the batch.
    @inline(__always)
    mutating func put(_ number: UInt64) {
        let key = keys.key(number)
        batch.put(key, referencing: values.next(stamp: group.settings.verify ? key : nil))
    }
}
