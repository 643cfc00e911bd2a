import Testing

@testable import O3LSM

@Suite struct OffloadPolicyTests {
    /// Two memtables fit locally, one of which is sealed; DM has room; nobody else flushes.
    private static var situation: OffloadPolicy.Situation {
        OffloadPolicy.Situation(
            bytes: 64 << 20, sealedMemtables: 1, localCapacity: 2, hasRoomInDM: true, dmOccupancy: 0.2,
            dmBacklogBytes: 0, transferBytesPerSecond: 2e9, flushBytesPerSecond: 3e8, hasWorkers: false)
    }
    private func decision(_ change: (inout OffloadPolicy.Situation) -> Void) -> OffloadPolicy.Decision {
        var situation = Self.situation
        change(&situation)
        return OffloadPolicy.decide(situation)
    }

    @Test func workersGetWhatFits() {
        #expect(decision { $0.hasWorkers = true } == .offload)
        #expect(decision { ($0.hasWorkers, $0.localCapacity) = (true, 8) } == .offload)
    }

    @Test func aFullRegionNeverStopsWriters() {
        #expect(decision { $0.hasRoomInDM = false } == .flushLocally)
        #expect(decision { ($0.hasRoomInDM, $0.hasWorkers) = (false, true) } == .flushLocally)
        #expect(decision { ($0.hasRoomInDM, $0.localCapacity) = (false, 8) } == .wait)
    }

    @Test func theQuickerWayOutIsTaken() {
        #expect(decision { _ in } == .offload)
        #expect(decision { $0.transferBytesPerSecond = 1e8 } == .flushLocally)
        #expect(decision { $0.flushBytesPerSecond = 0 } == .offload)
    }

    @Test func nothingIsCopiedInVain() {
        #expect(decision { $0.localCapacity = 8 } == .flushLocally)
    }
}
