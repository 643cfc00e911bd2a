import Glibc
import Testing

@testable import O3LSM

/// Snapshots that stay, and streams made of them, against a plain dictionary.
@Suite struct SnapshotTests {
    private static func options() -> Options {
        var options = Options()
        options.dmSize = 32 << 20
        options.memtableSize = 1 << 20
        options.tableFileSize = 1 << 20
        options.levelBaseSize = 2 << 20
        return options
    }

    private static func readOnly(_ path: String) throws -> Database {
        var options = options()
        options.readOnly = true
        options.createIfMissing = false
        return try Database.open(path, options: options)
    }

    private static func contents(_ database: Database) throws -> [[UInt8]: [UInt8]] {
        let cursor = try database.makeIterator()
        var found: [[UInt8]: [UInt8]] = [:]
        try cursor.seekToFirst()
        while cursor.isValid {
            found[Array(cursor.key)] = Array(cursor.value)
            try cursor.next()
        }
        return found
    }

    private static func contents(of path: String) throws -> [[UInt8]: [UInt8]] {
        let database = try readOnly(path)
        let found = try contents(database)
        #expect(try database.verify().isEmpty)
        try database.close()
        return found
    }

    private static func change(
        _ database: Database, _ model: inout [[UInt8]: [UInt8]], _ generator: inout SeededRandom, keys: Int, count: Int
    ) throws {
        func key(_ number: Int) -> [UInt8] { Array("key\(String(number + 1_000_000))".utf8) }
        for _ in 0..<count {
            let number = Int(generator.next() % UInt64(keys))
            switch generator.next() % 20 {
            case 0...14:
                let value = [UInt8](repeating: UInt8(truncatingIfNeeded: generator.next()), count: Int(generator.next() % 2000))
                try database.put(key(number), value)
                model[key(number)] = value
            case 15...18:
                try database.delete(key(number))
                model[key(number)] = nil
            default:
                let end = number + Int(generator.next() % 20)
                try database.deleteRange(key(number), key(end))
                for other in number..<max(number, end) { model[key(other)] = nil }
            }
        }
    }

    /// Streams of the whole and of what has changed since, through snapshots at random moments, under writers,
    /// flushes and compactions.
    @Test(arguments: [UInt64(1), 2, 3]) func eachIsWhatTheStoreWas(seed: UInt64) throws {
        var generator = SeededRandom(seed)
        let directory = TemporaryStore("snapshots")
        let database = try Database.open(directory.path, options: Self.options())
        let snapshots = SnapshotDirectory(store: directory.path)
        var model: [[UInt8]: [UInt8]] = [:]
        var states: [(snapshot: StoreSnapshot, model: [[UInt8]: [UInt8]])] = []
        for round in 0..<6 {
            try Self.change(database, &model, &generator, keys: 4000, count: 3000)
            if generator.next() % 3 == 0 { try database.compact() }
            states.append((try database.createSnapshot("round-\(round)"), model))
        }
        try Self.change(database, &model, &generator, keys: 4000, count: 1000)
        try database.compact()
        #expect(try Self.contents(database) == model)
        #expect(try snapshots.list() == states.map(\.snapshot))
        for (snapshot, model) in states { #expect(try Self.contents(of: snapshot.path) == model) }

        // A copy that follows from snapshot to snapshot, skipping some.
        let copy = directory.path + "-copy"
        defer { try? POSIXStorage().removeTree(copy) }
        var previous: StoreSnapshot?
        for (index, state) in states.enumerated() where index != 2 {
            let stream = try Self.export(state.snapshot, since: previous)
            let counts = try Self.importing(stream, to: copy).run()
            #expect(counts.values + counts.removals > 0)
            #expect(try Self.contents(of: copy) == state.model)
            if previous != nil { #expect(counts.values < state.model.count) }
            previous = state.snapshot
        }
        // What follows upon another snapshot is refused, and changes nothing.
        let foreign = try Self.export(states[3].snapshot, since: states[2].snapshot)
        #expect(throws: EngineError.self) { try Self.importing(foreign, to: copy).run() }
        #expect(try Self.contents(of: copy) == states[5].model)

        try snapshots.delete("round-0")
        #expect(try snapshots.list() == states.dropFirst().map(\.snapshot))
        #expect(try Self.contents(of: states[1].snapshot.path) == states[1].model)
        try database.close()
    }

    /// While writers are at it, a snapshot is a prefix of what each has written.
    @Test func aSnapshotUnderWritersIsAPrefix() throws {
        let directory = TemporaryStore("snapshots")
        let database = try Database.open(directory.path, options: Self.options())
        let writers = 4
        let rounds = 4000
        let threads = try (0..<writers).map { writer in
            try BackgroundThread("writer") {
                for number in 0..<rounds {
                    let batch = WriteBatch()
                    // Both keys of a batch, or none; each number after the one before it.
                    batch.put(Array("\(writer)/last".utf8), Array("\(number)".utf8))
                    batch.put(Array("\(writer)/\(number)".utf8), [UInt8](repeating: 7, count: 200))
                    try? database.write(batch)
                }
            }
        }
        var made: [StoreSnapshot] = []
        for number in 0..<5 {
            usleep(20_000)
            made.append(try database.createSnapshot("under-writers-\(number)"))
        }
        for thread in threads { thread.join() }
        try database.close()
        for snapshot in made {
            let found = try Self.contents(of: snapshot.path)
            for writer in 0..<writers {
                let last = found[Array("\(writer)/last".utf8)].flatMap { Int(String(decoding: $0, as: UTF8.self)) } ?? -1
                let present = found.keys.filter { $0.starts(with: Array("\(writer)/".utf8)) }.count
                #expect(present == (last < 0 ? 0 : last + 2))
            }
        }
    }

    /// Somebody has put a link where the new state is to be built.
    @Test func anImportDoesNotFollowALink() throws {
        let directory = TemporaryStore("snapshots")
        let database = try Database.open(directory.path, options: Self.options())
        try database.put([1], [1])
        let first = try database.createSnapshot("first")
        try database.put([2], [2])
        let second = try database.createSnapshot("second")
        try database.close()
        let (copy, elsewhere) = (directory.path + "-copy", directory.path + "-elsewhere")
        let storage = POSIXStorage()
        defer { for path in [copy, elsewhere] { try? storage.removeTree(path) } }
        defer { unlink(copy + ".o3fs-import") }
        try storage.createNewDirectory(elsewhere)
        try storage.create(elsewhere + "/f").close()
        #expect(symlink(elsewhere, copy + ".o3fs-import") == 0)
        #expect(throws: EngineError.self) { try Self.importing(try Self.export(first, since: nil), to: copy).run() }
        #expect(!storage.exists(copy))
        #expect(unlink(copy + ".o3fs-import") == 0)
        _ = try Self.importing(try Self.export(first, since: nil), to: copy).run()
        #expect(symlink(elsewhere + "/none", copy + ".o3fs-import") == 0)
        #expect(throws: EngineError.self) { try Self.importing(try Self.export(second, since: first), to: copy).run() }
        #expect(try Self.contents(of: copy) == [[1]: [1]])
        #expect(try storage.list(elsewhere) == ["f"])
    }

    private static func snapshotOfOneKey(_ directory: TemporaryStore) throws -> StoreSnapshot {
        let database = try Database.open(directory.path, options: options())
        try database.put([1], [1])
        let snapshot = try database.createSnapshot("first")
        try database.close()
        return snapshot
    }

    /// Where the new state is to be built lies something else, or an import that is at work.
    @Test func anImportRemovesNothingThatIsNotItsOwn() throws {
        let directory = TemporaryStore("snapshots")
        let snapshot = try Self.snapshotOfOneKey(directory)
        let copy = directory.path + "-copy"
        let storage = POSIXStorage()
        defer { for path in [copy, copy + ".o3fs-import"] { try? storage.removeTree(path) } }
        try storage.createNewDirectory(copy + ".o3fs-import")
        try storage.create(copy + ".o3fs-import/f").close()
        let stream = try Self.export(snapshot, since: nil)
        #expect(throws: EngineError.self) { try Self.importing(stream, to: copy).run() }
        #expect(try storage.list(copy + ".o3fs-import") == ["f"])
        try storage.delete(copy + ".o3fs-import/f")
        let held = try storage.lock(copy + ".o3fs-import/LOCK")
        let error = #expect(throws: EngineError.self) { try Self.importing(stream, to: copy).run() }
        if case .storeInUse? = error {} else { Issue.record("\(String(describing: error))") }
        #expect(storage.exists(copy + ".o3fs-import/LOCK"))
        withExtendedLifetime(held) {}
    }

    /// People name stores after what they did: none of them is a leftover.
    @Test func storesWithNamesOfDeedsAreNotTaken() throws {
        let directory = TemporaryStore("snapshots")
        let snapshot = try Self.snapshotOfOneKey(directory)
        let stream = try Self.export(snapshot, since: nil)
        let copy = directory.path + "-copy"
        let others = [".import", ".repair", ".new", ".old"].map { copy + $0 }
        let storage = POSIXStorage()
        defer { for path in [copy] + others { try? storage.removeTree(path) } }
        for other in others { _ = try Self.importing(stream, to: other).run() }
        #expect(throws: EngineError.self) { _ = try StoreRepair(copy).run(dryRun: false) }
        #expect(!storage.exists(copy))
        _ = try Self.importing(stream, to: copy).run()
        _ = try StoreRepair(copy).run(dryRun: false)
        for other in others {
            let open = try Database.open(other, options: Self.options())
            #expect(try open.get([1]) == [1])
            try open.close()
        }
    }

    /// An import that was interrupted after the exchange has left the store's snapshots beside it, and the store has got
    /// another one since.
    @Test func snapshotsOfBeforeAndAfterAnInterruptedImportStay() throws {
        let directory = TemporaryStore("snapshots")
        let database = try Database.open(directory.path, options: Self.options())
        var snapshots: [StoreSnapshot] = []
        for number in 1...3 as ClosedRange<UInt8> {
            try database.put([number], [number])
            snapshots.append(try database.createSnapshot("s\(number)"))
        }
        try database.close()
        let copy = directory.path + "-copy"
        let storage = POSIXStorage()
        defer { for path in [copy, copy + ".o3fs-import"] { try? storage.removeTree(path) } }
        func snapshot(_ name: String) throws {
            let database = try Database.open(copy, options: Self.options())
            _ = try database.createSnapshot(name)
            try database.close()
        }
        _ = try Self.importing(try Self.export(snapshots[0], since: nil), to: copy).run()
        try snapshot("monday")
        let faulty = FaultyStorage()
        faulty.fail(.rename, path: "/snapshots", code: EIO)
        let changes = try Self.export(snapshots[1], since: snapshots[0])
        #expect(throws: EngineError.self) { try Self.importing(changes, to: copy, storage: faulty).run() }
        #expect(try Self.contents(of: copy) == [[1]: [1], [2]: [2]])
        #expect(try SnapshotDirectory(store: copy).list().isEmpty)
        try snapshot("tuesday")
        _ = try Self.importing(try Self.export(snapshots[2], since: snapshots[1]), to: copy).run()
        #expect(try Set(SnapshotDirectory(store: copy).list().map(\.name)) == ["monday", "tuesday"])
        #expect(try Self.contents(of: copy) == [[1]: [1], [2]: [2], [3]: [3]])
        #expect(!storage.exists(copy + ".o3fs-import"))
    }

    /// Every byte of a stream counts, and so does its end; the store that it was for stays what it was.
    @Test func aDamagedStreamIsRefused() throws {
        let directory = TemporaryStore("snapshots")
        let database = try Database.open(directory.path, options: Self.options())
        var generator = SeededRandom(7)
        var model: [[UInt8]: [UInt8]] = [:]
        try Self.change(database, &model, &generator, keys: 5, count: 10)
        let first = try database.createSnapshot("first")
        try Self.change(database, &model, &generator, keys: 5, count: 10)
        let second = try database.createSnapshot("second")
        try database.close()
        let copy = directory.path + "-copy"
        defer { try? POSIXStorage().removeTree(copy) }
        let whole = try Self.export(first, since: nil)
        let change = try Self.export(second, since: first)
        for place in whole.indices {
            var damaged = whole
            damaged[place] ^= 1 << UInt8(place % 8)
            #expect(throws: EngineError.self, "byte \(place)") { try Self.importing(damaged, to: copy).verify() }
        }
        for length in stride(from: 0, to: whole.count, by: 3) {
            #expect(throws: EngineError.self) { try Self.importing(Array(whole[..<length]), to: copy).verify() }
        }
        #expect(throws: EngineError.self) { try Self.importing(whole + [0], to: copy).verify() }
        _ = try Self.importing(whole, to: copy).run()
        let before = try Self.contents(of: copy)
        #expect(throws: EngineError.self) { try Self.importing(Array(change.dropLast(1)), to: copy).run() }
        #expect(throws: EngineError.self) { try Self.importing(whole, to: copy).run() }
        #expect(try Self.contents(of: copy) == before)
        _ = try Self.importing(change, to: copy).run()
        #expect(try Self.contents(of: copy) == model)
        // Now it is written to: no more changes.
        let changed = try Database.open(copy, options: Self.options())
        try changed.put([1], [1])
        try changed.close()
        #expect(throws: EngineError.self) { try Self.importing(change, to: copy).run() }
    }

    /// What only the snapshot has is free once it is deleted; what it shares, is not its own.
    @Test func deletingGivesSpaceBack() throws {
        let directory = TemporaryStore("snapshots")
        let database = try Database.open(directory.path, options: Self.options())
        let value = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* $0 >> 3) }
        for number in 0..<100 { try database.put(Array("key\(number)".utf8), value) }
        let snapshot = try database.createSnapshot("kept")
        let snapshots = SnapshotDirectory(store: directory.path)
        #expect(snapshots.ownBytes(snapshot) == 0)
        try database.deleteRange(Array("key".utf8), Array("kez".utf8))
        try database.compact()
        #expect(snapshots.ownBytes(snapshot) == snapshot.bytes)
        #expect(try Self.contents(of: snapshot.path).count == 100)
        // It cannot be deleted while somebody reads it, nor be written to.
        let reader = try Self.readOnly(snapshot.path)
        #expect(throws: EngineError.self) { try snapshots.delete("kept") }
        try reader.close()
        #expect(throws: EngineError.readOnly(reason: "\(snapshot.path) is a snapshot, to be read only")) {
            try Database.open(snapshot.path, options: Self.options())
        }
        try snapshots.delete("kept")
        #expect(access(snapshot.path, F_OK) != 0)
        #expect(try POSIXStorage().list(directory.path + "/snapshots").isEmpty)
        try database.close()
    }

    @Test func badNamesAreRefused() throws {
        let directory = TemporaryStore("snapshots")
        let database = try Database.open(directory.path, options: Self.options())
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "ä", String(repeating: "a", count: 101)] {
            #expect(throws: EngineError.self) { try database.createSnapshot(name) }
        }
        try database.createSnapshot("a")
        #expect(throws: EngineError.invalidArgument("the store \(directory.path) already has a snapshot a")) {
            try database.createSnapshot("a")
        }
        #expect(throws: EngineError.self) { try SnapshotDirectory(store: directory.path).delete("b") }
        try database.close()
    }

    /// Whatever call of a creation fails: no snapshot, nothing left of it, and the store goes on.
    @Test func aFailureLeavesNothing() throws {
        let directory = TemporaryStore("snapshots")
        let storage = FaultyStorage(POSIXStorage())
        let database = try Database.open(directory.path, options: Self.options(), storage: storage)
        try database.put([1], [1])
        try database.flush()
        var failures = 0
        for operation in FaultyStorage.Operation.allCases where operation != .lock {
            for call in 1... {
                let before = storage.calls(operation)
                storage.fail(operation, path: "/snapshots", at: call)
                let name = "\(operation)-\(call)"
                let made = (try? database.createSnapshot(name)) != nil
                storage.heal()
                let found = try SnapshotDirectory(store: directory.path).list()
                #expect(found.map(\.name) == (made ? [name] : []), "\(operation) \(call)")
                for snapshot in found { #expect(try Self.contents(of: snapshot.path) == [[1]: [1]]) }
                if made { try SnapshotDirectory(store: directory.path).delete(name) }
                failures += made ? 0 : 1
                if storage.calls(operation) - before < call { break }
            }
        }
        #expect(failures > 15)
        #expect(try database.get([1]) == [1])
        try database.close()
    }

    private static func export(_ snapshot: StoreSnapshot, since base: StoreSnapshot?) throws -> [UInt8] {
        final class Sink { var bytes: [UInt8] = [] }
        let sink = Sink()
        let counts = try Export.run(snapshot, since: base) { sink.bytes += Array($0) }
        #expect(counts.streamBytes == sink.bytes.count)
        return sink.bytes
    }

    private static func importing(
        _ stream: [UInt8], to store: String, storage: any Storage = POSIXStorage()
    ) throws -> Import {
        final class Source { var offset = 0 }
        let source = Source()
        return try Import(to: store, name: "the stream", storage: storage) { buffer in
            let count = min(buffer.count, stream.count - source.offset, 1000)
            buffer.copyBytes(from: stream[source.offset..<source.offset + count])
            source.offset += count
            return count
        }
    }
}
