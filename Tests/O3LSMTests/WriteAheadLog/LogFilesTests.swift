import Glibc
import Testing

@testable import O3LSM

@Suite struct LogFilesTests {
    private let layout = StoreLayout(root: "store")
    /// Bytes after which the next file is begun: a few records.
    private static let fileSize: UInt64 = 150

    private func emptyStore() throws -> MemoryStorage {
        let storage = MemoryStorage()
        try storage.createDirectory(layout.logDirectory)
        return storage
    }

    private func open(_ storage: any Storage) throws -> LogFiles {
        try LogFiles.open(layout: layout, storage: storage, fileSize: LogFilesTests.fileSize)
    }

    /// A record that says its own sequence.
    private func append(_ sequence: SequenceNumber, to files: LogFiles) throws {
        try withUnsafeBytes(of: sequence.littleEndian) { try files.append($0, sequences: sequence...sequence) }
    }

    /// What is in the files, file by file.
    private func contents(_ files: LogFiles, _ storage: any Storage) throws -> [(
        number: UInt64, sequences: [SequenceNumber]
    )] {
        try files.recoveredNumbers.map { number in
            var sequences: [SequenceNumber] = []
            try LogReader.forEach(storage: storage, path: layout.log(number), logNumber: number, kind: .writeAhead) {
                (payload, offset) throws(EngineError) in
                var reader = ByteReader(payload)
                sequences.append(reader.read(UInt64.self) ?? 0)
            }
            return (number, sequences)
        }
    }

    @Test func filesAreRecycledAndThenRemoved() throws {
        let storage = try emptyStore()
        let files = try open(storage)
        for sequence in 1...20 as ClosedRange<UInt64> { try append(sequence, to: files) }
        try files.sync()
        #expect(try storage.list(layout.logDirectory).count == 5)
        try files.release(through: 16)
        // Two of the four closed files are kept to be written over.
        #expect(try storage.list(layout.logDirectory) == ["000001.free", "000002.free", "000005.log"])
        for sequence in 21...25 as ClosedRange<UInt64> { try append(sequence, to: files) }
        try files.sync()
        #expect(try storage.list(layout.logDirectory) == ["000005.log", "000006.log", "000007.log"])
        let again = try open(storage)
        #expect(try contents(again, storage).flatMap(\.sequences).filter { $0 > 16 } == Array(17...25))
    }

    /// One file that storage does not let go keeps no others.
    @Test func aFileThatCannotBeReleasedIsTriedAgain() throws {
        let memory = try emptyStore()
        let storage = FaultyStorage(memory)
        let files = try open(storage)
        for sequence in 1...20 as ClosedRange<UInt64> { try append(sequence, to: files) }
        try files.sync()
        storage.fail(.rename, path: "000001", times: .max, code: EIO)
        #expect(throws: EngineError.self) { try files.release(through: 16) }
        #expect(try memory.list(layout.logDirectory) == ["000001.log", "000002.free", "000003.free", "000005.log"])
        storage.heal()
        try files.release(through: 16)
        #expect(try memory.list(layout.logDirectory) == ["000002.free", "000003.free", "000005.log"])
    }

    /// What tries on a full disk have written is of use to nobody, unless somebody was told that it is there.
    @Test func anAbandonedFileGoesOnAFullDiskIfNothingInItWasPromised() throws {
        let storage = try emptyStore()
        let files = try open(storage)
        for sequence in 1...3 as ClosedRange<UInt64> { try append(sequence, to: files) }
        files.abandonCurrent(promised: 0)
        #expect(try storage.list(layout.logDirectory) == [])
        for promised in [2, nil] as [UInt64?] {
            for sequence in 1...3 as ClosedRange<UInt64> { try append(sequence, to: files) }
            try files.sync()
            files.abandonCurrent(promised: promised)
        }
        #expect(try storage.list(layout.logDirectory) == ["000002.log", "000003.log"])
        #expect(try contents(try open(storage), storage).flatMap(\.sequences) == [1, 2, 3, 1, 2, 3])
    }

    @Test func freeFilesOfTheLastOwnerAreRemoved() throws {
        let storage = try emptyStore()
        let files = try open(storage)
        for sequence in 1...20 as ClosedRange<UInt64> { try append(sequence, to: files) }
        try files.sync()
        try files.release(through: 100)
        let again = try open(storage)
        #expect(again.recoveredNumbers == [5])
        #expect(try storage.list(layout.logDirectory) == ["000005.log"])
        again.removeAll()
        #expect(try storage.list(layout.logDirectory) == [])
    }

    @Test func recoveredFilesAreKeptUntilTheirContentsAreKnown() throws {
        let storage = try emptyStore()
        let first = try open(storage)
        for sequence in 1...8 as ClosedRange<UInt64> { try append(sequence, to: first) }
        try first.sync()
        let files = try open(storage)
        #expect(files.recoveredNumbers == [1, 2])
        try files.release(through: 100)
        #expect(try storage.list(layout.logDirectory).count == 2)
        for (number, sequences) in try contents(files, storage) {
            files.setRecoveredLastSequence(number, sequences.last ?? 0)
        }
        try files.release(through: 4)
        try append(9, to: files)
        // The first file goes on as the third.
        #expect(try storage.list(layout.logDirectory) == ["000002.log", "000003.log"])
    }

    @Test func strangersAreLeftAlone() throws {
        let storage = try emptyStore()
        for name in ["1.log", "notes.txt", "x.log", "000001.old"] {
            storage.set(layout.logDirectory + "/" + name, to: [1])
        }
        #expect(try open(storage).recoveredNumbers.isEmpty)
    }

    /// No number comes after the greatest one: names that have it, or one near it, are somebody else's.
    @Test(arguments: [UInt64.max, UInt64.max - 1, UInt64.max / 2])
    func numbersThatNoStoreComesTo(number: UInt64) throws {
        let storage = try emptyStore()
        storage.set(layout.log(number), to: [1])
        storage.set(layout.freeLog(number), to: [1])
        let files = try open(storage)
        #expect(files.recoveredNumbers.isEmpty)
        try append(1, to: files)
        try files.sync()
        #expect(try storage.list(layout.logDirectory) == ["000001.log", "\(number).log"])
    }

    /// Sequences 1 … 40, a sync after each fourth, a release now and then.
    private func run(_ files: LogFiles, _ synced: inout SequenceNumber, _ released: inout SequenceNumber) throws {
        for sequence in 1...40 as ClosedRange<UInt64> {
            try append(sequence, to: files)
            if sequence % 4 == 0 {
                try files.sync()
                synced = sequence
            }
            if sequence % 10 == 0 {
                released = sequence - 6
                try files.release(through: released)
            }
        }
    }

    @Test func powerLossAnywhereLeavesAPrefixWithAllThatWasSynced() throws {
        let complete = try emptyStore()
        var (synced, released): (SequenceNumber, SequenceNumber) = (0, 0)
        try run(try open(complete), &synced, &released)
        for crash in 0...complete.changes {
            let storage = try emptyStore()
            (synced, released) = (0, 0)
            let files = try open(storage)
            storage.stop(after: crash)
            try? run(files, &synced, &released)
            for loss in [MemoryStorage.Loss.everything, .nothing] + (0..<6).map({ .torn(UInt64(crash * 6 + $0)) }) {
                var survivor = storage.afterPowerLoss(loss)
                var atLeast = synced
                for _ in 0..<2 {
                    var expected = released + 1
                    do {
                        for sequence in try contents(try open(survivor), survivor).flatMap(\.sequences)
                        where sequence >= expected {
                            #expect(sequence == expected, "a gap, crash \(crash), \(loss)")
                            expected = sequence + 1
                        }
                    } catch { Issue.record("crash \(crash), \(loss): \(error)") }
                    #expect(expected > atLeast, "crash \(crash), \(loss): \(atLeast) was synced")
                    atLeast = expected - 1
                    // What a recovery has read stays.
                    survivor = survivor.afterPowerLoss(.everything)
                }
            }
        }
    }
}
