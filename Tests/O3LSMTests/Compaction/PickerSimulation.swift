import Testing

@testable import O3LSM

/// A tree of tables that exist only as sets of (key, sequence), grown by random flushes and shrunk by the
/// picker's jobs, several at a time, committed in random order. After each step every key's newest entry
/// must be the one that a reader finds first.
struct PickerSimulation {
    typealias Contents = [Int: SequenceNumber]

    var random: SeededRandom
    let seed: UInt64
    var options = Options()
    var levels: [[FileMetadata]] = Array(repeating: [], count: 7)
    var contents: [UInt64: Contents] = [:]
    var truth: Contents = [:]
    var inFlight: [Compaction] = []
    var nextNumber: UInt64 = 1
    var sequence: SequenceNumber = 0
    var picked: [Compaction.Reason: Int] = [:]
    var moves = 0
    var deepest = 0
    var mostInFlight = 0
    var commits = 0
    /// Free bytes of the pretended disk when it is nearly full.
    var spaceBytes: UInt64?
    /// The oldest sequence that a pretended snapshot holds.
    var oldestSnapshot: SequenceNumber?

    static let keySpace = 2000
    /// Pretended bytes of one entry.
    static let entryBytes: UInt64 = 1000

    init(seed: UInt64) {
        self.seed = seed
        random = SeededRandom(seed)
        // validate() would refuse sizes this small; the picker does not mind.
        options.tableFileSize = 20_000
        options.levelBaseSize = 100_000
        options.levelSizeMultiplier = Int.random(in: 3...8, using: &random)
        options.l0CompactionTrigger = Int.random(in: 2...4, using: &random)
        options.l0SlowdownTrigger = options.l0CompactionTrigger + Int.random(in: 4...8, using: &random)
    }

    static func key(_ number: Int) -> [UInt8] { [UInt8(number >> 8), UInt8(number & 0xff)] }
    static func number(_ key: [UInt8]) -> Int { Int(key[0]) << 8 | Int(key[1]) }

    /// - Parameter isClean: the table has no tombstones, because nothing lies under it and no snapshot keeps them.
    mutating func makeFile(_ entries: Contents, isClean: Bool = false) -> FileMetadata? {
        guard let low = entries.keys.min(), let high = entries.keys.max(), let lowSequence = entries[low],
            let highSequence = entries[high], let oldest = entries.values.min(), let newest = entries.values.max()
        else { return nil }
        let number = nextNumber
        nextNumber += 1
        contents[number] = entries
        let hasDeletes = UInt64.random(in: 0...3, using: &random) == 0 && !isClean
        let isClustered = hasDeletes && Int.random(in: 0...3, using: &random) == 0
        return FileMetadata(
            number: number, size: UInt64(entries.count) * Self.entryBytes,
            smallest: InternalKey(userKey: Self.key(low), trailer: Trailer(sequence: lowSequence, kind: .put)),
            largest: InternalKey(userKey: Self.key(high), trailer: Trailer(sequence: highSequence, kind: .put)),
            smallestSequence: oldest, largestSequence: newest,
            entryCount: UInt64(entries.count) + (isClustered ? 2 * CompactionPicker.clusteredDeletions : 0),
            deletionCount: isClustered ? CompactionPicker.clusteredDeletions : hasDeletes ? UInt64(entries.count / 2) : 0,
            rangeTombstoneCount: 0,
            densestDeletions: isClustered ? CompactionPicker.clusteredDeletions : 0)
    }

    /// A memtable's worth of writes, cut into tables of disjoint key ranges.
    mutating func flush() {
        var entries: Contents = [:]
        let isSequential = Int.random(in: 0..<4, using: &random) == 0
        let start = Int.random(in: 0..<Self.keySpace, using: &random)
        let width = isSequential ? 60 : [Self.keySpace, 300].randomElement(using: &random) ?? 300
        for step in 0..<Int.random(in: 5...60, using: &random) {
            let key = (start + (isSequential ? step : Int.random(in: 0..<width, using: &random))) % Self.keySpace
            sequence += 1
            entries[key] = sequence
            truth[key] = sequence
        }
        let shards = Int.random(in: 1...8, using: &random)
        let cuts = (0..<shards - 1).map { _ in Int.random(in: 0..<Self.keySpace, using: &random) }.sorted()
        var begin = 0
        for end in cuts + [Self.keySpace] {
            if let file = makeFile(entries.filter { $0.key >= begin && $0.key < end }) { levels[0].append(file) }
            begin = end
        }
        sortLevels()
    }

    /// A snapshot is made, or the oldest one goes, now and then.
    mutating func moveSnapshot() {
        switch Int.random(in: 0..<10, using: &random) {
        case 0: oldestSnapshot = nil
        case 1: oldestSnapshot = oldestSnapshot ?? sequence
        default: break
        }
    }

    mutating func sortLevels() {
        levels[0].sort { ($0.largestSequence, $0.number) > ($1.largestSequence, $1.number) }
        for level in 1..<levels.count { levels[level].sort { $0.smallest < $1.smallest } }
    }

    var picker: CompactionPicker {
        CompactionPicker(levels: levels, options: options, inFlight: inFlight, spaceBytes: spaceBytes,
            isSpaceScarce: spaceBytes != nil, oldestSnapshot: oldestSnapshot)
    }

    /// Takes a picked compaction in flight, after checking it against those that are.
    mutating func begin(_ compaction: Compaction) throws {
        for other in inFlight {
            #expect(Set(other.files.map(\.number)).isDisjoint(with: compaction.files.map(\.number)), "seed \(seed)")
            #expect(
                other.outputLevel != compaction.outputLevel || !other.range.overlaps(compaction.range), "seed \(seed)")
        }
        let chosen = Set(compaction.files.map(\.number))
        let isTaken = compaction.files.contains { $0.isBeingCompacted.load(ordering: .relaxed) }
        #expect(!isTaken, "seed \(seed)")
        if compaction.level == 0, compaction.outputLevel > 0 {
            for (index, file) in levels[0].enumerated() where chosen.contains(file.number) {
                for older in levels[0][(index + 1)...] where KeyRange(older).overlaps(KeyRange(file)) {
                    try #require(chosen.contains(older.number), "an older table is left behind, seed \(seed)")
                }
            }
        }
        compaction.setBusy(true)
        inFlight.append(compaction)
        picked[compaction.reason, default: 0] += 1
        if compaction.isTrivialMove { moves += 1 }
        mostInFlight = max(mostInFlight, inFlight.count)
    }

    /// Commits a compaction in flight: the newest entry of each key of its inputs.
    mutating func commit(_ index: Int) throws {
        let compaction = inFlight.remove(at: index)
        compaction.setBusy(false)
        let numbers = Set(compaction.files.map(\.number))
        for level in levels.indices { levels[level].removeAll { numbers.contains($0.number) } }
        if compaction.isTrivialMove {
            levels[compaction.outputLevel] += compaction.files
        } else {
            var merged: Contents = [:]
            for file in compaction.files {
                merged.merge(contents[file.number] ?? [:]) { max($0, $1) }
                contents[file.number] = nil
            }
            let keys = merged.keys.sorted()
            let perFile = options.tableFileSize / Int(Self.entryBytes)
            for start in stride(from: 0, to: keys.count, by: perFile) {
                let part = Set(keys[start..<min(start + perFile, keys.count)])
                let entries = merged.filter { part.contains($0.key) }
                let isKept = entries.values.contains { $0 > oldestSnapshot ?? maximumSequenceNumber }
                if let file = makeFile(entries, isClean: compaction.deeperRanges.isEmpty && !isKept) {
                    levels[compaction.outputLevel].append(file)
                }
            }
        }
        sortLevels()
        try check()
    }

    mutating func check() throws {
        try Version(levels: levels).checkInvariants()
        deepest = max(deepest, Level0Columns(levels[0]).maximumDepth)
        // The costly part, now and then.
        commits += 1
        guard commits % 16 == 0 || inFlight.isEmpty else { return }
        var seen: Contents = [:]
        for file in levels.joined() {
            for (key, sequence) in contents[file.number] ?? [:] where seen[key] == nil { seen[key] = sequence }
        }
        try #require(seen == truth, "a reader finds an old entry first, seed \(seed)")
    }
}
