import ArgumentParser
import Glibc
import O3LSM

/// `o3fs bench`: db_bench's workloads on the engine, without the file system.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure the engine with db_bench's workloads.",
        discussion: """
            Workloads run one after the other on one store; those whose name begins with fill start with an \
            empty one. Keys are numbers below --num, values compress to --compression-ratio of their size. \
            Times are taken for each operation (for each batch when --batch-size is more than 1).

            ycsba to ycsbf are the workloads of YCSB on the --num records of ycsbload; each thread does --reads \
            operations, and what it inserts, it alone reads.

            With --json each workload prints one line, an object with name, operations, ops_per_second, \
            mb_per_second, p50_us, p99_us, p999_us, stall_seconds and write_amplification; those that read have \
            reads and found, too, ycsbe the entries of its scans, readwhilewriting what its writer has written as
            background_writes, and with --compare-delegation an object delegation with pairs, ratio and margin.
            """
    )

    @Argument(
        help: "Directory of the store; it must be empty, missing, or from an earlier run. Default: a temporary one."
    )
    var directory: String?

    @Option(name: dashed("db"), help: "The same, as db_bench spells it.")
    var db: String?

    @Option(
        name: dashed("benchmarks"),
        help: "Comma-separated: \(Workload.allCases.map(\.rawValue).joined(separator: ", "))."
    )
    var benchmarks = "fillseq,fillsync,fillrandom,overwrite,readrandom,readseq,seekrandom,readwhilewriting"

    @Option(name: dashed("num"), help: "Number of keys, and of operations a thread.")
    var num = 1_000_000

    @Option(name: dashed("reads"), help: "Operations of a reading workload, a thread. Default: --num.")
    var reads: Int?

    @Option(name: dashed("duration"), help: "Seconds a workload runs, instead of a number of operations.")
    var duration = 0

    @Option(name: dashed("key-size"), help: "Bytes of a key, at least 8.")
    var keySize = 16

    @Option(name: dashed("value-size"), help: "Bytes of a value.")
    var valueSize = ByteSize(100)

    @Option(name: dashed("threads"), help: "Threads that work at once.")
    var threads = 1

    @Option(name: dashed("batch-size"), help: "Entries of a write batch, and keys of a call of multireadrandom.")
    var batchSize = 1

    @Option(
        name: dashed("benchmark-write-rate-limit"),
        help: "Bytes a second that the writer of readwhilewriting keeps to. Default: as many as it can."
    )
    var writeRateLimit: ByteSize?

    @Option(name: dashed("seek-nexts"), help: "Entries that seekrandom reads behind each position.")
    var seekNexts = 0

    @Option(name: dashed("compression-ratio"), help: "Share of a value that is left when it is compressed.")
    var compressionRatio = 0.5

    @Option(name: dashed("seed"), help: "Seed of the random numbers.")
    var seed: UInt64 = 1

    @Option(
        name: dashed("distribution"),
        help: """
            Of the keys: \(KeyDistribution.allCases.map(\.rawValue).joined(separator: ", ")). Workloads that begin with \
            an empty store do without. Default: uniform, and what YCSB says for its workloads.
            """)
    var distribution: KeyDistribution?

    @Flag(
        name: dashed("verify"),
        help: "Values carry their keys and every read is checked. For stores that were written with it.")
    var verify = false

    @Flag(
        name: dashed("compare-delegation"),
        help: """
            Readrandom, readmissing, seekrandom and multireadrandom take turns of 4 ms with and without --read-delegation, \
            and the ratio of their speeds is printed. One thread; 10 seconds or more say something.
            """)
    var comparesDelegation = false

    @Flag(name: dashed("sync"), help: "Sync each write.")
    var sync = false

    @Flag(name: dashed("use-existing-db"), help: "Keep the store that is there; fill workloads are skipped.")
    var useExistingDB = false

    @Option(
        help: """
            What leaves this process: \(BenchOffload.allCases.map(\.rawValue).joined(separator: ", ")). All but all \
            hold two memtables in memory. Default: whatever the other options say, without workers.
            """)
    var offload: BenchOffload?

    @Option(help: "Worker processes, with --offload or --read-delegation.")
    var workers = 1

    @Option(name: dashed("worker-threads"), help: "Jobs that a worker process executes at once.")
    var workerThreads = 2

    @Option(name: dashed("worker-cpus"), help: "Processors of the workers, as 0,2-3.")
    var workerCPUs: String?

    @Option(help: "Processors of this process, as 0,2-3.")
    var cpus: String?

    @OptionGroup(title: "Engine") var engine: EngineOptions

    @OptionGroup(title: "Simulated distance") var distance: DistanceOptions

    @Flag(help: "Print one JSON object a line a workload.")
    var json = false

    @Flag(name: dashed("statistics"), help: "At the end, print the engine's statistics as one JSON object.")
    var statistics = false

    func validate() throws {
        guard num > 0 else { throw ValidationError("--num must be at least 1.") }
        guard (8...16_384).contains(keySize) else { throw ValidationError("--key-size must be 8 to 16384.") }
        guard valueSize.bytes <= 768 << 10 else { throw ValidationError("--value-size must be at most 768K.") }
        guard (1...1024).contains(threads) else { throw ValidationError("--threads must be 1 to 1024.") }
        guard batchSize > 0, batchSize * (keySize + valueSize.bytes) <= 64 << 20 else {
            throw ValidationError("--batch-size must be at least 1, and a batch at most 64M.")
        }
        guard !verify || valueSize.bytes >= ValueStamp.byteCount else {
            throw ValidationError("--verify needs a --value-size of at least \(ValueStamp.byteCount).")
        }
        guard !comparesDelegation || threads == 1 && engine.readDelegation != .off && workers > 0 else {
            throw ValidationError("--compare-delegation needs --read-delegation on or auto, a worker, and one thread.")
        }
        guard (reads ?? 1) > 0 else { throw ValidationError("--reads must be at least 1.") }
        guard (writeRateLimit?.bytes ?? 1) > 0 else {
            throw ValidationError("--benchmark-write-rate-limit must be at least 1.")
        }
        guard duration >= 0, seekNexts >= 0 else {
            throw ValidationError("--duration and --seek-nexts must not be negative.")
        }
        guard (0...32).contains(workers) else { throw ValidationError("--workers must be 0 to 32.") }
        guard (1...64).contains(workerThreads) else { throw ValidationError("--worker-threads must be 1 to 64.") }
        guard (0.01...1).contains(compressionRatio) else {
            throw ValidationError("--compression-ratio must be 0.01 to 1.")
        }
        _ = try workloads()
    }

    func run() throws {
        let isTemporary = directory == nil && db == nil
        let path = try directory ?? db ?? Self.temporaryDirectory()
        if !useExistingDB { try BenchDirectory.claim(path) }
        defer { if isTemporary { try? Files.removeTree(path) } }
        var options = try engine.makeOptions()
        offload?.apply(to: &options)
        distance.apply(to: &options)
        if let cpus { try ProcessorSet(cpus).bind() }
        let runner = BenchRunner(
            directory: path,
            options: options,
            settings: settings,
            keepsExistingStore: useExistingDB,
            storage: distance.storage(),
            workers: workerArguments.map { ($0, workers) }
        )
        if !json { printHeader(path, options) }
        do {
            for workload in try workloads() {
                if let result = try runner.run(workload) {
                    try report(result)
                } else if !json {
                    Console.line("\(workload.rawValue): skipped, it would empty the existing store")
                }
            }
        } catch {
            try? runner.close()
            throw error
        }
        if statistics, let found = runner.statistics { Console.line(try JSON.encode(found)) }
        try runner.close()
    }

    /// nil: no workers.
    private var workerArguments: [String]? {
        let roles = (offload?.roles ?? []) + (engine.readDelegation == .off ? [] : [.reads])
        guard !roles.isEmpty, workers > 0 else { return nil }
        return ["--roles", roles.map(\.rawValue).joined(separator: ","), "--threads", "\(workerThreads)"]
            + (workerCPUs.map { ["--cpus", $0] } ?? []) + distance.arguments
    }

    private var settings: BenchSettings {
        BenchSettings(
            num: num,
            reads: reads,
            duration: duration,
            keySize: keySize,
            valueSize: valueSize.bytes,
            threads: threads,
            batchSize: batchSize,
            seekNexts: seekNexts,
            writeRateLimit: writeRateLimit?.bytes,
            sync: sync,
            compressionRatio: compressionRatio,
            seed: seed,
            distribution: distribution,
            verify: verify,
            comparesDelegation: comparesDelegation
        )
    }

    private func workloads() throws -> [Workload] {
        try benchmarks.split(separator: ",").map { name in
            guard let workload = Workload(rawValue: String(name)) else {
                throw ValidationError(
                    "There is no workload \(name); there are \(Workload.allCases.map(\.rawValue).joined(separator: ", "))."
                )
            }
            return workload
        }
    }

    private func printHeader(_ path: String, _ options: Options) {
        Console.line("store         \(path)")
        Console.line("entries       \(num), keys of \(keySize) bytes, values of \(valueSize.bytes) bytes")
        Console.line("threads       \(threads)")
        Console.line("compression   \(options.compression.rawValue), bloom \(options.bloomBitsPerKey) bits a key")
        Console.line("memtable      \(ByteSize(options.memtableSize)), block cache \(ByteSize(options.cacheSize))")
        Console.line()
        Console.flush()
    }

    private func report(_ result: BenchResult) throws {
        if json {
            Console.line(try JSON.encode(result))
        } else {
            func pad(_ text: String, _ width: Int) -> String {
                String(repeating: " ", count: max(0, width - text.count)) + text
            }
            let name = result.name + String(repeating: " ", count: max(0, 16 - result.name.count))
            let micros = result.operations > 0 ? result.seconds * 1e6 / Double(result.operations) : 0
            var line = "\(name): \(pad(fixed(micros, decimals: 3), 9)) micros/op"
            line += "\(pad(fixed(result.operationsPerSecond, decimals: 0), 10)) ops/s"
            line += "\(pad(fixed(result.megabytesPerSecond, decimals: 1), 9)) MB/s"
            line += "  p50 \(fixed(result.p50Microseconds, decimals: 1))"
            line += " p99 \(fixed(result.p99Microseconds, decimals: 1))"
            line += " p99.9 \(fixed(result.p999Microseconds, decimals: 1)) us"
            line += "  stall \(fixed(result.stallSeconds, decimals: 2)) s"
            line += "  write amp \(fixed(result.writeAmplification, decimals: 2))"
            if let found = result.found, let reads = result.reads { line += "  (\(found) of \(reads) found)" }
            Console.line(line)
            if let found = result.delegation {
                Console.line(
                    "                  with delegation \(fixed(found.ratio, decimals: 3)) of the speed without, give or take "
                        + "\(fixed(found.margin, decimals: 3)) (\(found.pairs) pairs of turns)")
            }
        }
        Console.flush()
    }

    private static func temporaryDirectory() throws -> String {
        let base = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(base)/o3fs-bench-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else {
            throw CommandError("create a directory in \(base)", errno: errno)
        }
        return String(cString: made)
    }
}
