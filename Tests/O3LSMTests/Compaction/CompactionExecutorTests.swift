import Glibc
import Testing

@testable import O3LSM

@Suite struct CompactionExecutorTests {
    /// Runs the parts and answers what became of them.
    private static func run(
        _ job: RandomJob, _ compaction: Compaction, parts: Int, options: Options? = nil
    ) throws -> [CompactionResult] {
        let descriptors = compaction.descriptors(
            options: options ?? job.options, snapshots: job.snapshots, maximumParts: parts,
            reserveNumbers: job.fixture.reserve)
        let executor = job.fixture.executor
        let results = try descriptors.map { descriptor in
            let answer = try executor.run(encoded: descriptor.encode())
            return try answer.withUnsafeBytes { try CompactionResult.decode($0, source: "test") }
        }
        try compaction.validate(results, of: descriptors)
        return results
    }

    @Test(arguments: 0..<30 as Range<UInt64>)
    func everyReaderSeesTheSameBeforeAndAfter(seed: UInt64) throws {
        var random = SeededRandom(seed)
        let job = try RandomJob(&random)
        let compaction = try #require(job.compaction, "seed \(seed)")
        let untouched = (job.lower + job.deeper).filter { file in !compaction.files.contains { $0 === file } }
        var options = job.options
        options.tableFileSize = [2048, 8192, 1 << 20].randomElement(using: &random) ?? 8192
        let results = try Self.run(job, compaction, parts: Int(seed % 4) + 1, options: options)
        let outputs = results.flatMap(\.outputs)
        for sequence in job.snapshots + [job.lastSequence, maximumSequenceNumber] {
            let before = try job.fixture.state(of: compaction.files + untouched, at: sequence)
            let after = try job.fixture.state(of: outputs + untouched, at: sequence)
            #expect(before == after, "seed \(seed), snapshots \(job.snapshots), at \(sequence)")
        }
        for file in outputs {
            let table = try job.fixture.tables.table(file)
            try table.verify()
            for fragment in table.rangeTombstones.fragments {
                let range = KeyRange(begin: fragment.begin, end: fragment.end, isEndInclusive: false)
                #expect(KeyRange(file).contains(range), "seed \(seed)")
            }
        }
    }

    @Test(arguments: 0..<10 as Range<UInt64>)
    func theResultIsTheSameHoweverTheJobIsSplit(seed: UInt64) throws {
        var random = SeededRandom(seed &+ 1000)
        let job = try RandomJob(&random)
        let compaction = try #require(job.compaction)
        var expected: [ModelEntry]?
        var expectedTombstones: [FragmentedTombstones.Fragment]?
        for (parts, size) in [(1, 1 << 20), (1, 2048), (3, 4096), (8, 3000)] {
            var options = job.options
            options.tableFileSize = size
            let outputs = try Self.run(job, compaction, parts: parts, options: options).flatMap(\.outputs)
            let cache = job.fixture.tables
            var entries: [ModelEntry] = []
            var tombstones: [RangeTombstone] = []
            for file in outputs {
                let table = try cache.table(file)
                entries += try table.makeIterator().allEntries()
                tombstones += table.rangeTombstones.tombstones()
            }
            // What a cut has cut grows together again. A piece that hides nothing may be missing where the
            // whole is there, so that tombstones are compared where they can matter: without deeper tables.
            let fragments = FragmentedTombstones(tombstones).fragments
            #expect(expected == nil || expected == entries, "seed \(seed) parts \(parts)")
            if compaction.deeperRanges.isEmpty {
                #expect(expectedTombstones == nil || expectedTombstones == fragments, "seed \(seed) parts \(parts)")
            }
            expected = entries
            expectedTombstones = fragments
        }
    }

    @Test func atTheBottomNothingObsoleteIsLeft() throws {
        for seed in 0..<6 as Range<UInt64> {
            var random = SeededRandom(seed &+ 2000)
            var job = try RandomJob(&random, maximumSnapshots: 0)
            job.deeper = []
            let compaction = try #require(job.compaction)
            let results = try Self.run(job, compaction, parts: 2)
            let outputs = results.flatMap(\.outputs)
            #expect(outputs.allSatisfy { $0.deletionCount == 0 && $0.rangeTombstoneCount == 0 })
            let live = try job.fixture.state(of: outputs, at: maximumSequenceNumber).count
            #expect(outputs.reduce(0) { $0 + $1.entryCount } == UInt64(live))
        }
    }

    @Test func deletesStayWhileOlderEntriesLieDeeper() throws {
        let fixture = try CompactionFixture()
        let top = try #require(
            try fixture.makeTable(
                [.init(key: [1], sequence: 10, value: nil), .init(key: [5], sequence: 11, value: nil)],
                [RangeTombstone(begin: [20], end: [30], sequence: 12), RangeTombstone(begin: [40], end: [50], sequence: 13)]))
        let deep = try #require(
            try fixture.makeTable([.init(key: [1], sequence: 1, value: [9]), .init(key: [2], sequence: 2, value: [9])], []))
        let deepRange = try #require(
            try fixture.makeTable(
                [.init(key: [29], sequence: 3, value: [9]), .init(key: [30], sequence: 4, value: [9])], []))
        let picker = CompactionPicker(levels: [[top], [], [], [], [], [], [deep, deepRange]], options: Options())
        let compaction = try #require(picker.assemble(.manual, [top], from: 0, to: 5))
        let descriptors = compaction.descriptors(options: Options(), snapshots: [], reserveNumbers: fixture.reserve)
        let result = try fixture.executor.run(descriptors[0])
        let output = try #require(result.outputs.first)
        let table = try fixture.tables.table(output)
        #expect(try table.makeIterator().allEntries() == [ModelEntry([1], 10, .delete)])
        #expect(table.rangeTombstones.tombstones() == [RangeTombstone(begin: [20], end: [30], sequence: 12)])
        #expect(result.droppedDeletes == 1 && result.entriesIn == 2 && result.entriesOut == 1)
    }

    // MARK: - Failures

    @Test(arguments: [ENOSPC, EIO])
    func aFailedWriteLeavesNoTables(code: Int32) throws {
        /// The same job each time, in a directory of its own; `prepare` plans the fault.
        func attempt(_ prepare: (FaultyStorage) -> Void) throws -> (job: RandomJob, before: [String], error: EngineError?) {
            var random = SeededRandom(3000)
            let job = try RandomJob(&random)
            let compaction = try #require(job.compaction)
            let before = job.fixture.tableNames
            var options = job.options
            options.tableFileSize = 1024
            let descriptors = compaction.descriptors(
                options: options, snapshots: job.snapshots, reserveNumbers: job.fixture.reserve)
            prepare(job.fixture.storage)
            do throws(EngineError) {
                _ = try job.fixture.executor.run(descriptors[0])
                return (job, before, nil)
            } catch {
                return (job, before, error)
            }
        }
        for operation in [FaultyStorage.Operation.create, .append, .sync, .close, .syncDirectory] {
            var callsBefore = 0
            let sound = try attempt { callsBefore = $0.calls(operation) }
            try #require(sound.error == nil)
            let calls = sound.job.fixture.storage.calls(operation) - callsBefore
            #expect(calls > (operation == .syncDirectory ? 0 : 3))
            for place in Set([1, (calls + 1) / 2, calls]) {
                let failed = try attempt { $0.fail(operation, at: place, code: code) }
                #expect(failed.error?.posixCode == code, "\(operation) \(place)")
                #expect(failed.job.fixture.tableNames == failed.before, "\(operation) \(place)")
            }
        }
    }

    @Test func aDamagedInputIsCorruptionAndLeavesNoTables() throws {
        var random = SeededRandom(3001)
        let job = try RandomJob(&random)
        let compaction = try #require(job.compaction)
        let before = job.fixture.tableNames
        let victim = job.fixture.layout.table(try #require(compaction.inputs.last?.files.first).number)
        let descriptor = open(victim, O_RDWR)
        var byte: UInt8 = 0
        #expect(pread(descriptor, &byte, 1, 200) == 1)
        byte ^= 0x40
        #expect(pwrite(descriptor, &byte, 1, 200) == 1)
        close(descriptor)
        let descriptors = compaction.descriptors(
            options: job.options, snapshots: job.snapshots, reserveNumbers: job.fixture.reserve)
        do throws(EngineError) {
            _ = try job.fixture.executor.run(descriptors[0])
            Issue.record("damage went unnoticed")
        } catch {
            guard case .corruption(let file, _, _, _) = error else {
                Issue.record("\(error)")
                return
            }
            #expect(file == victim)
        }
        #expect(job.fixture.tableNames == before)
    }

    @Test func stopsWhenAsked() throws {
        let fixture = try CompactionFixture()
        let file = try #require(
            try fixture.makeTable(
                (0..<200).map { .init(key: [UInt8($0)], sequence: 1, value: [UInt8](repeating: 1, count: 4096)) }, []))
        let picker = CompactionPicker(levels: [[file], [], [], [], [], [], []], options: Options())
        let compaction = try #require(picker.assemble(.manual, [file], from: 0, to: 6))
        let descriptors = compaction.descriptors(options: Options(), snapshots: [], reserveNumbers: fixture.reserve)
        var asked = 0
        #expect(throws: EngineError.closed) {
            _ = try fixture.executor.run(descriptors[0]) {
                asked += 1
                return asked == 3
            }
        }
        #expect(fixture.tableNames.count == 1)
    }

    @Test func theLimiterHoldsTheRate() {
        let limiter = RateLimiter(bytesPerSecond: 1_000_000)
        let start = ContinuousClock.now
        for _ in 0..<3 { limiter.acquire(100_000) }
        let elapsed = ContinuousClock.now - start
        #expect(elapsed > .milliseconds(250) && elapsed < .seconds(5))
    }

    // MARK: - Untrusted descriptors and results

    @Test func damagedDescriptorsAndResultsAreRefused() throws {
        var random = SeededRandom(4000)
        let job = try RandomJob(&random)
        let compaction = try #require(job.compaction)
        let descriptor = compaction.descriptors(
            options: job.options, snapshots: job.snapshots, maximumParts: 3, reserveNumbers: job.fixture.reserve)[0]
        let bytes = descriptor.encode()
        let again = try bytes.withUnsafeBytes { try CompactionDescriptor.decode($0, source: "test") }
        #expect(again.encode() == bytes)
        let result = try job.fixture.executor.run(descriptor).encode()
        for _ in 0..<500 {
            for original in [bytes, result] {
                var damaged = original
                switch Int.random(in: 0..<3, using: &random) {
                case 0: damaged.removeLast(Int.random(in: 1...damaged.count, using: &random))
                case 1: damaged[Int.random(in: 0..<damaged.count, using: &random)] ^= UInt8.random(in: 1...255, using: &random)
                default:
                    // A forger computes the checksum, too: then it may decode, but must not trap.
                    damaged[Int.random(in: 0..<damaged.count - 4, using: &random)] = UInt8.random(in: 0...255, using: &random)
                    var writer = ByteWriter()
                    writer.append(raw: Array(damaged.dropLast(4)))
                    writer.appendChecksum()
                    damaged = writer.bytes
                    damaged.withUnsafeBytes { raw in
                        _ = try? CompactionDescriptor.decode(raw, source: "test")
                        _ = try? CompactionResult.decode(raw, source: "test")
                    }
                    continue
                }
                damaged.withUnsafeBytes { raw in
                    #expect(throws: EngineError.self) { try CompactionDescriptor.decode(raw, source: "test") }
                    #expect(throws: EngineError.self) { try CompactionResult.decode(raw, source: "test") }
                }
            }
        }
    }

    @Test func wrongResultsAreNotValid() throws {
        var random = SeededRandom(4001)
        let job = try RandomJob(&random)
        let compaction = try #require(job.compaction)
        let descriptors = compaction.descriptors(
            options: job.options, snapshots: job.snapshots, reserveNumbers: job.fixture.reserve)
        let good = try job.fixture.executor.run(descriptors[0])
        try compaction.validate([good], of: descriptors)
        var lost = good
        lost.entriesOut -= 1
        lost.shadowedEntries += 1
        #expect(throws: EngineError.self) { try compaction.validate([lost], of: descriptors) }
        var missing = good
        missing.outputs.removeLast()
        #expect(throws: EngineError.self) { try compaction.validate([missing], of: descriptors) }
        var foreign = good
        foreign.outputs[0] = compaction.files[0]
        #expect(throws: EngineError.self) { try compaction.validate([foreign], of: descriptors) }
        #expect(throws: EngineError.self) { try compaction.validate([], of: descriptors) }
    }
}
