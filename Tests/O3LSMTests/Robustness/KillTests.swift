import CrashWorkload
import Foundation
import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// Contract 1 and contract 3: a process that writes is killed, over and over, at random moments and at the
/// worst ones; what it had been told is done must be there, and nothing may be half there.
@Suite(.serialized) struct KillTests {
    /// O3LSM_KILL_ROUNDS and O3LSM_KILL_SEED make the same test a soak.
    static let rounds = environment("O3LSM_KILL_ROUNDS").flatMap { Int($0) } ?? 200
    static let seed = environment("O3LSM_KILL_SEED").flatMap { UInt64($0) } ?? UInt64.random(in: 1...1_000_000)

    private static func environment(_ name: String) -> String? { ProcessInfo.processInfo.environment[name] }

    @Test func nothingAcknowledgedIsLost() throws {
        print("KillTests: seed \(KillTests.seed), \(KillTests.rounds) rounds")
        var random = SeededRandom(KillTests.seed)
        var campaign: KillCampaign?
        for round in 0..<KillTests.rounds {
            // A new store now and then keeps the rounds short.
            if round % 20 == 0 { campaign = try KillCampaign(seed: random.next() >> 16) }
            do {
                try campaign?.round(round, &random)
            } catch {
                Issue.record("seed \(KillTests.seed), round \(round): \(error)")
                campaign = try KillCampaign(seed: random.next() >> 16)
            }
        }
        print("KillTests: deaths by cause \(KillCampaign.deaths.withLock { $0 }.sorted { $0.key < $1.key })")
    }
}

private struct Violation: Error, CustomStringConvertible {
    let description: String
}

/// One store and the processes that die on it.
private struct KillCampaign {
    static let deaths = Mutex<[String: Int]>([:])

    private let store: TemporaryStore
    private let seed: UInt64
    private let reportPath: String
    private let report: CrashReport
    private var models: [CrashModel]

    init(seed: UInt64) throws {
        store = TemporaryStore("kill")
        self.seed = seed
        reportPath = store.path + ".report"
        guard let report = CrashReport(path: reportPath) else { throw Violation(description: "no report") }
        unlink(reportPath)
        // The child opens it by its path; it is removed with the campaign's last round.
        guard let named = CrashReport(path: reportPath) else { throw Violation(description: "no report") }
        self.report = named
        _ = report
        models = (0..<CrashModel.threads).map { CrashModel(seed: seed, thread: $0) }
    }

    mutating func round(_ number: Int, _ random: inout SeededRandom) throws {
        report.isReady = false
        let fault = random.below(2) == 0 ? nil : FaultPoint.ofEngine[random.below(FaultPoint.ofEngine.count)]
        // Rare points die at once, frequent ones after a while.
        let hits = 1 + random.below(random.below(3) == 0 ? 2 : 400)
        let plan = fault.map { "\($0.rawValue):\(hits)" }
        var child = try ChildProcess(store: store.path, report: reportPath, seed: seed, fault: plan)
        // Every fourth death may come before the store is open.
        if random.below(4) > 0 { child.wait(upToMilliseconds: 3000) { report.isReady } }
        child.wait(upToMilliseconds: fault == nil ? 5 + random.below(120) : 150) { false }
        let cause = try child.kill()
        KillCampaign.deaths.withLock { $0[cause.isEmpty ? "parent" : plan.map { String($0.prefix { $0 != ":" }) } ?? "?", default: 0] += 1 }

        let isReboot = random.below(5) == 0
        let place = "\(plan ?? "kill")\(isReboot ? ", region lost" : "")"
        if isReboot, FileManager.default.fileExists(atPath: store.path + "/IDENTITY") {
            Region.unlink(storeID: try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage()).storeID)
        }
        try verify(isReboot: isReboot, place: place, closes: random.below(6) == 0)
        if number % 20 == 19 { unlink(reportPath) }
    }

    private mutating func verify(isReboot: Bool, place: String, closes: Bool) throws {
        let database = try Database.open(store.path, options: CrashModel.options(seed: seed))
        defer { abandon(database) }
        let source = database.statistics().recovery
        func fail(_ text: String) -> Violation { Violation(description: "\(place): \(text) (recovery: \(source))") }
        if !isReboot, source.source == "log", source.note != nil, source.note?.contains("initialised") != true {
            throw fail("the region was not used")
        }
        let heads = try models.map { try database.get($0.headKey).map(CrashModel.decode) ?? [0, 0, 0, 0] }
        for thread in models.indices {
            let found = heads[thread][0]
            let least = (isReboot ? report.synced(thread) : report.returned(thread)).pointee.load(ordering: .acquiring)
            let most = report.begun(thread).pointee.load(ordering: .acquiring)
            guard found >= least, found <= max(most, least) else {
                throw fail("thread \(thread) has \(found) operations, not \(least) to \(most)")
            }
            for other in models.indices where heads[thread][1 + other] > heads[other][0] {
                throw fail("thread \(thread) saw \(heads[thread][1 + other]) of \(other), which has \(heads[other][0])")
            }
            try compare(database, thread, found, fail)
        }
        guard try database.verify().isEmpty else { throw fail("verify found \(try database.verify())") }
        if closes { try database.close() }
    }

    /// The thread's part of the store against the model after `count` operations.
    private mutating func compare(_ database: Database, _ thread: Int, _ count: UInt64, _ fail: (String) -> Violation) throws {
        // A reboot may have taken operations back that the model has applied.
        if models[thread].count > count { models[thread] = CrashModel(seed: seed, thread: thread) }
        while models[thread].count < count { models[thread].apply() }
        let model = models[thread]
        for counter in [report.begun(thread), report.returned(thread), report.synced(thread)] {
            counter.pointee.store(count, ordering: .releasing)
        }
        // What was there is un-synced still; the next life of the store may lose it with its region.
        report.synced(thread).pointee.store(0, ordering: .releasing)
        var options = ReadOptions()
        options.lowerBound = model.lowerBound
        options.upperBound = model.upperBound
        let iterator = try database.makeIterator(options)
        try iterator.seekToFirst()
        for (index, value) in model.values.sorted(by: { $0.key < $1.key }) {
            guard iterator.isValid, [UInt8](iterator.key) == model.key(index), [UInt8](iterator.value) == value else {
                throw fail("thread \(thread) at \(count): key \(index) is not as written")
            }
            guard try database.get(model.key(index)) == value else {
                throw fail("thread \(thread) at \(count): get of key \(index) differs from the scan")
            }
            try iterator.next()
        }
        guard !iterator.isValid else {
            throw fail("thread \(thread) at \(count): \(String(decoding: iterator.key, as: UTF8.self)) is there, and should not")
        }
    }
}

/// A child that runs the crash workload.
private struct ChildProcess {
    private var processID = pid_t()
    private var status: Int32?

    init(store: String, report: String, seed: UInt64, fault: String?) throws {
        let executable = try ChildProcess.executable()
        let arguments = [executable, store, report, "\(seed)"]
        var environment = ["SWIFT_BACKTRACE=enable=no"]
        if let fault { environment.append("O3LSM_FAULT=\(fault)") }
        var cArguments: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var cEnvironment: [UnsafeMutablePointer<CChar>?] = environment.map { strdup($0) } + [nil]
        defer { for text in cArguments + cEnvironment { free(text) } }
        let code = posix_spawn(&processID, executable, nil, nil, &cArguments, &cEnvironment)
        guard code == 0 else { throw Violation(description: "cannot start \(executable): \(code)") }
    }

    /// The product lies beside the test bundle.
    private static func executable() throws -> String {
        var directory = (try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) as NSString
        if let bundle = CommandLine.arguments.first(where: { $0.contains(".xctest") }) {
            directory = bundle as NSString
        }
        var path = directory.deletingLastPathComponent
        while path.count > 1 {
            let candidate = path + "/o3lsm-crashchild"
            if FileManager.default.isExecutableFile(atPath: candidate) { return candidate }
            path = (path as NSString).deletingLastPathComponent
        }
        throw Violation(description: "there is no o3lsm-crashchild beside the tests")
    }

    /// Waits until it has died, or the condition holds, or the time is over.
    mutating func wait(upToMilliseconds milliseconds: Int, until condition: () -> Bool) {
        let end = monotonicNanoseconds() + UInt64(milliseconds) * 1_000_000
        while status == nil, !condition(), monotonicNanoseconds() < end {
            var found: Int32 = 0
            if waitpid(processID, &found, WNOHANG) == processID { status = found }
            usleep(500)
        }
    }

    /// - Returns: empty when this call ended it, else how it had ended.
    mutating func kill() throws -> String {
        guard let ended = status else {
            Glibc.kill(processID, SIGKILL)
            var found: Int32 = 0
            while waitpid(processID, &found, 0) == -1, errno == EINTR {}
            return ""
        }
        // Low bits: the signal it died of.
        guard ended & 0x7f == SIGKILL else {
            throw Violation(description: "the child ended with status \(ended & 0x7f == 0 ? ended >> 8 : -(ended & 0x7f))")
        }
        return "itself"
    }
}
