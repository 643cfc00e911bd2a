import Testing

@testable import O3LSM

/// Contract 3: what power loss costs is at most the commit interval, wherever between two looks an operation comes, and
/// whether or not its memtable is sealed.
@Suite struct CommitScheduleTests {
    private static let interval: UInt64 = 1_000_000_000

    @Test(arguments: [0, 1_000_000, 20_000_000] as [UInt64]) func nothingGrowsOlderThanTheInterval(jitter: UInt64) {
        let seed = UInt64.random(in: 0 ... .max)
        print("CommitScheduleTests seed \(seed)")
        var random = SeededRandom(seed)
        var now: UInt64 = 5_000_000_000
        var schedule = CommitSchedule(intervalNanoseconds: Self.interval, now: now, visible: 0)
        let look = UInt64(schedule.lookMilliseconds) * 1_000_000
        /// When each operation came; its sequence is its place and one.
        var births: [UInt64] = []
        var durable = 0
        var syncs = 0
        for _ in 0..<5000 {
            let next = now + look + (jitter > 0 ? .random(in: 0...jitter, using: &random) : 0)
            var times: [UInt64] = []
            for _ in 0..<random.below(3) { times.append(.random(in: now + 1..<next, using: &random)) }
            // The worst moments: right after a look, right before the next.
            if Int.random(in: 0..<4, using: &random) == 0 { times += [now + 1, next - 1] }
            births += times.sorted()
            now = next
            // A flush makes some of it durable, now and then.
            if Int.random(in: 0..<6, using: &random) == 0 {
                durable = Int.random(in: durable...births.count, using: &random)
            }
            #expect(durable == births.count || now - births[durable] <= Self.interval, "seed \(seed)")
            if schedule.isDue(now, durable: UInt64(durable)) {
                #expect(births.count > durable, "a sync of nothing, seed \(seed)")
                #expect(now - births[durable] >= Self.interval / 2, "a sync that could wait, seed \(seed)")
                durable = births.count
                syncs += 1
            }
            schedule.looked(now, visible: UInt64(births.count))
        }
        #expect(syncs > 0)
    }

    /// While the log fails, what waits stays due, and takes no more memory.
    @Test func whatIsDueStaysDue() {
        var now: UInt64 = 1_000_000_000_000
        var schedule = CommitSchedule(intervalNanoseconds: Self.interval, now: now, visible: 0)
        for sequence in 1...1000 as ClosedRange<UInt64> {
            schedule.looked(now, visible: sequence)
            now += Self.interval / 8
            let isDue = schedule.isDue(now, durable: 2)
            #expect(isDue || sequence <= 20)
        }
        let isDue = schedule.isDue(now, durable: 1000)
        #expect(!isDue)
    }

    /// What an owner before has left un-synced has waited for nobody knows how long.
    @Test func whatWasThereIsDueAtOnce() {
        var schedule = CommitSchedule(intervalNanoseconds: Self.interval, now: 3_000_000_000, visible: 7)
        let isDue = schedule.isDue(3_000_000_000, durable: 6)
        let isStillDue = schedule.isDue(3_000_000_000, durable: 7)
        #expect(isDue && !isStillDue)
    }
}
