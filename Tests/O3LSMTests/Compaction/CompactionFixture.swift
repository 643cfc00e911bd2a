@testable import O3LSM

/// A directory with tables, and what they say at any sequence.
final class CompactionFixture {
    struct Write {
        var key: [UInt8]
        var sequence: SequenceNumber
        /// nil: a delete.
        var value: [UInt8]?
    }

    let directory: TemporaryDirectory
    let layout: StoreLayout
    let storage = FaultyStorage(POSIXStorage())
    var nextNumber: UInt64 = 1

    init() throws {
        directory = try TemporaryDirectory()
        layout = StoreLayout(root: directory.path)
        try storage.createDirectory(layout.tableDirectory)
    }

    /// A cache of its own for each use, so that every block comes from storage.
    var tables: TableCache {
        TableCache(
            storage: storage, layout: layout, capacity: 100, blockCache: BlockCache(capacity: 1 << 20))
    }

    var tableNames: [String] { ((try? storage.list(layout.tableDirectory)) ?? []).sorted() }

    static var tableOptions: TableOptions {
        var options = TableOptions()
        options.blockSize = 1024
        return options
    }

    func makeTable(_ writes: [Write], _ tombstones: [RangeTombstone]) throws -> FileMetadata? {
        let number = nextNumber
        nextNumber += 1
        let file = try storage.create(layout.table(number))
        let builder = TableBuilder(file: file, number: number, options: Self.tableOptions)
        let entries = writes.map { write in
            ModelEntry(write.key, write.sequence, write.value == nil ? .delete : .put, write.value ?? [])
        }
        for entry in entries.sorted() {
            try entry.key.withUnsafeBytes { key in
                try entry.value.withUnsafeBytes { try builder.add(key, entry.trailer, $0) }
            }
        }
        for tombstone in tombstones { try builder.addRangeTombstone(tombstone) }
        let metadata = try builder.finish()
        try file.close()
        if metadata == nil { try storage.delete(layout.table(number)) }
        return metadata
    }

    /// What a reader at `sequence` finds in tables that are asked together: the newest entry of each key
    /// that no range tombstone hides. A table's tombstones count only for keys within its bounds, as they do
    /// for a reader.
    func state(of files: [FileMetadata], at sequence: SequenceNumber) throws -> [[UInt8]: [UInt8]] {
        var newest: [[UInt8]: ModelEntry] = [:]
        var tombstones: [(FileMetadata, FragmentedTombstones)] = []
        let cache = tables
        for file in files {
            let table = try cache.table(file)
            tombstones.append((file, table.rangeTombstones))
            for entry in try table.makeIterator().allEntries() where entry.trailer.sequence <= sequence {
                if let other = newest[entry.key], other.trailer >= entry.trailer { continue }
                newest[entry.key] = entry
            }
        }
        var result: [[UInt8]: [UInt8]] = [:]
        for (key, entry) in newest where entry.trailer.kind == .put {
            let covering = key.withUnsafeBytes { bytes in
                tombstones.map { file, fragments in
                    KeyRange(file).position(of: bytes) == 0 ? fragments.newestCovering(bytes, upTo: sequence) : 0
                }.max() ?? 0
            }
            if covering < entry.trailer.sequence { result[key] = entry.value }
        }
        return result
    }

    var executor: CompactionExecutor { CompactionExecutor(storage: storage, layout: layout, tables: tables) }

    func reserve(_ count: Int) -> UInt64 {
        defer { nextNumber += UInt64(count) }
        return nextNumber
    }
}

/// A random L0 → L1 job: overlapping L0 tables over a sorted L1, under an L2 that holds older entries of
/// some of the keys.
struct RandomJob {
    let fixture: CompactionFixture
    var upper: [FileMetadata] = []
    var lower: [FileMetadata] = []
    var deeper: [FileMetadata] = []
    var snapshots: [SequenceNumber] = []
    var lastSequence: SequenceNumber = 0

    static func key(_ number: Int) -> [UInt8] {
        Array("key".utf8) + [UInt8(97 + number / 26 % 26), UInt8(97 + number % 26)] + (number % 3 == 0 ? [0] : [])
    }

    init(_ random: inout SeededRandom, maximumSnapshots: Int = 4) throws {
        let fixture = try CompactionFixture()
        self.fixture = fixture
        var sequence: SequenceNumber = 0
        /// One memtable's worth of writes within keys, as a table.
        func table(_ keys: Range<Int>, _ count: Int, tombstones tombstoneCount: Int) throws -> FileMetadata? {
            var writes: [CompactionFixture.Write] = []
            var tombstones: [RangeTombstone] = []
            for _ in 0..<count {
                sequence += 1
                let isDelete = Int.random(in: 0..<4, using: &random) == 0
                writes.append(
                    .init(
                        key: Self.key(Int.random(in: keys, using: &random)), sequence: sequence,
                        value: isDelete ? nil : random.bytes(Int.random(in: 0...80, using: &random))))
                if Int.random(in: 0..<count, using: &random) < tombstoneCount {
                    sequence += 1
                    let ends = [Int.random(in: keys, using: &random), Int.random(in: keys, using: &random)].sorted()
                    if ends[0] < ends[1] {
                        tombstones.append(
                            RangeTombstone(begin: Self.key(ends[0]), end: Self.key(ends[1]), sequence: sequence))
                    }
                }
            }
            return try fixture.makeTable(writes, tombstones)
        }
        /// Tables side by side.
        func level(_ tableCount: Int, _ entries: Int, within keys: Range<Int>) throws -> [FileMetadata] {
            let cuts = Set((0..<tableCount).map { _ in Int.random(in: keys, using: &random) }).sorted()
            return try zip(cuts, cuts.dropFirst()).compactMap { try table($0..<$1, entries, tombstones: 1) }
        }
        deeper = try level(4, 20, within: 0..<150)
        lower = try level(6, 60, within: 0..<300)
        for _ in 0..<Int.random(in: 1...5, using: &random) {
            let begin = Int.random(in: 0..<250, using: &random)
            let width = Int.random(in: 20...300, using: &random)
            if let file = try table(
                begin..<min(300, begin + width), Int.random(in: 5...200, using: &random),
                tombstones: Int.random(in: 0...4, using: &random))
            {
                upper.insert(file, at: 0)
            }
        }
        lastSequence = sequence
        snapshots = Set(
            (0..<Int.random(in: 0...maximumSnapshots, using: &random)).map { _ in
                SequenceNumber.random(in: 0...sequence, using: &random)
            }
        ).sorted()
    }

    var options: Options {
        var options = Options()
        options.blockSize = 1024
        options.tableFileSize = 4096
        return options
    }

    /// L0, L5 and L6 stand for the three.
    var compaction: Compaction? {
        let levels = [upper, [], [], [], [], lower, deeper]
        let picker = CompactionPicker(levels: levels, options: options)
        return picker.assemble(.manual, upper, from: 0, to: 5)
    }
}
