/// A workload of `o3fs bench`, under the name db_bench gives it.
enum Workload: String, CaseIterable, Sendable {
    /// Writes keys in ascending order into a new store.
    case fillseq
    /// Writes keys in random order into a new store.
    case fillrandom
    /// Writes keys in random order into the store as it is.
    case overwrite
    /// As `fillrandom`, every write synced; a thousandth of the operations.
    case fillsync
    /// Reads random keys.
    case readrandom
    /// Reads random keys none of which exists.
    case readmissing
    /// Reads all entries in ascending order with one iterator a thread.
    case readseq
    /// Reads all entries in descending order with one iterator a thread.
    case readreverse
    /// Reads random keys, `batchSize` of them a call; counts keys.
    case multireadrandom
    /// Makes an iterator and positions it at a random key.
    case seekrandom
    /// `readrandom`, while one more thread overwrites; only the readers are measured.
    case readwhilewriting
    /// Deletes random keys.
    case deleterandom
    /// Writes the records of YCSB into a new store: `num` keys scattered over all numbers, threads taking turns.
    case ycsbload
    /// YCSB's A, on what `ycsbload` wrote: half reads, half updates.
    case ycsba
    /// 95 % reads, 5 % updates.
    case ycsbb
    /// Reads only.
    case ycsbc
    /// 95 % reads of the latest records, 5 % inserts.
    case ycsbd
    /// 95 % scans of 1 … 100 entries, 5 % inserts.
    case ycsbe
    /// Half reads, half reads followed by a write of the same record.
    case ycsbf
    /// Not measured by operation: moves memtables into tables.
    case flush
    /// Not measured by operation: compacts everything.
    case compact
    /// Not measured by operation: waits for flushes and compactions that are due.
    case waitforcompaction

    /// Whether it begins with an empty store.
    var needsFreshStore: Bool {
        switch self {
        case .fillseq, .fillrandom, .fillsync, .ycsbload: true
        default: false
        }
    }

    var writes: Bool {
        switch self {
        case .fillseq, .fillrandom, .fillsync, .overwrite, .deleterandom, .ycsbload: true
        default: false
        }
    }
}

/// What a run of workloads is made of; the fields carry db_bench's names.
struct BenchSettings: Sendable {
    var num = 1_000_000
    /// Operations of a reading workload, a thread; nil: `num`.
    var reads: Int?
    /// Seconds a workload runs; 0: until its operations are done.
    var duration = 0
    var keySize = 16
    var valueSize = 100
    var threads = 1
    var batchSize = 1
    /// Entries read behind the position of each seek.
    var seekNexts = 0
    /// Bytes of keys and values a second that the writer of `readwhilewriting` keeps to; nil: as fast as it can.
    var writeRateLimit: Int?
    var sync = false
    /// Share of a value's bytes that are left when it is compressed.
    var compressionRatio = 0.5
    var seed: UInt64 = 1
    /// Of the keys of workloads that keep the store; nil: uniform, and what YCSB says for its own.
    var distribution: KeyDistribution?
    /// Whether values carry their keys, and every read is checked. Stores must have been written with it.
    var verify = false
    /// Whether readrandom, readmissing, seekrandom and multireadrandom take turns with and without delegation.
    var comparesDelegation = false
}

/// What one workload measured.
struct BenchResult: Sendable {
    var name: String
    var operations = 0
    var seconds = 0.0
    /// Bytes of keys and values that were written or found.
    var bytes: UInt64 = 0
    /// Keys and positions that were looked for, and how many of them were there; nil for workloads that read nothing.
    var reads: Int?
    var found: Int?
    /// Entries that scans of YCSB returned; nil for other workloads.
    var entries: Int?
    /// What the writer of `readwhilewriting` wrote meanwhile, which is not measured; nil for other workloads.
    var backgroundWrites: Int?
    /// nil unless it was asked for, and ran long enough.
    var delegation: DelegationComparison?
    var p50Microseconds = 0.0
    var p99Microseconds = 0.0
    var p999Microseconds = 0.0
    var stallSeconds = 0.0
    var writeAmplification = 0.0

    var operationsPerSecond: Double { seconds > 0 ? Double(operations) / seconds : 0 }
    /// MiB a second, as db_bench counts them.
    var megabytesPerSecond: Double { seconds > 0 ? Double(bytes) / 1_048_576 / seconds : 0 }
}

/// The names are an interface: scripts read them.
extension BenchResult: Encodable {
    enum CodingKeys: String, CodingKey {
        case name
        case operations
        case reads
        case found
        case entries
        case backgroundWrites = "background_writes"
        case delegation
        case operationsPerSecond = "ops_per_second"
        case megabytesPerSecond = "mb_per_second"
        case p50Microseconds = "p50_us"
        case p99Microseconds = "p99_us"
        case p999Microseconds = "p999_us"
        case stallSeconds = "stall_seconds"
        case writeAmplification = "write_amplification"
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(name, forKey: .name)
        try container.encode(operations, forKey: .operations)
        try container.encodeIfPresent(reads, forKey: .reads)
        try container.encodeIfPresent(found, forKey: .found)
        try container.encodeIfPresent(entries, forKey: .entries)
        try container.encodeIfPresent(backgroundWrites, forKey: .backgroundWrites)
        try container.encodeIfPresent(delegation, forKey: .delegation)
        try container.encode(operationsPerSecond, forKey: .operationsPerSecond)
        try container.encode(megabytesPerSecond, forKey: .megabytesPerSecond)
        try container.encode(p50Microseconds, forKey: .p50Microseconds)
        try container.encode(p99Microseconds, forKey: .p99Microseconds)
        try container.encode(p999Microseconds, forKey: .p999Microseconds)
        try container.encode(stallSeconds, forKey: .stallSeconds)
        try container.encode(writeAmplification, forKey: .writeAmplification)
    }
}
