/// Where everything lies in a DM region: named offsets, in one place.
///
/// ```
/// 0         header          one page
/// 4 KiB     node table      64 nodes of 128 bytes
/// 12 KiB    doorbells       64 futex words, a cache line each
/// 16 KiB    memtables       64 slots of 8 KiB
/// 528 KiB   jobs            16 slots of 128 KiB
/// 2576 KiB  read rings      7 of 64 KiB
/// 3 MiB     slabs           1 MiB each, to the end of the region
/// ```
/// All integers are in the machine's byte order: a region never leaves the machine.
enum RegionLayout {
    static let magic: UInt64 = 0x4d44_4d53_4c33_4f00  // "\0O3LSMDM"
    static let version: UInt32 = 4

    static let slabBytes = 1 << 20
    static let slabShift: UInt32 = 20
    static let firstSlabOffset = 3 << 20
    static let minimumBytes = 16 << 20

    /// The region's header.
    enum Header {
        static let magic = 0  // u64
        static let version = 8  // u32
        static let slabBytes = 12  // u32
        static let regionBytes = 16  // u64
        static let generation = 24  // u64: the last generation given to a job
        static let storeID = 32  // 16 bytes
        static let bootID = 48  // 40 bytes of text, zero-padded
        static let ready = 88  // u32: 1 once the region is initialised and the log is read into it
        static let placement = 92  // u32: 1 while memtables are born outside of the region (staged)
        static let build = 96  // u32: the owner's build; processes of another build keep away
        static let visibleSequence = 128  // u64, a cache line of its own with the next one
        static let visibleComplement = 136  // u64: the complement of the visible sequence, stored before it
        static let nextMemtableID = 192  // u64
        static let durableSequence = 256  // u64: up to here storage holds everything, log and tables together
        static let durableComplement = 264  // u64: its complement; both are zero before the first sync
    }

    /// One attached process.
    enum Node {
        static let offset = 4096
        static let count = 64
        static let bytes = 128
        static let state = 0  // u32: 0 free, 1 attached, else being filled: process id << 8 | 2
        static let role = 4  // u32: 1 compute node, 2 worker
        static let processID = 8  // u32
        static let build = 12  // u32
        static let startTime = 16  // u64: clock ticks since boot, from /proc/PID/stat
        static let heartbeat = 24  // u64: CLOCK_MONOTONIC in nanoseconds
        static let load = 32  // u32: jobs it is executing
        static let capacity = 36  // u32: jobs it can execute at once
        static let roles = 40  // u32: bit mask of 1 << JobKind
        static let finished = 48  // u64: jobs it has finished
    }

    /// Futex words.
    enum Doorbells {
        static let offset = 12 << 10
        static let count = 64
        static let stride = 64
        static let jobPosted = 0
        static let jobFinished = 1
    }

    /// One memtable.
    enum MemtableSlot {
        static let offset = 16 << 10
        static let count = 64
        static let bytes = 8192
        static let state = 0  // u32, MemtableState
        static let shardCount = 4  // u32
        static let memtableID = 8  // u64
        static let firstSequence = 16  // u64
        static let lastSequence = 24  // u64, valid once sealed
        static let filterSlab = 32  // u32: 1 + first slab of the filter, 0 for none
        static let filterBytes = 36  // u32
        static let shards = 128
        static let maximumShards = 32
        static let shardBytes = 248

        /// One shard of a slot.
        enum Shard {
            static let rootSlab = 0  // u32: 1 + first slab, 0 while empty
            static let boundaryLength = 4  // u32
            static let boundary = 8  // the first key the shard may hold
            static let maximumBoundaryLength = 240
        }
    }

    /// One job descriptor.
    enum Job {
        static let offset = 528 << 10
        static let count = 16
        static let bytes = 128 << 10
        static let isLocal = 0  // u32: 1 when only the compute node can execute it
        static let kind = 4  // u32, JobKind
        static let word = 8  // u64: generation << 16 | node << 8 | JobState, see `JobWord`
        static let postedAt = 32  // u64: CLOCK_MONOTONIC in nanoseconds
        static let descriptorBytes = 40  // u32
        static let resultBytes = 44  // u32
        static let checksum = 48  // u32, CRC32C of the generation and the descriptor
        static let resultChecksum = 52  // u32, CRC32C of the generation and the result
        static let descriptor = 64
        static let maximumDescriptorBytes = (64 << 10) - 64
        static let result = 64 << 10
        static let maximumResultBytes = 64 << 10
    }

    /// One ring of delegated reads, see `ReadRing`: a head, then slots.
    enum Ring {
        static let offset = 2576 << 10
        static let count = 7
        static let bytes = 64 << 10
        static let server = 0  // u64: the worker that serves it, see `ReadRing.identity`; 0: nobody
        static let bell = 64  // u32, futex: counts requests posted while the server sleeps
        static let isAsleep = 68  // u32: 1 while the server sleeps, or is about to
        static let slots = 8192
        static let slotCount = 7
        static let slotBytes = 8192

        /// One request and its answer.
        enum Slot {
            static let word = 0  // u64: number of the request << 8 | state: 0 empty, 1 posted, 2 answered
            static let requestBytes = 16  // u32
            static let requestChecksum = 20  // u32, CRC32C of the number and the request
            static let answerBytes = 24  // u32
            static let answerChecksum = 28  // u32, CRC32C of the number and the answer
            static let isAwaited = 32  // u32: 1 while the owner sleeps on the word, or is about to
            static let request = 64
            static let maximumRequestBytes = 2048 - 64
            static let answer = 2048
            static let maximumAnswerBytes = 8192 - 2048
        }
    }

    /// The first slab of a shard begins with this.
    enum ShardRoot {
        static let magic = 0  // u32
        static let shardIndex = 4  // u32
        static let memtableID = 8  // u64
        static let slabCount = 16  // u32
        static let maximumHeight = 20  // u32
        static let used = 24  // u64: arena offset after the last reserved entry
        static let tombstoneHead = 32  // u32: newest range tombstone, linked by the first link
        static let tombstoneCount = 36  // u32
        static let entryCount = 40  // u64: entries reserved, range tombstones included
        static let headLinks = 64  // 16 × u32
        static let slabTable = 128  // 448 × u32
        static let maximumSlabs = 448
        static let firstEntry = 2048
        static let magicValue: UInt32 = 0x3153_334f  // "O3S1"
    }

    /// One entry of a shard's arena, aligned to eight bytes.
    ///
    /// ```
    /// 0  u32 allocation size   4  u16 key length   6  u8 kind, bit 7: last of its batch   7  u8 height
    /// 8  u64 sequence         16  u32 value length  20  u32 CRC32C of bytes 4..<7, 8..<20, key, value
    /// 24 u32 × height links   then key, then value
    /// ```
    /// Allocation size and sequence are written when the entry is reserved, before `used` moves past it.
    enum Entry {
        static let allocation = 0
        static let keyLength = 4
        static let kind = 6
        static let height = 7
        static let sequence = 8
        static let valueLength = 16
        static let checksum = 20
        static let links = 24
        static let batchEndFlag: UInt8 = 0x80
        /// Kind of an entry whose batch never became visible: recovery has taken it out.
        static let deadKind: UInt8 = 0x7f
        /// Allocation size that says: the rest of this slab is unused.
        static let skipRest: UInt32 = .max
        static let maximumHeight = 16
    }
}

/// The life of a memtable.
enum MemtableState: UInt32 {
    case free = 0
    case active = 1
    case sealed = 2
    case flushing = 3
    case flushed = 4
}

/// The life of a job.
enum JobState: UInt32 {
    case empty = 0
    case posted = 1
    case claimed = 2
    case done = 3
    case failed = 4
}

/// What a job does.
enum JobKind: UInt32, CaseIterable {
    case flush = 1
    case compaction = 2
}

/// Limits of one entry, known to every user of the engine.
public enum EntryLimits {
    /// Longest key in bytes.
    public static let maximumKeyBytes = 16 << 10
    /// Longest value in bytes.
    public static let maximumValueBytes = 768 << 10
    /// Most bytes that the entries of one batch may take together.
    public static let maximumBatchBytes = 8 << 20
}
