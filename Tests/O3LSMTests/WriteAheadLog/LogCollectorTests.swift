import Testing

@testable import O3LSM

@Suite struct LogCollectorTests {
    /// The log's thread may be held up between asking what is visible and reading it, for so long that all of that and
    /// more has been flushed. The memtable that comes next holds nothing yet.
    @Test func aFlushMayOvertakeIt() throws {
        let store = TemporaryStore()
        let database = try store.open()
        defer { try? database.close() }
        let core = database.core
        for number in 0..<100 { try database.put(Array("key\(number)".utf8), [1]) }
        let end = core.region.visibleSequence
        for number in 100..<200 { try database.put(Array("key\(number)".utf8), [2]) }
        try database.flush()
        var record = LogRecordBuilder()
        var collector = LogCollector(holder: core.holder, region: core.region, position: end - 50)
        #expect(try !collector.collect(into: &record, upTo: end, targetBytes: 1 << 20))
        #expect(collector.position == core.region.visibleSequence)
        // What is written after that is found where it belongs.
        try database.put(Array("later".utf8), [3])
        let found = try collector.collect(into: &record, upTo: core.region.visibleSequence, targetBytes: 1 << 20)
        #expect(found && record.lastSequence == core.region.visibleSequence)
    }

    /// While it is at one memtable, this and the next are flushed: what comes after them is not numbered on from it.
    @Test func aRecordEndsWhereNumbersAreMissing() throws {
        let store = TemporaryStore()
        let database = try store.open()
        defer { try? database.close() }
        let core = database.core
        let first = core.region.visibleSequence + 1
        try database.put(Array("first".utf8), [1])
        try database.put(Array("second".utf8), [2])
        var record = LogRecordBuilder()
        var collector = LogCollector(holder: core.holder, region: core.region, position: first - 1)
        #expect(try collector.collect(into: &record, upTo: first, targetBytes: 1))
        try database.flush()
        try database.put(Array("third".utf8), [3])
        try database.flush()
        try database.put(Array("fourth".utf8), [4])
        let end = core.region.visibleSequence
        #expect(try collector.collect(into: &record, upTo: end, targetBytes: 1 << 20))
        #expect(try Self.entries(record.payload) == [first: "first", first + 1: "second"])
        record.clear()
        #expect(try collector.collect(into: &record, upTo: end, targetBytes: 1 << 20))
        #expect(try Self.entries(record.payload) == [first + 3: "fourth"])
        #expect(collector.position == end)
    }

    private static func entries(_ payload: UnsafeRawBufferPointer) throws -> [SequenceNumber: String] {
        var found: [SequenceNumber: String] = [:]
        _ = try LogRecordReader.forEach(payload, file: "log", offset: 0) {
            sequence, _, _, key, _ throws(EngineError) in found[sequence] = String(decoding: key, as: UTF8.self)
        }
        return found
    }
}
