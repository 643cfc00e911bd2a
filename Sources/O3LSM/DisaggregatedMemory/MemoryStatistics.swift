/// What disaggregated memory holds. Keys in JSON are stable.
extension Statistics {
    /// One memtable.
    public struct MemtableState: Codable, Sendable {
        /// One of its shards.
        public struct ShardState: Codable, Sendable {
            /// Within the memtable; shards are listed in key order.
            public var index: Int
            /// `active` (it takes writes), `waiting`, `flushing` (somebody is at it) or `flushed` (its table is written).
            public var state: String
            /// Of entries.
            public var bytes: Int
            /// Range tombstones included.
            public var entries: UInt64
            public var slabs: Int
        }
        public var id: UInt64
        /// `active`, `sealed`, `flushing` or `flushed`.
        public var state: String
        /// `dm`, or `local` for memory of the owner alone.
        public var place: String
        /// Whether reads go to it. Others are flushed, and held by readers that began before.
        public var isRead: Bool
        public var bytes: Int
        public var entries: UInt64
        /// Slabs of the filter.
        public var filterSlabs: Int
        /// All slabs, the filter's included.
        public var slabs: Int
        public var shards: [ShardState]

        enum CodingKeys: String, CodingKey {
            case id, state, place
            case isRead = "is_read"
            case bytes, entries
            case filterSlabs = "filter_slabs"
            case slabs, shards
        }
    }
    public struct DisaggregatedMemory: Codable, Sendable {
        public var regionBytes = 0
        public var slabs = 0
        public var freeSlabs = 0
        /// Slabs taken that no memtable has yet: copies that are being made.
        public var slabsOnTheWay = 0
        /// Whether the region's object was deleted or replaced by somebody: no later process finds what is in it, so
        /// writes return when the log has them.
        public var isNameLost = false
        /// What simulated distance has been paid for, see `Options.dmLatencyNanoseconds`: by single accesses, and by
        /// transfers.
        public var paidRoundTrips = 0
        public var paidBytes = 0
        /// From new to old.
        public var memtables: [MemtableState] = []

        enum CodingKeys: String, CodingKey {
            case regionBytes = "region_bytes"
            case slabs
            case freeSlabs = "free_slabs"
            case slabsOnTheWay = "slabs_on_the_way"
            case isNameLost = "name_lost"
            case paidRoundTrips = "paid_round_trips"
            case paidBytes = "paid_bytes"
            case memtables
        }
    }
}
