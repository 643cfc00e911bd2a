import Glibc

/// How data blocks are compressed on storage.
public enum Compression: String, Sendable, CaseIterable {
    case none
    case lz4
}

/// Where memtables are born.
public enum Placement: String, Sendable, CaseIterable {
    /// In DM: offloading one is a change of owner, and what has returned survives processes by itself.
    case direct
    /// In private memory of the owner (`Options.localBuffer`), from where sealed memtables are copied to DM
    /// in the background. For DM that is far away. What has returned survives processes through the log,
    /// which is appended to before a write returns.
    case staged
}

/// Everything about a database that a caller may choose. Defaults suit a small machine; `validate`
/// says in one sentence what is wrong with a combination.
public struct Options: Sendable {
    /// Create the store when there is none at the path.
    public var createIfMissing = true
    /// Fail when there is a store at the path.
    public var errorIfExists = false
    /// Refuse every write, run no background work.
    public var readOnly = false

    /// Bytes of disaggregated memory; nil: one eighth of RAM within 256 MiB … 4 GiB and within what
    /// shared memory can hold. Ignored when a live region of the store is re-attached.
    public var dmSize: Int? = nil
    /// Touch all of disaggregated memory before the store opens, instead of shortly before writers come to it.
    public var dmPrefault = false
    /// Simulated distance to DM, see `FabricDistance`: nanoseconds of a round trip. 0 … 10,000,000; 0: none.
    public var dmLatencyNanoseconds = 0
    /// Simulated bytes a second of transfers to DM; nil: unbounded. At least 1 MiB.
    public var dmBandwidth: Int? = nil
    /// Where memtables are born.
    public var placement = Placement.direct
    /// Bytes of private memory for memtables, with `placement` staged. 2 MiB … 64 GiB; it holds two memtables
    /// at least.
    public var localBuffer = 128 << 20
    /// Threads that copy sealed memtables to DM, with `placement` staged. 1 … 16.
    public var transferThreads = 2
    /// Bytes a memtable holds before it is sealed. 1 MiB … 1 GiB, at most a quarter of the region.
    public var memtableSize = 64 << 20
    /// Shards a balanced memtable is split into. 1 … 16.
    public var shards = 8

    /// How long an operation may stay un-synced, in milliseconds: what power loss can cost. 10 … 3,600,000.
    public var commitIntervalMilliseconds = 1000
    /// Whether writes that never called `sync` reach the log at all within the commit interval.
    public var writeAheadLog = true
    /// Bytes of one log file before the next one is begun. 1 MiB … 1 GiB.
    public var logFileSize = 64 << 20

    /// Uncompressed bytes of a data block. 1 KiB … 1 MiB.
    public var blockSize = 4 << 10
    public var compression = Compression.lz4
    /// Bits of bloom filter a key; 0 for none, at most 32.
    public var bloomBitsPerKey = 10
    /// Bytes of the block cache. At least 1 MiB.
    public var cacheSize = 256 << 20
    /// Bytes of the cache of places of entries in sealed memtables, 16 for each; 0: none. At most 64 GiB.
    public var offsetCache = 0
    /// Whether reads in sealed memtables are left to workers with the role `reads`.
    public var readDelegation = ReadDelegationMode.off
    /// Table files kept open at once, fewer where the process may not open as many (`DescriptorLimit`). 16 … 15,000.
    public var maximumOpenTables = 4000

    /// Bytes of a table a compaction writes before it begins the next. 1 MiB … 1 GiB.
    public var tableFileSize = 64 << 20
    /// L0 tables over one range that make it worth a compaction. At least 1.
    public var l0CompactionTrigger = 4
    /// L0 tables over one range from which on writers are slowed down.
    public var l0SlowdownTrigger = 20
    /// L0 tables over one range at which writers wait.
    public var l0StopTrigger = 36
    /// Least bytes of L1 before it is compacted into L2.
    public var levelBaseSize = 256 << 20
    /// How many times larger each level is than the one above it. 2 … 100.
    public var levelSizeMultiplier = 10
    /// How long a worker may give no sign of life before its jobs are taken back, in milliseconds; also how long
    /// flushes are left to workers that are all busy. 400 … 600,000.
    public var workerLeaseMilliseconds = 3000
    /// Threads of this process that execute flush jobs. 1 … 64.
    public var flushThreads = 2
    /// Threads of this process that execute compaction jobs. 1 … 64.
    public var compactionThreads = 2
    /// Leave compaction to explicit calls of `compact` (bulk loads, tests).
    public var disableAutomaticCompaction = false

    public init() {}

    /// Throws `EngineError.invalidArgument` with one sentence that names the option and its range.
    public func validate() throws(EngineError) {
        func check(_ name: String, _ value: Int, _ range: ClosedRange<Int>) throws(EngineError) {
            guard range.contains(value) else {
                throw .invalidArgument(
                    "\(name) must be between \(range.lowerBound) and \(range.upperBound), not \(value)")
            }
        }
        if let dmSize { try check("dmSize", dmSize, (8 << 20)...(1 << 40)) }
        try check("dmLatencyNanoseconds", dmLatencyNanoseconds, 0...10_000_000)
        if let dmBandwidth { try check("dmBandwidth", dmBandwidth, (1 << 20)...(1 << 50)) }
        try check("localBuffer", localBuffer, (2 << 20)...(64 << 30))
        try check("transferThreads", transferThreads, 1...16)
        try check("memtableSize", memtableSize, (1 << 20)...(1 << 30))
        try check("shards", shards, 1...16)
        try check("commitIntervalMilliseconds", commitIntervalMilliseconds, 10...3_600_000)
        try check("logFileSize", logFileSize, (1 << 20)...(1 << 30))
        try check("blockSize", blockSize, (1 << 10)...(1 << 20))
        try check("bloomBitsPerKey", bloomBitsPerKey, 0...32)
        try check("cacheSize", cacheSize, (1 << 20)...(1 << 40))
        try check("offsetCache", offsetCache, 0...(64 << 30))
        try check("maximumOpenTables", maximumOpenTables, 16...15_000)
        try check("tableFileSize", tableFileSize, (1 << 20)...(1 << 30))
        try check("l0CompactionTrigger", l0CompactionTrigger, 1...1000)
        try check("l0SlowdownTrigger", l0SlowdownTrigger, l0CompactionTrigger...1000)
        try check("l0StopTrigger", l0StopTrigger, l0SlowdownTrigger...1000)
        try check("levelBaseSize", levelBaseSize, (1 << 20)...(1 << 40))
        try check("levelSizeMultiplier", levelSizeMultiplier, 2...100)
        try check("workerLeaseMilliseconds", workerLeaseMilliseconds, 400...600_000)
        try check("flushThreads", flushThreads, 1...64)
        try check("compactionThreads", compactionThreads, 1...64)
    }
}

/// How a read or a scan is done.
public struct ReadOptions: Sendable {
    /// The state to read; nil: the newest when the read begins.
    public var snapshot: Snapshot? = nil
    /// First key of a scan; nil: none.
    public var lowerBound: [UInt8]? = nil
    /// First key after a scan; nil: none.
    public var upperBound: [UInt8]? = nil
    /// Whether blocks that are read stay in the block cache; false for large one-off scans.
    public var fillCache = true

    public init() {}
}
