import Testing

@testable import o3fs

/// On a clock of its own: reads of 1,000 ns without delegation and of 1,250 with, on a machine that becomes slower all the
/// time, and slower than any difference between the two.
struct DelegationTurnsTests {
    private final class Machine {
        var now: UInt64 = 0
        var isDelegating = true
        var changes = 0
    }

    @Test func theRatioIsThatOfTheReads() throws {
        let machine = Machine()
        var turns: DelegationTurns? = DelegationTurns(clock: { machine.now }) {
            machine.changes += $0 == machine.isDelegating ? 0 : 1
            machine.isDelegating = $0
        }
        while machine.now < DelegationTurns.turnNanoseconds * UInt64(DelegationTurns.pairsOfBlock) * 2 * 9 + 5000 {
            let slowness = machine.now / 1_000_000
            machine.now += (machine.isDelegating ? 1250 : 1000) * (1000 + slowness) / 1000
            machine.now = try #require(turns).finish(1, machine.now)
        }
        let found = try #require(turns?.result)
        // Turns of whole reads are a little longer than they should be, so that the last pair may be missing.
        #expect((8...9).contains(found.pairs / DelegationTurns.pairsOfBlock))
        #expect(abs(found.ratio - 0.8) < 0.001, "\(found)")
        #expect(found.margin < 0.001, "\(found)")
        // Within a pair, not between pairs.
        #expect((found.pairs...found.pairs + DelegationTurns.pairsOfBlock + 2).contains(machine.changes))
        turns = nil
        #expect(machine.isDelegating)
    }

    @Test func shortRunsSayNothing() {
        let machine = Machine()
        let turns = DelegationTurns(clock: { machine.now }) { _ in }
        #expect(turns.result == nil)
        machine.now += DelegationTurns.turnNanoseconds * 3
        _ = turns.finish(1, machine.now)
        #expect(turns.result == nil)
    }
}
