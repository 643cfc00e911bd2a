import O3FileSystem
import O3LSM
import Testing

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
}
