import Synchronization

/// What a database has done and holds, as plain numbers. Keys in JSON are stable.
public struct Statistics: Codable, Sendable {
    /// Waits of writers for one cause, those that go on included.
    public struct Stall: Codable, Sendable {
        public var count: Int
        public var seconds: Double
        /// Writers that wait now, and for how long the first of them has.
        public var waiting = 0
        public var longestWaitSeconds = 0.0

        enum CodingKeys: String, CodingKey {
            case count, seconds, waiting
            case longestWaitSeconds = "longest_wait_seconds"
        }
    }
    /// Sealed memtables, and the time it took writers to go on in the next one.
    public struct HandOver: Codable, Sendable {
        public var count = 0
        public var seconds = 0.0
        public var longestSeconds = 0.0

        enum CodingKeys: String, CodingKey {
            case count, seconds
            case longestSeconds = "longest_seconds"
        }
    }
    /// Background work of one kind.
    public struct Work: Codable, Sendable {
        /// Jobs executed by threads of the owner of the store.
        public var localJobs = 0
        /// Jobs executed by other processes.
        public var offloadedJobs = 0
        /// Attempts that came to nothing; their jobs were done again.
        public var failedJobs = 0
        /// Those among them whose executor died or stopped answering.
        public var lostLeases = 0
        /// Memtables that were found damaged in DM and made again. Flushes only.
        public var repairedMemtables = 0
        /// Memtables that were flushed together with others. Flushes only.
        public var mergedMemtables = 0
        public var bytesRead: UInt64 = 0
        public var bytesWritten: UInt64 = 0
        public var entriesIn: UInt64 = 0
        public var entriesDropped: UInt64 = 0
        /// Files that changed level without being rewritten.
        public var trivialMoves = 0
        /// Files that left the tree unread, because range tombstones hid all of them.
        public var droppedTables = 0
        public var seconds = 0.0

        enum CodingKeys: String, CodingKey {
            case localJobs = "local_jobs"
            case offloadedJobs = "offloaded_jobs"
            case failedJobs = "failed_jobs"
            case lostLeases = "lost_leases"
            case repairedMemtables = "repaired_memtables"
            case mergedMemtables = "merged_memtables"
            case bytesRead = "bytes_read"
            case bytesWritten = "bytes_written"
            case entriesIn = "entries_in"
            case entriesDropped = "entries_dropped"
            case trivialMoves = "trivial_moves"
            case droppedTables = "dropped_tables"
            case seconds
        }
    }
    /// One level of the tree.
    public struct Level: Codable, Sendable {
        public var level: Int
        public var files: Int
        public var bytes: UInt64
    }
    /// Memtables that left private memory, with placement `staged`.
    public struct Offload: Codable, Sendable {
        /// Copied to DM.
        public var memtables = 0
        public var bytes: UInt64 = 0
        /// From the decision to the last byte, summed.
        public var seconds = 0.0
        /// Flushed from private memory, because DM had no room or the copy would have been for nothing.
        public var flushedLocally = 0
        /// Copies that were not what they should be, and were thrown away.
        public var failed = 0

        enum CodingKeys: String, CodingKey {
            case memtables
            case bytes
            case seconds
            case flushedLocally = "flushed_locally"
            case failed
        }
    }
    public struct Log: Codable, Sendable {
        public var bytesWritten: UInt64 = 0
        public var syncs: UInt64 = 0
        public var syncRequests: UInt64 = 0
        public var syncedSequence: UInt64 = 0

        enum CodingKeys: String, CodingKey {
            case bytesWritten = "bytes_written"
            case syncs
            case syncRequests = "sync_requests"
            case syncedSequence = "synced_sequence"
        }
    }
    public struct Cache: Codable, Sendable {
        public var hits: UInt64 = 0
        public var misses: UInt64 = 0
        public var usedBytes = 0
        public var capacityBytes = 0

        enum CodingKeys: String, CodingKey {
            case hits
            case misses
            case usedBytes = "used_bytes"
            case capacityBytes = "capacity_bytes"
        }
    }
    /// The cache of places of entries in sealed memtables.
    public struct OffsetCache: Codable, Sendable {
        /// Lookups in sealed memtables that it answered.
        public var hits: UInt64 = 0
        /// Those that walked the index, behind the memtable's filter.
        public var misses: UInt64 = 0
        /// 0: there is none.
        public var capacityBytes = 0

        enum CodingKeys: String, CodingKey {
            case hits
            case misses
            case capacityBytes = "capacity_bytes"
        }
    }
    /// Reads of one kind and class in sealed memtables, by the way that was chosen for them.
    public struct DelegationClass: Codable, Sendable {
        /// `point`; `cached`: a point read whose place the offset cache knows; `batch`: a key of several; `scan`: a cursor.
        public var kind = ""
        /// `near` or `far`: whether accesses to the memtables cost something beside their time.
        public var distance = ""
        /// How many memtables it goes through: `1`, `2-3`, `4-7` or `8+`.
        public var memtables = ""
        /// `direct`, `cached` or `delegated`.
        public var preference = ""
        /// Reads by walks, by place, and by asking. Those that go the direct way unasked are counted by samples.
        public var direct: UInt64 = 0
        public var cached: UInt64 = 0
        public var delegated: UInt64 = 0
        /// Reads that were made to see what the other way costs.
        public var trials: UInt64 = 0
        /// Running estimates: of a lookup, of a key of several, of an entry of a scan; 0: not known.
        public var directNanoseconds: UInt64 = 0
        public var cachedNanoseconds: UInt64 = 0
        public var delegatedNanoseconds: UInt64 = 0

        enum CodingKeys: String, CodingKey {
            case kind
            case distance
            case memtables
            case preference
            case direct
            case cached
            case delegated
            case trials
            case directNanoseconds = "direct_nanoseconds"
            case cachedNanoseconds = "cached_nanoseconds"
            case delegatedNanoseconds = "delegated_nanoseconds"
        }
    }
    /// Reads in sealed memtables that are left to workers.
    public struct Delegation: Codable, Sendable {
        /// `off`, `on` or `auto`.
        public var mode = ReadDelegationMode.off.rawValue
        /// Processes that serve reads.
        public var servers = 0
        /// Keys asked for, and those of requests that were answered.
        public var keys: UInt64 = 0
        public var answered: UInt64 = 0
        /// Batches of entries that iterators were sent.
        public var ranges: UInt64 = 0
        /// Requests that ended in direct reads: no answer in time or the server dead, a damaged answer, no free slot
        /// or no room for the request; and keys of which the server knew nothing.
        public var timeouts: UInt64 = 0
        public var damaged: UInt64 = 0
        public var busy: UInt64 = 0
        public var unknown: UInt64 = 0
        /// Reads by the way that was chosen for them, sums over `classes`: single ones, lookups of several keys, cursors.
        public var directReads: UInt64 = 0
        public var cachedReads: UInt64 = 0
        public var delegatedReads: UInt64 = 0
        /// One row for each kind and class of reads that there were.
        public var classes: [DelegationClass] = []
        /// Running estimates of a lookup in the sealed memtables, of the class that was read most; 0: not known.
        public var directNanoseconds: UInt64 = 0
        public var delegatedNanoseconds: UInt64 = 0
        /// The same of a key of several that are looked up at once.
        public var batchDirectNanoseconds: UInt64 = 0
        public var batchDelegatedNanoseconds: UInt64 = 0
        /// The same of an entry of a scan, which shares the cost of the seek.
        public var scanDirectNanoseconds: UInt64 = 0
        public var scanDelegatedNanoseconds: UInt64 = 0
        /// Reads, batches and scans that were made to see what the other way costs.
        public var trials: UInt64 = 0

        enum CodingKeys: String, CodingKey {
            case mode
            case servers
            case keys
            case answered
            case ranges
            case timeouts
            case damaged
            case busy
            case unknown
            case directReads = "direct_reads"
            case cachedReads = "cached_reads"
            case delegatedReads = "delegated_reads"
            case classes
            case directNanoseconds = "direct_nanoseconds"
            case delegatedNanoseconds = "delegated_nanoseconds"
            case batchDirectNanoseconds = "batch_direct_nanoseconds"
            case batchDelegatedNanoseconds = "batch_delegated_nanoseconds"
            case scanDirectNanoseconds = "scan_direct_nanoseconds"
            case scanDelegatedNanoseconds = "scan_delegated_nanoseconds"
            case trials
        }
    }
    /// How the database came to life.
    public struct Recovery: Codable, Sendable {
        /// `created`, `region`, or `log`.
        public var source = "created"
        public var seconds = 0.0
        /// Entries read back from the log.
        public var replayedEntries: UInt64 = 0
        /// Entries of batches that had not become visible.
        public var droppedEntries: UInt64 = 0
        /// Why a region that was found could not be used; nil when none was found or it was used.
        public var note: String?

        enum CodingKeys: String, CodingKey {
            case source
            case seconds
            case replayedEntries = "replayed_entries"
            case droppedEntries = "dropped_entries"
            case note
        }
    }

    public var visibleSequence: UInt64 = 0
    public var flushedSequence: UInt64 = 0
    /// Bytes of keys and values that callers have written since the database was opened.
    public var bytesWritten: UInt64 = 0
    public var writes: UInt64 = 0
    public var reads: UInt64 = 0
    public var snapshots = 0
    public var flush = Work()
    public var compaction = Work()
    public var stalls: [String: Stall] = [:]
    public var handOver = HandOver()
    public var levels: [Level] = []
    public var dm = DisaggregatedMemory()
    /// `direct` or `staged`.
    public var placement = Placement.direct.rawValue
    public var offload = Offload()
    /// Processes that execute jobs for the owner of the store.
    public var workers: [Node] = []
    /// The owner itself.
    public var owner: Node?
    /// Jobs in flight.
    public var jobs: [Job] = []
    /// What everybody has done.
    public var executors: [Executor] = []
    public var wal = Log()
    public var cache = Cache()
    public var offsetCache = OffsetCache()
    public var delegation = Delegation()
    public var recovery = Recovery()
    /// The scrub that runs, or the last one since the store was opened; nil: none.
    public var scrub: ScrubReport?
    /// The last failure of work in the background that was, or will be, done again; and how long ago, in seconds.
    public var lastFailure: String?
    public var lastFailureAgeSeconds: Double?
    /// Why writes are refused, when they are.
    public var writeError: String?

    /// (log + flush + compaction bytes) / bytes written by callers; 0 before the first write.
    public var writeAmplification: Double {
        guard bytesWritten > 0 else { return 0 }
        return Double(wal.bytesWritten + flush.bytesWritten + compaction.bytesWritten) / Double(bytesWritten)
    }
    public var stallSeconds: Double { stalls.values.reduce(0) { $0 + $1.seconds } }

    enum CodingKeys: String, CodingKey {
        case visibleSequence = "visible_sequence"
        case flushedSequence = "flushed_sequence"
        case bytesWritten = "bytes_written"
        case writes
        case reads
        case snapshots
        case flush
        case compaction
        case stalls
        case handOver = "hand_over"
        case levels
        case dm
        case placement
        case offload
        case workers
        case owner
        case jobs
        case executors
        case wal
        case cache
        case offsetCache = "offset_cache"
        case delegation
        case recovery
        case scrub
        case lastFailure = "last_failure"
        case lastFailureAgeSeconds = "last_failure_age_seconds"
        case writeError = "write_error"
    }

    public init() {}
}
