import O3LSM
import Testing

@testable import o3fs

/// Every workload on a small store: it does as many operations as it was told, finds what is there, and every value it
/// reads is the one that was written under the key (`verify`).
struct WorkloadTests {
    private static let num = 4000
    private static let threads = 2

    /// Runs workloads one after the other on a new store.
    private func run(
        _ workloads: [Workload], delegation: ReadDelegationMode = .off,
        _ change: (inout BenchSettings) -> Void = { _ in }
    ) throws -> [Workload: BenchResult] {
        let directory = try TemporaryDirectory("workloads")
        defer { withExtendedLifetime(directory) {} }
        var options = Options()
        options.dmSize = 16 << 20
        options.memtableSize = 1 << 20
        options.readDelegation = delegation
        var settings = BenchSettings(num: Self.num, reads: 1000, threads: Self.threads, verify: true)
        change(&settings)
        let runner = BenchRunner(
            directory: directory.path + "/store", options: options, settings: settings, keepsExistingStore: false)
        try BenchDirectory.claim(directory.path + "/store")
        var results: [Workload: BenchResult] = [:]
        for workload in workloads { results[workload] = try runner.run(workload) }
        try runner.close()
        return results
    }

    @Test(arguments: [nil] + KeyDistribution.allCases.map { $0 as KeyDistribution? }, [false, true])
    func readsFindEveryKey(distribution: KeyDistribution?, inTables: Bool) throws {
        let reading: [Workload] = [.readrandom, .readmissing, .multireadrandom, .seekrandom, .readwhilewriting]
        let results = try run([.fillseq] + (inTables ? [.flush, .compact] : []) + reading) {
            $0.distribution = distribution
            $0.batchSize = 8
            $0.seekNexts = 10
        }
        for workload in reading {
            let result = try #require(results[workload])
            #expect(result.operations == 1000 * Self.threads, "\(workload)")
            #expect(result.reads == result.operations, "\(workload)")
            #expect(result.found == (workload == .readmissing ? 0 : result.operations), "\(workload)")
        }
        // 16 bytes of key and 100 of value.
        #expect(results[.readrandom]?.bytes == 2000 * 116)
        #expect(results[.multireadrandom]?.bytes == 2000 * 116)
    }

    /// Reads take turns with and without delegation; both are right, and there are two blocks of turns to compare.
    @Test(arguments: [Workload.readrandom, .seekrandom, .multireadrandom])
    func readsTakeTurns(workload: Workload) throws {
        let results = try run([.fillseq, workload], delegation: .on) {
            $0.duration = 3
            $0.threads = 1
            $0.batchSize = 8
            $0.comparesDelegation = true
        }
        let found = try #require(results[workload]?.delegation)
        #expect(found.pairs >= 2 * DelegationTurns.pairsOfBlock)
        #expect(found.ratio > 0)
        #expect(results[.fillseq]?.delegation == nil)
    }

    /// The writer beside the readers keeps to its rate, within the batch that it writes at once.
    @Test func theWriterKeepsToItsRate() throws {
        let results = try run([.fillseq, .readwhilewriting]) {
            $0.duration = 1
            $0.writeRateLimit = 116 * 2000
        }
        let result = try #require(results[.readwhilewriting])
        let written = try #require(result.backgroundWrites)
        #expect(written > 0 && Double(written) <= 2000 * result.seconds + 200)
        #expect(results[.fillseq]?.backgroundWrites == nil)
    }

    @Test func scansReturnEachEntryOnce() throws {
        let results = try run([.fillseq, .readseq, .readreverse, .compact]) { $0.reads = nil }
        for workload in [Workload.readseq, .readreverse] {
            #expect(results[workload]?.operations == Self.num * Self.threads)
            #expect(results[workload]?.bytes == UInt64(Self.num * Self.threads * 116))
        }
    }

    @Test func writesAreCounted() throws {
        let results = try run([.fillrandom, .overwrite, .deleterandom]) { $0.distribution = .zipfian }
        for workload in [Workload.fillrandom, .overwrite, .deleterandom] {
            #expect(results[workload]?.operations == Self.num * Self.threads)
            #expect(results[workload]?.reads == nil)
        }
    }

    @Test(arguments: [1, 3])
    func loadWritesEachRecordOnce(threads: Int) throws {
        let results = try run([.ycsbload, .readseq]) {
            $0.threads = threads
            $0.reads = nil
            $0.batchSize = 7
        }
        #expect(results[.ycsbload]?.operations == Self.num)
        #expect(results[.readseq]?.operations == Self.num * threads)
    }

    @Test(arguments: [Workload.ycsba, .ycsbb, .ycsbc, .ycsbd, .ycsbe, .ycsbf], [nil, KeyDistribution.uniform])
    func mixesDoWhatTheirTableSays(workload: Workload, distribution: KeyDistribution?) throws {
        let results = try run([.ycsbload, workload, .readseq]) {
            $0.reads = 10_000
            $0.distribution = distribution
        }
        let mix = try #require(workload.ycsb)
        #expect(mix.reads + mix.updates + mix.inserts + mix.scans + mix.readModifyWrites == 100)
        let result = try #require(results[workload])
        #expect(result.operations == 20_000)
        // Every record that is asked for was loaded, or inserted by the same thread before.
        #expect(result.found == result.reads)
        let reads = try #require(result.reads)
        let expected = (mix.reads + mix.scans + mix.readModifyWrites) * 200
        // Six standard deviations of a binomial are at most 430.
        #expect(abs(reads - expected) <= (expected == 20_000 ? 0 : 430), "\(reads) reads, not \(expected)")
        if mix.scans > 0 {
            let entries = try #require(result.entries)
            #expect(abs(Double(entries) / Double(reads) - 50.5) < 2, "\(entries) entries")
        } else {
            #expect(result.entries == nil)
        }
        // Inserts, and nothing else, make the store larger.
        let after = try #require(results[.readseq]?.operations)
        let inserted = mix.inserts > 0 ? 20_000 - reads : 0
        #expect(after == Self.threads * min(10_000, Self.num + inserted))
    }

    @Test func verificationSeesForeignValuesAndWrongOrder() throws {
        // Written without stamps: the first read must fail.
        let directory = try TemporaryDirectory("verify")
        let path = directory.path + "/store"
        var options = Options()
        options.dmSize = 16 << 20
        options.memtableSize = 1 << 20
        try BenchDirectory.claim(path)
        let plain = BenchRunner(
            directory: path, options: options, settings: BenchSettings(num: 100), keepsExistingStore: false)
        _ = try plain.run(.fillseq)
        try plain.close()
        let checking = BenchRunner(
            directory: path, options: options, settings: BenchSettings(num: 100, verify: true), keepsExistingStore: true
        )
        for workload in [Workload.readrandom, .multireadrandom, .readseq, .readwhilewriting] {
            #expect(throws: EngineError.self) { try checking.run(workload) }
        }
        try checking.close()

        var order = ScanOrder(backward: false)
        let keys = KeyWriter(size: 16)
        defer { keys.release() }
        try order.check(keys.key(5))
        try order.check(keys.key(6))
        #expect(throws: EngineError.self) { try order.check(keys.key(6)) }
        var reverse = ScanOrder(backward: true)
        try reverse.check(keys.key(5))
        #expect(throws: EngineError.self) { try reverse.check(keys.key(6)) }
    }
}
