import Glibc
import O3FileSystem
import Testing

@testable import O3LSM
@testable import o3fs

@Suite struct TroubleLedgerTests {
    private let ledger = TroubleLedger()
    private var troubles: [Trouble] { ledger.report(Statistics(), space: nil) }

    /// Storage that takes no log is one trouble, whichever of its files it refuses; the newest is named.
    @Test func whatStorageRefusesInOneDirectoryIsToldOnce() {
        for number in 1...20 {
            ledger.note(.engine(.io(operation: "sync", path: "/store/wal/\(number).log", code: 5)))
        }
        ledger.note(.engine(.io(operation: "sync", path: "/store/sst/1.sst", code: 5)))
        ledger.note(.engine(.io(operation: "sync", path: "/store/wal/21.log", code: 28)))
        #expect(troubles.map(\.count) == [1, 1, 20])
        #expect(troubles[2].what.contains("/store/wal/20.log"))
        #expect(troubles[0].what.contains("/store/wal/21.log"))
    }

    /// Each damaged table is something to repair; the oldest make room for the newest.
    @Test func eachDamagedFileIsTold() {
        for number in 1...10 {
            for _ in 0..<2 {
                ledger.note(.corruption(file: "/store/sst/\(number).sst", offset: 0, expected: "a", found: "b"))
            }
        }
        #expect(troubles.map(\.count) == [UInt64?](repeating: 2, count: 8))
        #expect(troubles[0].what.contains("10.sst") && troubles[7].what.contains("/3.sst"))
    }

    /// A worker that died is told of while few are left, and for some time after; one that is silent, by itself.
    @Test func workersThatDieOrHangAreTold() {
        func told(_ health: WorkerSupervisor.Health) -> [Trouble] {
            ledger.report(Statistics(), space: nil, workers: health)
        }
        #expect(told(.init(wanted: 2, running: 0)).isEmpty)
        #expect(told(.init(wanted: 2, running: 2, deaths: 3, lastCause: "signal 9", last: 1)).isEmpty)
        let gone = told(.init(wanted: 2, running: 1, deaths: 3, lastCause: "signal 9", last: 1))
        #expect(gone.count == 1 && gone.first?.count == 3 && gone.first?.last == 1)
        #expect(gone.first?.what.contains("signal 9") == true && gone.first?.what.contains("1 of 2") == true)
        #expect(told(.init(wanted: 2, running: 2, deaths: 1, lastCause: "signal 9", last: time(nil))).count == 1)
    }

    /// Writers that have waited for long are told of with the way out, each cause by itself; short waits, and those that
    /// are over, are not.
    @Test func writersThatWaitAreTold() {
        var statistics = Statistics()
        statistics.dm.regionBytes = 1 << 30
        statistics.levels = [Statistics.Level(level: 0, files: 61, bytes: 1)]
        func set(_ cause: StallCause, waiting: Int, seconds: Double) {
            statistics.stalls[cause.rawValue] = Statistics.Stall(
                count: 3, seconds: 100, waiting: waiting, longestWaitSeconds: seconds)
        }
        set(.dmFull, waiting: 1, seconds: 1)
        set(.l0Full, waiting: 0, seconds: 0)
        #expect(ledger.report(statistics, space: nil).isEmpty)
        set(.dmFull, waiting: 2, seconds: 61)
        set(.l0Full, waiting: 1, seconds: 5)
        let told = ledger.report(statistics, space: nil)
        #expect(told.map { $0.what.hasPrefix("writers have waited for ") } == [true, true])
        #expect(told[0].what.contains("1 min 1 s") && told[0].what.contains("1.0 GiB") && told[0].wayOut.contains("--dm-size"))
        #expect(told[1].what.contains("5 s") && told[1].what.contains("61 tables"))
    }
}
