import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// A process of the store's owner that writes anything anywhere into the region while the daemon works, and a worker that
/// flushes, compacts and answers its reads. What the daemon answers is then anybody's guess, and whether it answers; but
/// neither may read or write beyond the region's bounds.
@Suite(.serialized) struct HostileProcessTests {
    enum Target: String, CaseIterable, Codable, Sendable {
        /// Headers, nodes, jobs, bells, rings and the memtable directory: what workers may write, and more.
        case tables
        /// Descriptors, states and results of jobs: also results with sums that hold.
        case jobs
        /// Requests and answers of delegated reads: also answers with sums that hold.
        case rings
        /// Arenas: roots, links, lengths, keys, values.
        case slabs
        case everything
    }

    // The process ends by itself after seconds; its end waits here for a thread of the pool, which others keep for minutes.
    @Test(.timeLimit(.minutes(10)), arguments: Target.allCases)
    func theDaemonStaysWithinBounds(target: Target) async {
        let number = UInt64.random(in: 0 ... .max)
        print("HostileProcessTests: \(target), seed \(number)")
        await #expect(processExitsWith: .success, "\(target), seed \(number)") { [target = target as Target, seed = number as UInt64] in
            try HostileProcessTests.run(target, seed)
        }
    }

    private static func run(_ target: Target, _ seed: UInt64) throws {
        let seconds = UInt64(getenv("O3LSM_HOSTILE_SECONDS").flatMap { UInt64(String(cString: $0)) } ?? 3)
        let end = monotonicNanoseconds() + seconds * 1_000_000_000
        _ = try BackgroundThread("daemon") { try? serve(target, seed, until: end) }
        while monotonicNanoseconds() < end { usleep(10_000) }
        // The threads go on: nothing of the process may be taken down under them.
        _exit(0)
    }

    private static func serve(_ target: Target, _ seed: UInt64, until end: UInt64) throws {
        var random = SeededRandom(seed)
        let store = TemporaryStore("hostile\(seed)")
        var options = TemporaryStore.smallOptions
        options.readDelegation = .on
        // Small enough that a round flushes, compacts and reads sealed memtables.
        options.memtableSize = 1 << 18
        var worker: BackgroundThread?
        while monotonicNanoseconds() < end {
            let database: Database
            do { database = try store.open(options) } catch {
                // What it left may be beyond help: then in one sentence, and the next one begins anew.
                Region.unlink(storeID: try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage()).storeID)
                continue
            }
            if worker == nil {
                let path = store.path
                worker = try BackgroundThread("worker") {
                    // It leaves a region whose header says that it is another build's, and comes back.
                    while true {
                        try? Worker(path, Worker.Configuration()).run()
                        usleep(1000)
                    }
                }
            }
            let isOver = Atomic<Bool>(false)
            let scribbler = try Scribbler(database.core.region, target, seed: UInt64.random(in: 0 ... .max, using: &random))
            let thread = try BackgroundThread("scribbler") {
                while !isOver.load(ordering: .relaxed) { scribbler.scribble() }
            }
            for _ in 0..<3000 {
                let key = Array("key\(Int.random(in: 0..<2000, using: &random))".utf8)
                switch Int.random(in: 0..<10, using: &random) {
                case 0: try? database.delete(key)
                case 1:
                    let iterator = try? database.makeIterator()
                    try? iterator?.seek(key)
                    for _ in 0..<10 where iterator?.isValid ?? false { try? iterator?.next() }
                case 2...4: _ = try? database.get(key)
                default: try? database.put(key, [UInt8](repeating: 1, count: Int.random(in: 0..<3000, using: &random)))
                }
                if database.statistics().writeError != nil { break }
            }
            isOver.store(true, ordering: .relaxed)
            thread.join()
            abandon(database)
        }
    }

    /// Another mapping of the region, as another process has it.
    private final class Scribbler: @unchecked Sendable {
        private let base: UnsafeMutableRawPointer
        private let size: Int
        private let range: Range<Int>
        private let target: Target
        private var random: SeededRandom

        init(_ region: Region, _ target: Target, seed: UInt64) throws {
            let descriptor = shm_open(region.name, O_RDWR | O_CLOEXEC, 0)
            try #require(descriptor >= 0)
            defer { close(descriptor) }
            size = region.size
            base = try #require(mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0))
            self.target = target
            range =
                switch target {
                case .jobs: RegionLayout.Job.offset..<RegionLayout.Ring.offset
                case .rings: RegionLayout.Ring.offset..<RegionLayout.firstSlabOffset
                case .tables: 0..<RegionLayout.firstSlabOffset
                case .slabs: RegionLayout.firstSlabOffset..<size
                case .everything: 0..<size
                }
            random = SeededRandom(seed)
        }

        deinit { munmap(base, size) }

        func scribble() {
            if Int.random(in: 0..<20, using: &random) == 0 {
                switch target {
                case .jobs: return forgeResult()
                case .rings: return forgeAnswer()
                default: break
                }
            }
            // Most places are empty: words that hold something are worth more.
            var place = Int.random(in: range, using: &random) & ~7
            for _ in 0..<1000 where (base + place).load(as: UInt64.self) == 0 {
                place = Int.random(in: range, using: &random) & ~7
            }
            let old = (base + place).load(as: UInt64.self)
            let fresh: UInt64 =
                switch Int.random(in: 0..<4, using: &random) {
                case 0: old ^ 1 << UInt64.random(in: 0..<64, using: &random)
                case 1: .random(in: 0 ... .max, using: &random)
                case 2: .max
                default: old &+ .random(in: 0..<1024, using: &random)
                }
            (base + place).storeBytes(of: fresh, as: UInt64.self)
            if Int.random(in: 0..<50, using: &random) == 0 { usleep(100) }
        }

        /// Ends a job that somebody waits for with a result of anything, or nearly the last one of its slot.
        private func forgeResult() {
            typealias Job = RegionLayout.Job
            let row = base + Job.offset + Int.random(in: 0..<Job.count, using: &random) * Job.bytes
            let word = sharedWord64(row + Job.word)
            let found = JobWord(bits: word.pointee.load(ordering: .acquiring))
            guard found.state == .posted || found.state == .claimed else { return }
            let count = forge(row + Job.result, atMost: Int.random(in: 0...400, using: &random))
            row.storeBytes(of: UInt32(count), toByteOffset: Job.resultBytes, as: UInt32.self)
            let sum = JobTable.checksum(UnsafeRawBufferPointer(start: row + Job.result, count: count), found.generation)
            row.storeBytes(of: sum, toByteOffset: Job.resultChecksum, as: UInt32.self)
            let done = JobWord(generation: found.generation, node: found.node, state: .done)
            word.pointee.store(done.bits, ordering: .releasing)
        }

        /// Answers a request that somebody waits for with anything, or nearly the last answer of its slot.
        private func forgeAnswer() {
            typealias Ring = RegionLayout.Ring
            for index in 0..<Ring.count * Ring.slotCount {
                let ring = base + Ring.offset + index / Ring.slotCount * Ring.bytes
                let slot = ring + Ring.slots + index % Ring.slotCount * Ring.slotBytes
                let word = sharedWord64(slot + Ring.Slot.word)
                let posted = word.pointee.load(ordering: .acquiring)
                guard posted & 0xff == 1 else { continue }
                let number = posted >> 8
                let count = forge(slot + Ring.Slot.answer, atMost: Int.random(in: 0...400, using: &random))
                slot.storeBytes(of: UInt32(count), toByteOffset: Ring.Slot.answerBytes, as: UInt32.self)
                let seed = withUnsafeBytes(of: number) { CRC32C.checksum($0) }
                let answer = UnsafeRawBufferPointer(start: slot + Ring.Slot.answer, count: count)
                slot.storeBytes(
                    of: CRC32C.checksum(answer, seed: seed), toByteOffset: Ring.Slot.answerChecksum, as: UInt32.self)
                word.pointee.store(number << 8 | 2, ordering: .releasing)
            }
        }

        /// - Returns: `count`.
        private func forge(_ bytes: UnsafeMutableRawPointer, atMost count: Int) -> Int {
            let isNew = Bool.random(using: &random)
            for index in 0..<count where isNew || Int.random(in: 0..<16, using: &random) == 0 {
                // Small numbers are lengths and counts that make sense.
                let isSmall = Bool.random(using: &random)
                (bytes + index).storeBytes(of: isSmall ? 0 : .random(in: 0 ... .max, using: &random), as: UInt8.self)
            }
            return count
        }
    }
}
