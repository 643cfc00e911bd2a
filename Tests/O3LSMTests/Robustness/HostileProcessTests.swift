import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// A process of the store's owner that writes anything anywhere into the region while the daemon works. What the daemon
/// answers is then anybody's guess, and whether it answers; but it must not read or write beyond the region's bounds.
@Suite(.serialized) struct HostileProcessTests {
    enum Target: String, CaseIterable, Codable, Sendable {
        /// Headers, nodes, jobs, bells, rings and the memtable directory: what workers may write, and more.
        case tables
        /// Arenas: roots, links, lengths, keys, values.
        case slabs
        case everything
    }

    @Test(.timeLimit(.minutes(1)), arguments: Target.allCases)
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
        while monotonicNanoseconds() < end {
            let database: Database
            do { database = try store.open() } catch {
                // What it left may be beyond help: then in one sentence, and the next one begins anew.
                Region.unlink(storeID: try StoreIdentity.load(from: store.path + "/IDENTITY", storage: POSIXStorage()).storeID)
                continue
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
        private var random: SeededRandom

        init(_ region: Region, _ target: Target, seed: UInt64) throws {
            let descriptor = shm_open(region.name, O_RDWR | O_CLOEXEC, 0)
            try #require(descriptor >= 0)
            defer { close(descriptor) }
            size = region.size
            base = try #require(mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0))
            range =
                switch target {
                case .tables: 0..<RegionLayout.firstSlabOffset
                case .slabs: RegionLayout.firstSlabOffset..<size
                case .everything: 0..<size
                }
            random = SeededRandom(seed)
        }

        deinit { munmap(base, size) }

        func scribble() {
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
    }
}
