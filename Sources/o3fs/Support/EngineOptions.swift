import ArgumentParser
import O3LSM

/// The options of the engine that commands share. Those left out keep the engine's defaults.
struct EngineOptions: ParsableArguments {
    @Option(name: dashed("dm-size"), help: "Disaggregated memory. Default: 1/8 of RAM within 256M and 4G.")
    var dmSize: ByteSize?

    @Flag(
        name: dashed("dm-prefault"),
        help: "Touch all of disaggregated memory before the start: slower to start, no first use later.")
    var dmPrefault = false

    @Option(
        help: "Where memtables are born: direct (in disaggregated memory) or staged (in private memory, copied later).")
    var placement = Options().placement

    @Option(name: dashed("local-buffer"), help: "Private memory for memtables with --placement staged.")
    var localBuffer = ByteSize(Options().localBuffer)

    @Option(name: dashed("transfer-threads"), help: "Threads that copy memtables with --placement staged.")
    var transferThreads = Options().transferThreads

    @Option(name: dashed("memtable-size"), help: "Bytes of a memtable, at most a quarter of --dm-size.")
    var memtableSize = ByteSize(Options().memtableSize)

    @Option(help: "Shards a memtable is split into, 1 to 16.")
    var shards = Options().shards

    @Option(name: dashed("cache-size"), help: "Bytes of the block cache.")
    var cacheSize = ByteSize(Options().cacheSize)

    @Option(
        name: dashed("offset-cache"),
        help: "Bytes of the cache of places of entries in sealed memtables, 16 for each; 0 for none.")
    var offsetCache = ByteSize(Options().offsetCache)

    @Option(
        name: dashed("read-delegation"),
        help: "Leave reads in sealed memtables to workers: \(ReadDelegationMode.allCases.map(\.rawValue).joined(separator: ", ")).")
    var readDelegation = Options().readDelegation

    @Option(name: dashed("bloom-bits"), help: "Bits of bloom filter a key; 0 for none.")
    var bloomBits = Options().bloomBitsPerKey

    @Option(help: "Compression of blocks: \(Compression.allCases.map(\.rawValue).joined(separator: " or ")).")
    var compression = Options().compression

    @Option(name: dashed("block-size"), help: "Bytes of a table's data block before compression.")
    var blockSize = ByteSize(Options().blockSize)

    @Option(name: dashed("commit-interval"), help: "Milliseconds an operation may stay un-synced.")
    var commitInterval = Options().commitIntervalMilliseconds

    @Option(
        name: dashed("worker-lease"), help: "Milliseconds without a sign of life after which a worker's jobs are taken back.")
    var workerLease = Options().workerLeaseMilliseconds

    @Option(name: dashed("flush-threads"), help: "Threads that flush memtables.")
    var flushThreads = Options().flushThreads

    @Option(name: dashed("compaction-threads"), help: "Threads that compact tables.")
    var compactionThreads = Options().compactionThreads

    /// The engine's options. Throws one sentence for a value outside its range.
    func makeOptions() throws(EngineError) -> Options {
        var options = Options()
        options.dmSize = dmSize?.bytes
        options.dmPrefault = dmPrefault
        options.placement = placement
        options.localBuffer = localBuffer.bytes
        options.transferThreads = transferThreads
        options.memtableSize = memtableSize.bytes
        options.shards = shards
        options.cacheSize = cacheSize.bytes
        options.offsetCache = offsetCache.bytes
        options.readDelegation = readDelegation
        options.bloomBitsPerKey = bloomBits
        options.compression = compression
        options.blockSize = blockSize.bytes
        options.commitIntervalMilliseconds = commitInterval
        options.workerLeaseMilliseconds = workerLease
        options.flushThreads = flushThreads
        options.compactionThreads = compactionThreads
        try options.validate()
        return options
    }
}

extension Placement: ExpressibleByArgument {}
extension Compression: ExpressibleByArgument {}
extension ReadDelegationMode: ExpressibleByArgument {}

/// A long option under its name with dashes and, for those who come from db_bench, with underscores.
func dashed(_ name: String) -> NameSpecification {
    let underscored = String(name.map { $0 == "-" ? "_" : $0 })
    return underscored == name ? [.customLong(name)] : [.customLong(name), .customLong(underscored)]
}
