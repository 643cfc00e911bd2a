import Foundation
import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// A worker in a thread of this process: what it does goes through DM all the same.
@Suite struct WorkerTests {
    private static func key(_ number: Int) -> [UInt8] { Array("key\(number + 1_000_000)".utf8) }
    /// 500 bytes that count up from a number of their own, cut from a longer run: made byte by byte they took most of
    /// the time under ThreadSanitizer.
    private static func value(_ number: Int) -> [UInt8] { Array(run[(number &* 31 & 255)...].prefix(500)) }
    private static let run = (0..<756).map { UInt8(truncatingIfNeeded: $0) }

    /// Runs `body` while a worker runs on the store.
    private func withWorker(
        _ store: TemporaryStore, _ roles: Set<Worker.Role> = Set(Worker.Role.allCases), _ body: () throws -> Void
    ) throws {
        var configuration = Worker.Configuration()
        configuration.roles = roles
        let worker = try Worker(store.path, configuration)
        let failure = Mutex<EngineError?>(nil)
        let thread = try BackgroundThread("test-worker") {
            do throws(EngineError) { try worker.run() } catch { failure.withLock { $0 = error } }
        }
        defer {
            worker.stop()
            thread.join()
        }
        try body()
        #expect(failure.withLock { $0 } == nil)
    }

    private func wait(_ condition: () -> Bool) {
        let deadline = monotonicNanoseconds() + 20_000_000_000
        while !condition(), monotonicNanoseconds() < deadline { usleep(10_000) }
    }

    /// What executors did is what was done.
    private func expectSumsOfExecutors(_ statistics: Statistics) {
        func sum<Number: AdditiveArithmetic>(_ value: (Statistics.Executor) -> Number) -> Number {
            statistics.executors.reduce(.zero) { $0 + value($1) }
        }
        #expect(sum { $0.flush.jobs } == statistics.flush.localJobs + statistics.flush.offloadedJobs)
        #expect(sum { $0.flush.bytesRead } == statistics.flush.bytesRead)
        #expect(sum { $0.flush.bytesWritten } == statistics.flush.bytesWritten)
        #expect(sum { $0.compaction.jobs } == statistics.compaction.localJobs + statistics.compaction.offloadedJobs)
        #expect(sum { $0.compaction.bytesRead } == statistics.compaction.bytesRead)
        #expect(sum { $0.compaction.bytesWritten } == statistics.compaction.bytesWritten)
    }

    @Test func jobsInFlightAndMemoryShow() throws {
        let store = TemporaryStore()
        var options = TemporaryStore.smallOptions
        options.flushThreads = 1
        let database = try store.open(options)
        for number in 0..<1000 { try database.put(Self.key(number), Self.value(number)) }
        // As a stopped worker would, a row that lives claims all flushes and does not answer.
        let region = database.core.region
        let node = try #require(NodeTable(region).attach(role: .worker, roles: [.flush], capacity: 4))
        database.core.executor.setWorkers(flush: true, compaction: true, isMemoryScarce: false)
        let jobs = JobTable(region)
        let isOver = Atomic<Bool>(false)
        let thief = try BackgroundThread("test-thief") {
            while !isOver.load(ordering: .relaxed) {
                NodeTable(region).beat(node)
                if jobs.claim([.flush], node: node, isOwner: false) == nil { usleep(500) }
            }
        }
        usleep(300_000)
        database.core.writes.sealIfRoom()
        wait { database.statistics().jobs.contains { $0.state == "claimed" } }
        let statistics = database.statistics()
        let sealed = try #require(statistics.dm.memtables.first { $0.state == "flushing" })
        let job = try #require(statistics.jobs.first { $0.state == "claimed" })
        #expect(job.kind == "flush" && job.executor == getpid() && job.ageSeconds > 0 && job.ageSeconds < 30)
        let input = try #require(job.inputs.first)
        #expect(input.memtable == sealed.id && input.level == nil)
        let shard = try #require(sealed.shards.first { $0.index == input.shard })
        #expect(shard.state == "flushing" && shard.bytes == Int(input.bytes) && shard.entries > 0)
        #expect(sealed.place == "dm" && sealed.entries == 1000)
        #expect(statistics.dm.memtables.first?.state == "active")
        #expect(statistics.owner?.capacity == options.flushThreads + options.compactionThreads)
        isOver.store(true, ordering: .relaxed)
        thief.join()
        NodeTable(region).detach(node)
        try database.flush()
        let after = database.statistics()
        expectSumsOfExecutors(after)
        // The thief's attempts are on its account.
        let worker = try #require(after.executors.first { $0.role == "worker" })
        #expect(worker.flush.jobs == 0 && worker.flush.failedJobs > 0)
        #expect(after.jobs.isEmpty)
        let slabs = after.dm.memtables.reduce(0) { $0 + $1.slabs }
        #expect(slabs == after.dm.slabs - after.dm.freeSlabs && after.dm.slabsOnTheWay == 0)
        try database.close()
    }

    @Test(arguments: Placement.allCases) func everythingIsDoneByTheWorker(placement: Placement) throws {
        let store = TemporaryStore("worker\(placement)")
        var options = TemporaryStore.smallOptions
        options.placement = placement
        options.localBuffer = 4 << 20
        let database = try store.open(options)
        try withWorker(store) {
            wait { !database.statistics().workers.isEmpty }
            usleep(300_000)
            // Not in the order of keys: tables would only be moved.
            for step in 0..<20_000 { try database.put(Self.key(step * 7919 % 20_000), Self.value(step * 7919 % 20_000)) }
            for part in 0..<4 { try database.deleteRange(Self.key(part * 5000 + 3900), Self.key(part * 5000 + 3950)) }
            try database.flush()
            wait { database.statistics().compaction.offloadedJobs > 0 }
            let statistics = database.statistics()
            #expect(statistics.flush.offloadedJobs > 0 && statistics.flush.localJobs == 0)
            #expect(statistics.compaction.offloadedJobs > 0 && statistics.compaction.localJobs == 0)
            #expect(statistics.flush.failedJobs == 0 && statistics.compaction.failedJobs == 0)
            #expect(statistics.workers.first?.roles == ["compaction", "flush"])
            for executor in statistics.executors { #expect(executor.role == "worker") }
            expectSumsOfExecutors(statistics)
        }
        for number in 0..<20_000 {
            let isDeleted = (0..<4).contains { (($0 * 5000 + 3900)..<($0 * 5000 + 3950)).contains(number) }
            #expect(try database.get(Self.key(number)) == (isDeleted ? nil : Self.value(number)), "key \(number)")
        }
        #expect(try database.verify().isEmpty)
        try database.close()
    }

    @Test func withoutItsRoleTheOwnerDoesTheWork() throws {
        let store = TemporaryStore()
        let database = try store.open()
        try withWorker(store, [.compaction]) {
            wait { !database.statistics().workers.isEmpty }
            usleep(300_000)
            for number in 0..<5000 { try database.put(Self.key(number), Self.value(number)) }
            try database.flush()
            #expect(database.statistics().flush.localJobs > 0 && database.statistics().flush.offloadedJobs == 0)
        }
        try database.close()
    }

    @Test func aClaimOfADeadNodeIsTakenBack() throws {
        let store = TemporaryStore()
        let database = try store.open()
        let region = database.core.region
        // A node that claims and never answers: its row names a process that is not there.
        let node = try #require(NodeTable(region).attach(role: .worker, roles: [.flush], capacity: 1))
        let row = region.base + RegionLayout.Node.offset + node * RegionLayout.Node.bytes
        row.storeBytes(of: 1, toByteOffset: RegionLayout.Node.startTime, as: UInt64.self)
        let jobs = JobTable(region)
        let claims = Mutex<[JobTable.Claim]>([])
        let isOver = Atomic<Bool>(false)
        let thief = try BackgroundThread("test-thief") {
            while !isOver.load(ordering: .relaxed), claims.withLock({ $0.count }) < 3 {
                if let claim = jobs.claim([.flush], node: node, isOwner: false) { claims.withLock { $0.append(claim) } }
            }
        }
        for number in 0..<8000 { try database.put(Self.key(number), Self.value(number)) }
        try database.flush()
        isOver.store(true, ordering: .relaxed)
        thief.join()
        let stolen = claims.withLock { $0 }
        #expect(database.statistics().flush.lostLeases == stolen.count)
        for claim in stolen { #expect(!jobs.finish(claim, result: [])) }
        for number in 0..<8000 { #expect(try database.get(Self.key(number)) == Self.value(number)) }
        try database.close()
    }

    /// Its heartbeat comes from a thread that does not hang.
    @Test(.timeLimit(.minutes(2))) func aClaimThatComesToNothingIsTakenBackWhenWritersWait() throws {
        let store = TemporaryStore()
        let database = try store.open()
        let nodes = NodeTable(database.core.region)
        let node = try #require(nodes.attach(role: .worker, roles: [.flush], capacity: 8))
        let jobs = JobTable(database.core.region)
        let isOver = Atomic<Bool>(false)
        let claims = Atomic<Int>(0)
        let idler = try BackgroundThread("test-idler") {
            while !isOver.load(ordering: .relaxed) {
                nodes.beat(node)
                if jobs.claim([.flush], node: node, isOwner: false) != nil { claims.wrappingAdd(1, ordering: .relaxed) }
                usleep(1000)
            }
        }
        // Twice what fits in memory.
        for number in 0..<120_000 { try database.put(Self.key(number), Self.value(number)) }
        isOver.store(true, ordering: .relaxed)
        idler.join()
        nodes.detach(node)
        try database.flush()
        #expect(claims.load(ordering: .relaxed) > 0)
        #expect(database.statistics().flush.lostLeases >= claims.load(ordering: .relaxed))
        for number in stride(from: 0, to: 120_000, by: 7) { #expect(try database.get(Self.key(number)) == Self.value(number)) }
        try database.close()
    }

    @Test func aWrongResultIsRefusedAndTheJobDoneAgain() throws {
        let store = TemporaryStore()
        let database = try store.open()
        let region = database.core.region
        let nodes = NodeTable(region)
        let node = try #require(nodes.attach(role: .worker, roles: [.flush], capacity: 1))
        let jobs = JobTable(region)
        let isOver = Atomic<Bool>(false)
        let lies = Atomic<Int>(0)
        let liar = try BackgroundThread("test-liar") {
            let wrong = FlushResult(wroteTable: false, entriesRead: 3, entriesDropped: 3, fileSize: 0).encode()
            while !isOver.load(ordering: .relaxed) {
                nodes.beat(node)
                if let claim = jobs.claim([.flush], node: node, isOwner: false) {
                    jobs.finish(claim, result: lies.load(ordering: .relaxed) % 2 == 0 ? wrong : [1, 2])
                    lies.wrappingAdd(1, ordering: .relaxed)
                }
            }
        }
        for number in 0..<8000 { try database.put(Self.key(number), Self.value(number)) }
        wait { database.statistics().flush.localJobs > 0 }
        isOver.store(true, ordering: .relaxed)
        liar.join()
        nodes.detach(node)
        try database.flush()
        #expect(lies.load(ordering: .relaxed) > 0)
        #expect(database.statistics().flush.failedJobs >= lies.load(ordering: .relaxed))
        for number in 0..<8000 { #expect(try database.get(Self.key(number)) == Self.value(number)) }
        #expect(try database.verify().isEmpty)
        try database.close()
    }

    private static let falseClaims = ["more dropped than read", "all dropped", "no tombstones"]

    /// What would lose entries, or bring deleted ones back, if it were believed.
    @Test(arguments: falseClaims) func aFlushThatLosesSomethingIsRefused(claim kind: String) throws {
        let store = TemporaryStore("\(#function)\(Self.falseClaims.firstIndex(of: kind) ?? 0)")
        let database = try store.open()
        let region = database.core.region
        let nodes = NodeTable(region)
        let node = try #require(nodes.attach(role: .worker, roles: [.flush], capacity: 1))
        let jobs = JobTable(region)
        let memtables = WorkerMemtables(region)
        let executor = FlushExecutor(storage: POSIXStorage(), layout: StoreLayout(root: store.path)) {
            source throws(EngineError) in try memtables.memtable(source)
        }
        for number in 0..<100 { try database.put(Self.key(number), Self.value(number)) }
        try database.deleteRange(Self.key(40), Self.key(50))
        // The owner leaves it to the worker.
        database.core.executor.setWorkers(flush: true, compaction: true, isMemoryScarce: false)
        usleep(300_000)
        database.core.writes.sealIfRoom()
        database.core.region.doorbell(RegionLayout.Doorbells.jobFinished).ring()
        var stolen: JobTable.Claim?
        wait {
            nodes.beat(node)
            stolen = jobs.claim([.flush], node: node, isOwner: false)
            return stolen != nil
        }
        let claim = try #require(stolen)
        let descriptor = try #require(FlushDescriptor.decode(claim.descriptor))
        var result = try executor.run(descriptor, attempt: claim.attempt)
        switch kind {
        case "more dropped than read": result.entriesDropped = result.entriesRead + 1
        case "all dropped":
            result = FlushResult(
                wroteTable: false, entriesRead: result.entriesRead, entriesDropped: result.entriesRead, fileSize: 0)
        default:
            let path = StoreLayout(root: store.path).table(descriptor.fileNumber, attempt: claim.attempt)
            let builder = TableBuilder(
                file: try POSIXStorage().create(path), number: descriptor.fileNumber, options: TableOptions(Options()))
            for number in 0..<100 where !(40..<50).contains(number) {
                try Self.key(number).withEngineBytes { key throws(EngineError) in
                    try Self.value(number).withEngineBytes { value throws(EngineError) in
                        try builder.add(key, Trailer(sequence: UInt64(number + 1), kind: .put), value)
                    }
                }
            }
            result.fileSize = try #require(try builder.finish()).size
            result.entriesDropped = 10
        }
        #expect(jobs.finish(claim, result: result.encode()))
        nodes.detach(node)
        try database.flush()
        #expect(database.statistics().flush.failedJobs > 0)
        for number in 0..<100 {
            #expect(try database.get(Self.key(number)) == ((40..<50).contains(number) ? nil : Self.value(number)))
        }
        #expect(try database.verify().isEmpty)
        try database.close()
    }

    /// What the manifest has of a table is what the table says, whatever its executor claims.
    @Test(arguments: Lie.allCases) func aTableThatIsNotAsClaimedIsRefused(lie: Lie) throws {
        let store = TemporaryStore("lie\(lie)")
        let database = try store.open()
        let region = database.core.region
        let nodes = NodeTable(region)
        let node = try #require(nodes.attach(role: .worker, roles: [.compaction], capacity: 1))
        let jobs = JobTable(region)
        let isOver = Atomic<Bool>(false)
        let lies = Atomic<Int>(0)
        let layout = StoreLayout(root: store.path)
        let liar = try BackgroundThread("test-liar") {
            let storage = POSIXStorage()
            let tables = TableCache(
                storage: storage, layout: layout, capacity: 64, blockCache: BlockCache(capacity: 1 << 20))
            let executor = CompactionExecutor(storage: storage, layout: layout, tables: tables)
            while !isOver.load(ordering: .relaxed) {
                nodes.beat(node)
                guard let claim = jobs.claim([.compaction], node: node, isOwner: false) else {
                    usleep(1000)
                    continue
                }
                guard
                    let bytes = try? executor.run(encoded: claim.descriptor, attempt: claim.attempt),
                    var result = try? bytes.withEngineBytes({ bytes throws(EngineError) in
                        try CompactionResult.decode(bytes, source: "test")
                    })
                else { continue }
                result.outputs = result.outputs.map(lie.told)
                jobs.finish(claim, result: result.encode())
                lies.wrappingAdd(1, ordering: .relaxed)
            }
        }
        for step in 0..<8000 { try database.put(Self.key(step * 7919 % 8000), Self.value(step * 7919 % 8000)) }
        try database.deleteRange(Self.key(3900), Self.key(3950))
        for number in stride(from: 0, to: 8000, by: 100) { try database.delete(Self.key(number)) }
        let snapshot = database.makeSnapshot()
        try database.flush()
        wait { database.statistics().compaction.localJobs > 0 && lies.load(ordering: .relaxed) > 0 }
        isOver.store(true, ordering: .relaxed)
        liar.join()
        nodes.detach(node)
        try database.compact()
        #expect(lies.load(ordering: .relaxed) > 0)
        #expect(database.statistics().compaction.offloadedJobs == 0)
        #expect(database.statistics().compaction.failedJobs >= lies.load(ordering: .relaxed))
        for number in 0..<8000 {
            let isDeleted = number % 100 == 0 || (3900..<3950).contains(number)
            #expect(try database.get(Self.key(number)) == (isDeleted ? nil : Self.value(number)), "key \(number)")
        }
        #expect(try database.verify().isEmpty)
        withExtendedLifetime(snapshot) {}
        try database.close()
    }

    enum Lie: String, CaseIterable, Sendable {
        case size, sequences, deletions, rangeTombstones

        func told(_ file: FileMetadata) -> FileMetadata {
            FileMetadata(
                number: file.number, size: self == .size ? 1 << 60 : file.size, smallest: file.smallest,
                largest: file.largest, smallestSequence: file.smallestSequence,
                largestSequence: self == .sequences ? file.smallestSequence : file.largestSequence,
                entryCount: file.entryCount,
                deletionCount: self == .deletions ? file.deletionCount + 1 : file.deletionCount,
                rangeTombstoneCount: self == .rangeTombstones
                    ? file.rangeTombstoneCount + 1 : file.rangeTombstoneCount)
        }
    }

    @Test func aRegionOfAnotherBuildIsRefused() throws {
        let store = TemporaryStore()
        let database = try store.open()
        database.core.region.build = BuildIdentity.current ^ 1
        let worker = try Worker(store.path, Worker.Configuration())
        let error = #expect(throws: EngineError.self) { try worker.run() }
        #expect(error?.description.contains("another build") == true)
        try database.close()
        #expect(throws: EngineError.storeNotFound(path: "/nowhere")) {
            try Worker("/nowhere", Worker.Configuration()).run()
        }
    }

    /// What is left of work that power loss has cut short is no damage, though there is nothing to replay.
    @Test func afterPowerLossALeftoverIsNoProblem() throws {
        let store = TemporaryStore()
        let database = try store.open()
        try database.put([1], [2])
        try database.sync()
        try database.flush()
        abandon(database)
        Region.unlink(
            storeID: try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage()).storeID)
        for name in ["999998-1f.part", "999999.sst"] {
            #expect(FileManager.default.createFile(atPath: store.path + "/sst/" + name, contents: Data([1])))
        }
        var options = TemporaryStore.smallOptions
        options.readOnly = true
        let stopped = try store.open(options)
        let recovery = stopped.statistics().recovery
        #expect(recovery.source == "log" && recovery.replayedEntries == 0)
        #expect(try stopped.verify() == [])
        try stopped.close()
    }

    @Test func aLeakedTableIsAProblem() throws {
        let store = TemporaryStore()
        let database = try store.open()
        try database.put([1], [2])
        try database.close()
        var options = TemporaryStore.smallOptions
        options.readOnly = true
        let closed = try store.open(options)
        #expect(try closed.verify() == [])
        #expect(FileManager.default.createFile(atPath: store.path + "/sst/999999.sst", contents: Data([1])))
        #expect(try closed.verify().count == 1)
        try closed.close()
    }
}
