/// Who works for a store, at what, and what everybody has done. Keys in JSON are stable.
extension Statistics {
    /// A process that executes jobs: a worker, or the owner of the store.
    public struct Node: Codable, Sendable {
        public var pid: Int32
        public var roles: [String]
        /// Jobs it is executing, can execute at once, and has finished since it came.
        public var load: Int
        public var capacity: Int
        public var finishedJobs: UInt64
        /// Share of `capacity` that was busy, as a mean over about the last five seconds; 0 ... 1.
        public var busyShare: Double
        public var heartbeatAgeSeconds: Double

        enum CodingKeys: String, CodingKey {
            case pid, roles, load, capacity
            case finishedJobs = "finished_jobs"
            case busyShare = "busy_share"
            case heartbeatAgeSeconds = "heartbeat_age_seconds"
        }
    }
    /// A job in the job table.
    public struct Job: Codable, Sendable {
        /// What it reads.
        public struct Input: Codable, Sendable {
            /// A flush: a memtable and one of its shards, by the shard's index.
            public var memtable: UInt64?
            public var shard: Int?
            /// A compaction: a level and tables in it.
            public var level: Int?
            public var tables: [UInt64]?
            public var bytes: UInt64
        }
        /// `flush` or `compaction`.
        public var kind: String
        /// `posted` (nobody is at it), `claimed`, or `done` and `failed` (not collected yet).
        public var state: String
        /// Process id of who has claimed it.
        public var executor: Int32?
        /// Since it was posted.
        public var ageSeconds: Double
        public var inputs: [Input]
        /// Level that a compaction writes to.
        public var outputLevel: Int?

        enum CodingKeys: String, CodingKey {
            case kind, state, executor
            case ageSeconds = "age_seconds"
            case inputs
            case outputLevel = "output_level"
        }
    }
    /// What one process has done of the background work, since the store was opened.
    public struct Executor: Codable, Sendable {
        /// Of one kind of work. Sums over the executors are those of `Work`.
        public struct Share: Codable, Sendable {
            /// Results that were used.
            public var jobs = 0
            /// Attempts that came to nothing, leases lost among them.
            public var failedJobs = 0
            /// Of memtables or tables, by jobs whose results were used.
            public var bytesRead: UInt64 = 0
            /// Of tables that were kept.
            public var bytesWritten: UInt64 = 0

            enum CodingKeys: String, CodingKey {
                case jobs
                case failedJobs = "failed_jobs"
                case bytesRead = "bytes_read"
                case bytesWritten = "bytes_written"
            }
        }
        /// 0 for processes that have been gone for long, together.
        public var pid: Int32
        /// `daemon` (the owner of the store) or `worker`.
        public var role: String
        public var flush = Share()
        public var compaction = Share()
    }
}
