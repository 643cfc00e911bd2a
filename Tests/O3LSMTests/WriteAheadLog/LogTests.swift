import Glibc
import Testing

@testable import O3LSM

@Suite struct LogTests {
    @Test func recordsComeBackInOrder() throws {
        var generator = SeededRandom(1)
        let sizes = [0, 1, 27, 28, 29, 4096, 1 << 20, (1 << 20) + 1, 3 << 20, 5]
        let log = try LogFixture([sizes.map { generator.bytes($0) }])
        let (payloads, end) = try log.read(log.bytes)
        #expect(payloads == log.payloads)
        #expect(end == UInt64(log.bytes.count))
    }

    @Test func partsMakeOneRecord() throws {
        let storage = MemoryStorage()
        storage.set(LogFixture.path, to: [])
        let writer = try LogWriter(file: try storage.reuse(LogFixture.path), logNumber: 1, kind: .writeAhead)
        let parts: [[UInt8]] = [[1, 2], [], [3]]
        try parts[0].withUnsafeBytes { a in
            try parts[1].withUnsafeBytes { b in try parts[2].withUnsafeBytes { c in try writer.append([a, b, c]) } }
        }
        #expect(try LogFixture.read(storage.bytes(of: LogFixture.path) ?? [], number: 1).payloads == [[1, 2, 3]])
    }

    @Test(arguments: [LogFormat.Kind.writeAhead, .manifest])
    func everyFlippedBitIsFoundOrInTheLastGroup(kind: LogFormat.Kind) throws {
        let log = try LogFixture.small(kind: kind)
        let lastGroup = log.offsets[3]
        for index in log.bytes.indices {
            for bit in 0..<8 {
                var damaged = log.bytes
                damaged[index] ^= 1 << UInt8(bit)
                do {
                    let (payloads, _) = try log.read(damaged)
                    #expect(index >= lastGroup, "byte \(index) went unnoticed")
                    #expect(payloads.count < log.payloads.count && log.payloads.starts(with: payloads))
                } catch let error as EngineError {
                    #expect(error.isDamage && index < lastGroup, "byte \(index): \(error)")
                }
            }
        }
    }

    @Test(arguments: [LogFormat.Kind.writeAhead, .manifest])
    func everyTruncationLeavesACleanPrefix(kind: LogFormat.Kind) throws {
        let log = try LogFixture.small(kind: kind)
        let ends = Array(log.offsets.dropFirst()) + [UInt64(log.bytes.count)]
        for length in log.bytes.indices {
            if kind == .manifest, length < LogFormat.fileHeaderBytes {
                #expect(throws: EngineError.self) { try log.read(Array(log.bytes.prefix(length))) }
                continue
            }
            let (payloads, end) = try log.read(Array(log.bytes.prefix(length)))
            let whole = ends.count { $0 <= length }
            #expect(payloads == Array(log.payloads.prefix(whole)))
            #expect(end == (length < LogFormat.fileHeaderBytes ? 0 : whole == 0 ? 32 : ends[whole - 1]))
        }
    }

    @Test func recycledFileShowsNothingOfItsFormerLife() throws {
        var generator = SeededRandom(2)
        let old = try LogFixture((0..<20).map { _ in [generator.bytes(30)] }, number: 3)
        let new = try LogFixture([[generator.bytes(10)], [generator.bytes(90), []]], number: 4, over: old.bytes)
        #expect(new.bytes.count == old.bytes.count)
        #expect(try new.read(new.bytes).payloads == new.payloads)
    }

    @Test func recycledFileMayBeCutAnywhere() throws {
        var generator = SeededRandom(3)
        let old = try LogFixture((0..<20).map { _ in [generator.bytes(30)] }, number: 3)
        let new = try LogFixture([[generator.bytes(10)], [generator.bytes(90), []]], number: 4)
        for length in 0...new.bytes.count {
            let mixed = Array(new.bytes.prefix(length) + old.bytes.dropFirst(length))
            let (payloads, _) = try new.read(mixed)
            #expect(new.payloads.starts(with: payloads))
            // Old and new bytes may be the same by chance.
            let same = zip(mixed, new.bytes).prefix { $0 == $1 }.count
            #expect(payloads.count == zip(new.offsets, new.payloads).count { $0 + 28 + UInt64($1.count) <= same })
        }
    }

    @Test func unsyncedRecordsMaySurviveInAnyOrder() throws {
        let log = try LogFixture([[[1]], [[2], [3], [4]]])
        var torn = log.bytes
        torn[Int(log.offsets[1])] ^= 1
        // Power loss has taken the second record and left the third.
        #expect(try log.read(torn).payloads == [[1]])
        // A record written after the sync proves that it was something else.
        let later = try LogFixture([[[1]], [[2], [3], [4]], [[5]]])
        torn = later.bytes
        torn[Int(later.offsets[1])] ^= 1
        let error = #expect(throws: EngineError.self) { try later.read(torn) }
        guard case .corruption(LogFixture.path, later.offsets[1], _, _) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func recordsStoredAsDataAreNotTakenForRecords() throws {
        let inner = try LogFixture([[[1]], [[2]], [[3]], [[4]]])
        let outer = try LogFixture([[[9]], [inner.bytes]])
        var torn = outer.bytes
        torn[Int(outer.offsets[1])] ^= 1
        #expect(try outer.read(torn).payloads == [[9]])
    }

    @Test func anotherVersionIsNamed() throws {
        let log = try LogFixture.small()
        var bytes = log.bytes
        bytes[8] = 2
        let checksum = bytes[0..<24].withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) }
        withUnsafeBytes(of: checksum.littleEndian) { bytes.replaceSubrange(24..<28, with: $0) }
        #expect(throws: EngineError.unsupportedFormat(file: LogFixture.path, found: 2, supported: 1)) {
            try log.read(bytes)
        }
    }

    @Test func manifestOfAnotherNumberIsCorruption() throws {
        let log = try LogFixture.small(kind: .manifest)
        let error = #expect(throws: EngineError.self) { try LogFixture.read(log.bytes, number: 8, kind: .manifest) }
        #expect(error?.isCorruption == true)
        #expect(throws: EngineError.self) { try LogFixture.read(log.bytes, number: 7, kind: .writeAhead) }
    }

    @Test func appendThatFoundNoSpaceCanBeTriedAgain() throws {
        let memory = MemoryStorage()
        memory.set(LogFixture.path, to: [])
        let storage = FaultyStorage(memory)
        let writer = try LogWriter(file: try storage.reuse(LogFixture.path), logNumber: 1, kind: .writeAhead)
        try writer.append([1])
        storage.fail(.append, code: ENOSPC)
        #expect(throws: EngineError.self) { try writer.append([2]) }
        try writer.append([3])
        try writer.sync()
        #expect(try LogFixture.read(memory.bytes(of: LogFixture.path) ?? [], number: 1).payloads == [[1], [3]])
    }

    @Test func appendThatLeftAPieceIsTheLast() throws {
        let memory = MemoryStorage()
        memory.set(LogFixture.path, to: [])
        let storage = FaultyStorage(memory)
        let writer = try LogWriter(file: try storage.reuse(LogFixture.path), logNumber: 1, kind: .writeAhead)
        try writer.append([1])
        storage.cutShort(.append)
        #expect(throws: EngineError.self) { try writer.append([2]) }
        #expect(throws: EngineError.self) { try writer.append([3]) }
        #expect(throws: EngineError.self) { try writer.sync() }
        #expect(try LogFixture.read(memory.bytes(of: LogFixture.path) ?? [], number: 1).payloads == [[1]])
    }

    @Test func randomBytesNeverMakeARecord() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("LogTests.randomBytesNeverMakeARecord seed \(seed)")
        var generator = SeededRandom(seed)
        for _ in 0..<200 {
            let bytes = generator.bytes(Int.random(in: 0...300, using: &generator), alphabet: 0...7)
            #expect(try LogFixture.read(bytes, number: 7).payloads.isEmpty)
        }
    }
}
