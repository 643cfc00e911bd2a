import Foundation
import Testing

@testable import O3LSM

/// Bytes from disk and from shared memory that are nearly right, made of real ones. Whoever reads them may refuse
/// them, but must not crash, hang, take unbounded memory, or, where a checksum covers them, read anything else than
/// what was written.
///
/// O3LSM_FUZZ_SECONDS (1) is the time for each target, O3LSM_FUZZ_SEED repeats a run: execution n depends on the seed
/// and n only.
@Suite struct FuzzTests {
    private static func environment(_ name: String) -> UInt64? {
        ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
    }
    private static let seconds = environment("O3LSM_FUZZ_SECONDS") ?? 1
    private static let seed = environment("O3LSM_FUZZ_SEED") ?? .random(in: 1...1_000_000)
    /// A single execution that takes longer hangs, or nearly.
    private static let patienceNanoseconds: UInt64 = 10_000_000_000

    /// Runs `body` with mutations until the time is over. What `body` throws, but for refusals, is a finding.
    func fuzz(_ name: String, _ corpus: [[UInt8]], _ body: (inout Mutator, [UInt8]) throws -> Void) {
        let end = monotonicNanoseconds() + Self.seconds * 1_000_000_000
        var executions: UInt64 = 0
        var refused: UInt64 = 0
        while monotonicNanoseconds() < end {
            let start = monotonicNanoseconds()
            var mutator = Mutator(seed: Self.seed &* 1_000_003 &+ executions)
            let bytes = mutator.mutation(of: corpus)
            do { try body(&mutator, bytes) } catch let error as EngineError {
                refused += 1
                switch error {
                case .corruption, .unsupportedFormat: break
                default: Issue.record("\(name), seed \(Self.seed), execution \(executions): \(error)")
                }
            } catch { Issue.record("\(name), seed \(Self.seed), execution \(executions): \(error)") }
            if monotonicNanoseconds() - start > Self.patienceNanoseconds {
                Issue.record("\(name), seed \(Self.seed), execution \(executions) takes too long")
            }
            executions += 1
        }
        print("FuzzTests: \(name), seed \(Self.seed): \(executions) executions, \(refused) refused")
    }

    struct Wrong: Error, CustomStringConvertible { var description: String }

    // MARK: Files

    @Test func tables() throws {
        var model = TableModel(entries: [])
        for number in 0..<200 {
            let kind: EntryKind = number % 9 == 8 ? .delete : .put
            model.entries.append(
                TableEntry(
                    key: Array("directory/\(100 + number / 7)/file \(1000 + number)".utf8),
                    trailer: Trailer(sequence: UInt64(900 - number), kind: kind),
                    value: kind == .put ? [UInt8](repeating: UInt8(number), count: number) : []))
        }
        model.entries.sort { $0.internalKey < $1.internalKey }
        model.tombstones = [RangeTombstone(begin: Array("e".utf8), end: Array("f".utf8), sequence: 78)]
        let corpus = try Compression.allCases.map { compression in
            var options = TableOptions()
            options.blockSize = 512
            options.indexBlockSize = 256
            options.compression = compression
            return try model.build(options).bytes
        }
        let entries = model.entries
        fuzz("tables", corpus) { _, bytes in
            let table = try Table.open(MemoryReadableFile(bytes), number: 1, cache: nil)
            let iterator = table.makeIterator()
            try iterator.seekToFirst()
            var index = 0
            while iterator.isValid {
                guard index < entries.count, iterator.tableEntry == entries[index] else {
                    throw Wrong(description: "entry \(index) is not what was written")
                }
                index += 1
                try iterator.next()
            }
            guard index == entries.count else { throw Wrong(description: "it ends after \(index) entries") }
            try table.verify()
        }
    }

    @Test func logFiles() throws {
        let fixture = try LogFixture((0..<6).map { group in (0..<3).map { Array("group \(group) record \($0)".utf8) } })
        let recycled = try LogFixture([[[1, 2, 3]], [[4]]], over: fixture.bytes)
        for (name, log) in [("log files", fixture), ("recycled log files", recycled)] {
            let payloads = log.payloads
            fuzz(name, [log.bytes]) { _, bytes in
                let found = try log.read(bytes).payloads
                guard found == Array(payloads.prefix(found.count)) else {
                    throw Wrong(description: "the records are no prefix")
                }
            }
        }
    }

    /// Past the checksums: what a record holds.
    @Test func logRecords() throws {
        var writer = ByteWriter(capacity: 64)
        writer.append(UInt64(7))
        writer.append(UInt32(2))
        for (kind, key, value) in [(UInt8(1), "key", "value"), (0x82, "begin", "end")] {
            writer.append(kind)
            writer.append(UInt16(key.utf8.count))
            writer.append(UInt32(value.utf8.count))
            writer.append(raw: Array(key.utf8))
            writer.append(raw: Array(value.utf8))
        }
        fuzz("log records", [writer.bytes]) { _, bytes in
            try bytes.withEngineBytes { payload throws(EngineError) in
                var sum = 0
                _ = try LogRecordReader.forEach(payload, file: "log", offset: 0) { _, _, _, key, value in
                    for byte in key { sum &+= Int(byte) }
                    for byte in value { sum &+= Int(byte) }
                }
                if sum < 0 { print(sum) }
            }
        }
    }

    @Test func manifests() throws {
        let storage = MemoryStorage()
        for directory in ["/store", "/store/sst", "/store/wal"] { try storage.createDirectory(directory) }
        let layout = StoreLayout(root: "/store")
        let set = try VersionSet.create(layout: layout, storage: storage) { _ in }
        var edits: [[UInt8]] = []
        for number in 1...6 {
            var edit = VersionEdit()
            edit.addedFiles = [(level: number % 2, file: FileMetadata.example(number))]
            edit.flushedSequence = UInt64(number * 10)
            if number > 4 { edit.deletedFiles = [(level: number % 2, number: UInt64(number - 2))] }
            edits.append(edit.encode())
            try set.logAndApply(edit)
        }
        let path = layout.manifest(1)
        let manifest = try #require(storage.bytes(of: path))
        let damaged = storage.afterPowerLoss(.nothing)
        let newest = set.liveFileNumbers()
        fuzz("manifests", [manifest]) { _, bytes in
            damaged.set(path, to: bytes)
            let found = try VersionSet.recover(layout: layout, storage: damaged) { _ in }
            // An end that is cut off is an older state; no other state may come of it.
            guard found.liveFileNumbers() == newest || found.flushedSequence < 60 else {
                throw Wrong(description: "other tables: \(found.liveFileNumbers())")
            }
        }
        fuzz("version edits", edits) { _, bytes in
            try bytes.withEngineBytes { bytes throws(EngineError) in
                let edit = try VersionEdit.decode(bytes, file: "manifest", offset: 0)
                var builder = VersionBuilder()
                try builder.apply(edit, file: "manifest", offset: 0)
                _ = try builder.build(file: "manifest", offset: 0)
            }
        }
    }

    @Test func identitiesAndCurrent() throws {
        let storage = MemoryStorage()
        try storage.createDirectory("/store")
        let layout = StoreLayout(root: "/store")
        let identity = try StoreIdentity.create(at: layout.identity, storage: storage)
        try CurrentFile.write(manifest: 12, layout, storage)
        let intact = (try #require(storage.bytes(of: layout.identity)), try #require(storage.bytes(of: layout.current)))
        fuzz("identities", [intact.0]) { _, bytes in
            storage.set(layout.identity, to: bytes)
            guard try StoreIdentity.load(from: layout.identity, storage: storage) == identity else {
                throw Wrong(description: "another identity")
            }
        }
        fuzz("CURRENT", [intact.1]) { _, bytes in
            storage.set(layout.current, to: bytes)
            guard try CurrentFile.read(layout, storage) == 12 else { throw Wrong(description: "another manifest") }
        }
    }

    /// Export streams, with sums that hold in most of them, and the small files of snapshots and imported stores.
    @Test func backups() throws {
        let snapshot = StoreSnapshot(
            name: "s", path: "/s", id: String(repeating: "ab", count: 16), source: String(repeating: "cd", count: 16),
            sequence: 77, created: 1_700_000_000, tables: 1, bytes: 1)
        var entries: [(key: [UInt8], value: [UInt8]?)] = []
        for number in 0..<300 {
            let value = number % 7 == 6 ? nil : [UInt8](repeating: UInt8(number % 251), count: number * 3)
            entries.append((Array("directory/\(1000 + number)".utf8), value))
        }
        var stream: [UInt8] = []
        let writer = try BackupWriter(BackupHeader(snapshot, base: nil)) { stream += $0 }
        for (key, value) in entries {
            try key.withEngineBytes { key throws(EngineError) in
                guard let value else { return try writer.remove(key) }
                try value.withEngineBytes { value throws(EngineError) in try writer.put(key, value) }
            }
        }
        try writer.finish()
        var isOrdered = true
        func read(_ bytes: [UInt8]) throws(EngineError) -> [(key: [UInt8], value: [UInt8]?)] {
            var position = 0
            let reader = try BackupReader(name: "stream") { buffer throws(EngineError) in
                let count = min(buffer.count, bytes.count - position)
                buffer.copyBytes(from: bytes[position..<position + count])
                position += count
                return count
            }
            var found: [(key: [UInt8], value: [UInt8]?)] = []
            try reader.forEach { key, value throws(EngineError) in
                if let last = found.last, !last.key.lexicographicallyPrecedes(key) { isOrdered = false }
                found.append((Array(key), value.map { Array($0) }))
            }
            return found
        }
        let intact = try read(stream)
        #expect(intact.elementsEqual(entries) { $0.key == $1.key && $0.value == $1.value })
        fuzz("export streams", [stream]) { _, bytes in
            let found = try read(bytes)
            guard found.elementsEqual(entries, by: { $0.key == $1.key && $0.value == $1.value }) else {
                throw Wrong(description: "another stream")
            }
        }
        let first = BackupFormat.headerBytes
        let frame = Array(stream[(first + BackupFormat.frameHeaderBytes)...])
        fuzz("export streams whose sums hold", [frame]) { mutator, bytes in
            var header = ByteWriter(capacity: 16)
            header.append(raw: [UInt8(1 + mutator.below(2)), 0, 0, 0])
            header.append(UInt32(bytes.count + mutator.below(3) * mutator.below(100_000)))
            header.append(UInt32(bytes.count))
            let prefix = header.bytes
            header.append(
                prefix.withUnsafeBytes { prefix in
                    bytes.withUnsafeBytes { BackupFormat.checksum(index: 0, prefix: prefix, stored: $0) }
                })
            isOrdered = true
            do { _ = try read(Array(stream[..<first]) + header.bytes + bytes) } catch {
                guard isOrdered else { throw Wrong(description: "entries out of order") }
                throw error
            }
        }
        let storage = MemoryStorage()
        try storage.createDirectory("/store")
        let layout = StoreLayout(root: "/store")
        let origin = OriginFile(snapshot: snapshot.id, sequence: 77)
        let file = SnapshotFile(source: snapshot.source, sequence: 77)
        fuzz("snapshots' and origins' files", [origin.encoded, file.encoded]) { _, bytes in
            storage.set(layout.origin, to: bytes)
            storage.set(layout.snapshot, to: bytes)
            if let found = try? SnapshotFile.load(layout, storage), found != file {
                throw Wrong(description: "another snapshot")
            }
            guard try OriginFile.load(layout, storage) == origin else { throw Wrong(description: "another origin") }
        }
    }

    // MARK: Shared memory

    @Test func jobDescriptors() throws {
        let memtable = try PrivateMemtable(count: 10, valueBytes: 10)
        var flush = memtable.descriptor
        flush.upperBound = Array("upper".utf8)
        flush.snapshots = [5, 9]
        fuzz("flush descriptors", [memtable.descriptor.encode(), flush.encode()]) { _, bytes in
            _ = FlushDescriptor.decode(bytes)
            _ = FlushResult.decode(bytes)
        }
        var compaction = CompactionDescriptor(
            inputs: [Compaction.Input(level: 1, files: [.example(3), .example(4)])], outputLevel: 2, begin: nil,
            end: Array("end".utf8), snapshots: [1, 2, 3],
            deeperRanges: [KeyRange(begin: [1], end: [2], isEndInclusive: true)], cutKeys: [[1], [2]],
            tableOptions: TableOptions(), outputFileSize: 1 << 20, firstOutputNumber: 100, outputNumberCount: 10)
        compaction.tableOptions.blockSize = 4096
        var result = CompactionResult()
        result.outputs = [.example(100)]
        fuzz("compaction descriptors and results", [compaction.encode(), result.encode()]) { mutator, bytes in
            var bytes = bytes
            // A sum that holds lets mutations reach the fields.
            if mutator.below(8) > 0, bytes.count >= 4 {
                bytes.removeLast(4)
                var writer = ByteWriter(capacity: bytes.count + 4)
                writer.append(raw: bytes)
                writer.appendChecksum()
                bytes = writer.bytes
            }
            try bytes.withEngineBytes { bytes throws(EngineError) in
                do throws(EngineError) { _ = try CompactionResult.decode(bytes, source: "result") } catch {}
                _ = try CompactionDescriptor.decode(bytes, source: "job")
            }
        }
    }

    /// Header, directory, roots and entries of a region: an owner that attaches, and a reader of what it found.
    @Test func regions() throws {
        let memtable = try PrivateMemtable(count: 400, valueBytes: 200, hasTombstones: true, regionBytes: 16 << 20)
        let region = memtable.region
        let used = RegionLayout.firstSlabOffset + 6 * RegionLayout.slabBytes
        let image = [UInt8](UnsafeRawBufferPointer(start: region.base, count: used))
        let root = memtable.memtable.map.shards[0].root - region.base
        let places: [Range<Int>] = [
            0..<256, RegionLayout.MemtableSlot.offset..<RegionLayout.MemtableSlot.offset + 512, root..<root + 256,
            root + 2048..<root + 2048 + 100_000,
        ]
        let corpus = places.map { Array(image[$0]) }
        var opened = 0
        fuzz("regions", corpus) { mutator, _ in
            _ = image.withUnsafeBytes { memcpy(region.base, $0.baseAddress ?? UnsafeRawPointer(region.base), used) }
            for _ in 0...mutator.below(3) {
                let place = places[mutator.below(places.count)]
                var bytes = Array(image[place])
                let count = bytes.count
                mutator.mutate(&bytes, corpus)
                // Places stay where they are: what is cut off or added at the end changes nothing.
                bytes.withUnsafeBytes {
                    (region.base + place.lowerBound).copyMemory(
                        from: $0.baseAddress ?? UnsafeRawPointer(region.base), byteCount: min(count, bytes.count))
                }
            }
            for visible in region.possibleVisibleSequences {
                let allocator = SlabAllocator(slabCount: region.slabCount)
                let found = try RegionRecovery.run(region, allocator, flushed: 0, visible: visible)
                opened += 1
                for memtable in found.memtables {
                    let iterator = memtable.makeIterator()
                    var steps = 0
                    try iterator.seekToFirst()
                    while iterator.isValid, steps < 10_000 {
                        _ = [UInt8](iterator.userKey).count + [UInt8](iterator.value).count
                        try iterator.next()
                        steps += 1
                    }
                    try iterator.seekToLast()
                }
                break
            }
        }
        print("FuzzTests: \(opened) of the regions were recovered")
    }

    /// What a worker answers about keys.
    @Test func readAnswers() throws {
        var room = [UInt8](repeating: 0, count: 256)
        let count = room.withUnsafeMutableBytes { buffer in
            var writer = MessageWriter(buffer)
            let value = Array("a value".utf8)
            value.withUnsafeBytes { value in
                writer.answer(ReadAnswer(state: .value, memtable: 1, shard: 2, offset: 4096, sequence: 9, value: value))
            }
            return writer.position
        }
        fuzz("read answers", [Array(room.prefix(count))]) { _, bytes in
            bytes.withUnsafeBytes { bytes in
                var reader = MessageReader(bytes)
                while let answer = reader.answer(memtables: 2) {
                    var sum = 0
                    for byte in answer.value { sum += Int(byte) }
                    if sum < 0 { print(sum) }
                }
            }
        }
    }

    /// The entries that a worker sends of a range.
    @Test func rangeAnswers() throws {
        var room = [UInt8](repeating: 0, count: 512)
        let count = room.withUnsafeMutableBytes { buffer in
            var writer = MessageWriter(buffer)
            for (number, isInline) in [(1, true), (2, false), (3, true)] {
                let (key, value) = (Array("key \(number)".utf8), Array("value \(number)".utf8))
                writer.number(Trailer(sequence: UInt64(number), kind: .put).rawValue)
                writer.number(UInt32(key.count))
                writer.number(UInt32(value.count))
                writer.number(UInt32(4096))
                writer.number(UInt16(2))
                writer.number(UInt16(isInline ? 1 : 0))
                key.withUnsafeBytes { writer.put($0) }
                if isInline { value.withUnsafeBytes { writer.put($0) } }
            }
            return writer.position
        }
        fuzz("range answers", [Array(room.prefix(count))]) { _, bytes in
            bytes.withUnsafeBytes { bytes in
                var reader = MessageReader(bytes)
                while let entry = reader.entry() {
                    var sum = 0
                    for byte in entry.key { sum += Int(byte) }
                    for byte in entry.value ?? entry.key { sum += Int(byte) }
                    if sum < 0 { print(sum) }
                }
            }
        }
    }
}

extension FileMetadata {
    /// A table of keys of its own.
    fileprivate static func example(_ number: Int) -> FileMetadata {
        let key = Array("key \(1000 + number)".utf8)
        return FileMetadata(
            number: UInt64(number), size: 5000, smallest: InternalKey(userKey: key, trailer: Trailer(sequence: UInt64(number * 10), kind: .put)),
            largest: InternalKey(userKey: key + [1], trailer: Trailer(sequence: UInt64(number * 10 - 1), kind: .put)),
            smallestSequence: UInt64(number * 10 - 5), largestSequence: UInt64(number * 10), entryCount: 10, deletionCount: 0,
            rangeTombstoneCount: 0)
    }
}
