import Synchronization
import Testing

@testable import O3LSM

/// The cheaper way is found, stays found, and looking for it costs little; with costs made up, and no clock.
@Suite struct DelegationChoiceTests {
    /// A kind of memory: what a direct read costs, a delegated one in a row of such, and the first after a pause.
    private struct Costs {
        var direct: UInt64
        var delegated: UInt64
        var cold: UInt64

        var best: UInt64 { min(direct, delegated) }
    }

    /// Does reads; what they cost together.
    private func run(_ choice: DelegationChoice, _ costs: Costs, _ reads: Int) -> UInt64 {
        var spent: UInt64 = 0
        var sinceDelegated = Int.max
        for _ in 0..<reads {
            let way = choice.way()
            let cost = way.isDelegated ? (sinceDelegated > 50 ? costs.cold : costs.delegated) : costs.direct
            sinceDelegated = way.isDelegated ? 0 : sinceDelegated == .max ? .max : sinceDelegated + 1
            spent += cost
            if way.isTimed { choice.record(cost, way) }
        }
        return spent
    }

    @Test(arguments: [
        (1_000, 3_000, 1_000_000), (1_000, 1_000_000, 1_000_000), (5_000, 3_000, 900_000), (50_000, 5_000, 1_000_000),
        (3_000, 2_900, 100_000), (200_000, 20_000, 20_000),
    ] as [(UInt64, UInt64, UInt64)])
    func theCheaperWayIsChosenAndTrialsCostLittle(direct: UInt64, delegated: UInt64, cold: UInt64) {
        let choice = DelegationChoice(isAutomatic: true)
        let costs = Costs(direct: direct, delegated: delegated, cold: cold)
        // The first trial, and what comes before it.
        _ = run(choice, costs, 200_000)
        let reads = 2_000_000
        let spent = run(choice, costs, reads)
        #expect(choice.prefersDelegation == (delegated < direct))
        #expect(Double(spent) < 1.015 * Double(costs.best) * Double(reads))
    }

    @Test func aColdFirstTrialDoesNotDecide() {
        let choice = DelegationChoice(isAutomatic: true)
        // 40 µs a walk: 20,000 reads are below a second.
        _ = run(choice, Costs(direct: 40_000, delegated: 5_000, cold: 954_000), 4_000)
        #expect(choice.prefersDelegation)
        #expect(choice.delegatedNanoseconds < 10_000)
    }

    @Test func costsThatChangeAreFollowed() {
        let choice = DelegationChoice(isAutomatic: true)
        for (direct, delegated) in [(1_000, 20_000), (60_000, 21_000), (1_000, 20_000)] as [(UInt64, UInt64)] {
            _ = run(choice, Costs(direct: direct, delegated: delegated, cold: 60_000), 1_000_000)
            #expect(choice.prefersDelegation == (delegated < direct))
        }
    }

    @Test func aReaderThatLostItsProcessorDecidesNothing() {
        let choice = DelegationChoice(isAutomatic: true)
        let costs = Costs(direct: 40_000, delegated: 5_000, cold: 100_000)
        _ = run(choice, costs, 10_000)
        choice.record(50_000_000, DelegationChoice.Way(isDelegated: true, isTimed: true))
        #expect(choice.prefersDelegation)
    }

    /// A worker that has just woken up shares the reader's processor for a while: some requests in a row are fast, more are
    /// slow.
    @Test func aBurstThatBeginsBadlyGoesOn() {
        let choice = DelegationChoice(isAutomatic: true)
        var row: UInt64 = 0
        for _ in 0..<20_000 {
            let way = choice.way()
            row = way.isDelegated ? row + 1 : 0
            let isSlow = row < 500 && row / 16 % 2 == 0
            if way.isTimed { choice.record(way.isDelegated ? isSlow ? 20_000 : 2_000 : 4_000, way) }
        }
        #expect(choice.prefersDelegation)
        #expect(choice.trials > DelegationChoice.firstDirectReads + 2 * DelegationChoice.burstReads)
    }

    /// Reads of which nobody can say anything (no server, no sealed memtable) leave nothing behind.
    @Test func silenceIsNoVerdict() {
        let choice = DelegationChoice(isAutomatic: true)
        for _ in 0..<100_000 { _ = choice.way() }
        #expect(!choice.prefersDelegation && choice.directNanoseconds == 0)
        let costs = Costs(direct: 40_000, delegated: 5_000, cold: 100_000)
        _ = run(choice, costs, 10_000)
        #expect(choice.prefersDelegation)
    }

    @Test func onDelegatesAlways() {
        let choice = DelegationChoice(isAutomatic: false)
        for _ in 0..<1000 {
            let way = choice.way()
            #expect(way.isDelegated && !way.isTrial)
            if way.isTimed { choice.record(1_000_000, way) }
        }
        #expect(choice.prefersDelegation)
    }

    /// A trial is handed out once, whoever takes it, and only trials take the way that is dear.
    @Test func threadsShareABurst() throws {
        let choice = DelegationChoice(isAutomatic: true)
        let delegated = Atomic<UInt64>(0)
        let trials = Atomic<UInt64>(0)
        let others = Atomic<UInt64>(0)
        let reads = 40_000
        let threads = try (0..<4).map { thread in
            try BackgroundThread("chooser-\(thread)") {
                for _ in 0..<reads {
                    let way = choice.way()
                    if way.isTrial { trials.wrappingAdd(1, ordering: .relaxed) }
                    if way.isDelegated { delegated.wrappingAdd(1, ordering: .relaxed) }
                    if way.isDelegated, !way.isTrial { others.wrappingAdd(1, ordering: .relaxed) }
                    if way.isTimed { choice.record(way.isDelegated ? 50_000 : 1_000, way) }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(trials.load(ordering: .relaxed) == choice.trials)
        #expect(others.load(ordering: .relaxed) == 0)
        let found = delegated.load(ordering: .relaxed)
        #expect(found > 0 && found < UInt64(reads) * 4 / 16, "\(found)")
    }

    /// Where a place is known, reading by it, walking past it, and asking are weighed by what each costs.
    @Test(arguments: [(300, 2_000, 3_000, "cached"), (2_500, 400, 3_000, "direct"), (9_000, 20_000, 3_000, "delegated")] as [(UInt64, UInt64, UInt64, String)])
    func aKnownPlaceIsOneOfThreeWays(place: UInt64, walk: UInt64, asking: UInt64, best: String) {
        let choice = DelegationChoice(isAutomatic: true, hasPlace: true)
        for _ in 0..<400_000 {
            let way = choice.way()
            if way.isTimed { choice.record(way.isDelegated ? asking : way.isWalk ? walk : place, way) }
        }
        #expect(choice.preference.rawValue == best)
        #expect(choice.placeNanoseconds == place)
        #expect(choice.walkNanoseconds == walk || best == "delegated")
        let counts = choice.counts
        #expect(counts.direct + counts.cached + counts.delegated == 400_000)
        let ways: [String: UInt64] = ["direct": counts.direct, "cached": counts.cached, "delegated": counts.delegated]
        let most = ways[best] ?? 0
        #expect(most > 300_000, "\(counts)")
    }

    /// A burst that no read goes on with does not keep its class from the short way.
    @Test func anAbandonedBurstEnds() {
        let choices = DelegationChoices(isAutomatic: true, isOffsetCacheUsed: true)
        let readClass = ReadClass(isFar: false, memtables: 3)
        _ = choices[.cached, ReadClass(isFar: false, memtables: 1)].way()
        #expect(choices.readsToChooseFor(readClass) == 1)
        for _ in 0..<5_000 { choices.passBy(readClass) }
        #expect(choices.readsToChooseFor(readClass) != 1)
        // One that is used goes on.
        let point = choices[.point, readClass]
        _ = point.way()
        for _ in 0..<60 {
            for _ in 0..<4_000 { choices.passBy(readClass) }
            #expect(point.way().isTrial)
        }
    }

    /// Each class finds its own way; reads that are not asked are counted by those that are.
    @Test func classesChooseApart() {
        let choices = DelegationChoices(isAutomatic: true, isOffsetCacheUsed: false)
        let (short, long) = (ReadClass(isFar: true, memtables: 1), ReadClass(isFar: true, memtables: 12))
        let reads = 300_000
        for read in 0..<2 * reads {
            let readClass = read % 2 == 0 ? short : long
            let count = choices.readsToChooseFor(readClass)
            guard count > 0 else { continue }
            let choice = choices[.point, readClass]
            let way = choice.way(standingFor: count)
            if way.isTimed { choice.record(way.isDelegated ? 4_000 : readClass == short ? 1_500 : 40_000, way) }
        }
        #expect(choices[.point, short].preference == .direct && choices[.point, long].preference == .delegated)
        let rows = choices.statistics
        #expect(rows.map(\.memtables) == ["1", "8+"] && rows.allSatisfy { $0.distance == "far" && $0.kind == "point" })
        for row in rows {
            let found = Int(row.direct + row.cached + row.delegated)
            #expect(found > reads - reads / 100 && found < reads + reads / 100, "\(row)")
        }
        #expect(rows[0].direct > 290_000 && rows[1].delegated > 290_000, "\(rows)")
        #expect(rows[0].directNanoseconds == 1_500 && rows[1].delegatedNanoseconds == 4_000)
    }

    @Test func classesAreOfMemtablesAndDistance() {
        let lengths = [1: "1", 2: "2-3", 3: "2-3", 4: "4-7", 7: "4-7", 8: "8+", 16: "8+", 1000: "8+"]
        for (memtables, name) in lengths {
            for isFar in [false, true] {
                let found = ReadClass(isFar: isFar, memtables: memtables)
                #expect(found.memtables == name && found.isFar == isFar && ReadClass.all[found.index] == found)
            }
        }
        #expect(ReadClass.all.count == ReadClass.count)
    }

    @Test func withNobodyToAskReadsAreCountedAndDirect() {
        let choice = DelegationChoice(isAutomatic: false)
        for _ in 0..<100 { #expect(!choice.way(isServed: false).isDelegated) }
        let counts = choice.counts
        #expect(counts.direct == 100 && counts.cached == 0 && counts.delegated == 0)
    }
}
