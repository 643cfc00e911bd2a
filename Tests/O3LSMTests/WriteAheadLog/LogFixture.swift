@testable import O3LSM

/// A log in memory, written in groups that are synced one by one.
struct LogFixture {
    static let path = "wal/000007.log"
    let number: UInt64
    let kind: LogFormat.Kind
    let groups: [[[UInt8]]]
    /// The whole file.
    private(set) var bytes: [UInt8] = []
    /// Offset of each record.
    private(set) var offsets: [UInt64] = []

    var payloads: [[UInt8]] { groups.flatMap { $0 } }

    init(_ groups: [[[UInt8]]], number: UInt64 = 7, kind: LogFormat.Kind = .writeAhead, over old: [UInt8] = []) throws {
        (self.number, self.kind, self.groups) = (number, kind, groups)
        let storage = MemoryStorage()
        storage.set(LogFixture.path, to: old)
        let writer = try LogWriter(file: try storage.reuse(LogFixture.path), logNumber: number, kind: kind)
        try writer.sync()
        for group in groups {
            for payload in group {
                offsets.append(writer.size)
                try writer.append(payload)
            }
            try writer.sync()
        }
        bytes = storage.bytes(of: LogFixture.path) ?? []
    }

    /// Small records in three synced groups.
    static func small(kind: LogFormat.Kind = .writeAhead) throws -> LogFixture {
        try LogFixture(
            [
                [Array("first".utf8), []], [Array("the third, somewhat longer".utf8)],
                [[0], Array(repeating: 0xff, count: 40)],
            ],
            kind: kind
        )
    }

    /// What a reader makes of `bytes`.
    func read(_ bytes: [UInt8]) throws -> (payloads: [[UInt8]], end: UInt64) {
        try LogFixture.read(bytes, number: number, kind: kind)
    }

    static func read(
        _ bytes: [UInt8],
        number: UInt64,
        kind: LogFormat.Kind = .writeAhead
    ) throws -> (payloads: [[UInt8]], end: UInt64) {
        let storage = MemoryStorage()
        storage.set(path, to: bytes)
        var payloads: [[UInt8]] = []
        let end = try LogReader.forEach(storage: storage, path: path, logNumber: number, kind: kind) {
            (payload, _) throws(EngineError) in payloads.append([UInt8](payload))
        }
        return (payloads, end)
    }
}

extension LogWriter {
    func append(_ payload: [UInt8]) throws(EngineError) {
        try payload.withEngineBytes { (bytes) throws(EngineError) in try append(bytes) }
    }
}

extension EngineError {
    var isCorruption: Bool { if case .corruption = self { true } else { false } }
    /// For damage of any kind: corruption, or another format's version.
    var isDamage: Bool { if case .unsupportedFormat = self { true } else { isCorruption } }
}
