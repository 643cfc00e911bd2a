import Testing

@testable import O3LSM

@Suite struct FlushScheduleTests {
    private static func situation(slots: Int = 2, occupancy: Double = 0.2, depth: Int = 0) -> FlushSchedule.Situation {
        FlushSchedule.Situation(slots: slots, occupancy: occupancy, level0Depth: depth, level0Trigger: 4)
    }

    @Test func asManyAreOfferedAsNodesCanTakeAndAsManyAgain() {
        #expect(FlushSchedule.window(Self.situation(slots: 3)) == 6)
        #expect(FlushSchedule.window(Self.situation(slots: 0)) == 2)
    }

    @Test func oldMemtablesGoFirstThenShallowRangesThenLargeShards() {
        let candidates = [
            FlushSchedule.Candidate(age: 1, bytes: 900, level0Depth: 0, index: 0),
            FlushSchedule.Candidate(age: 0, bytes: 100, level0Depth: 3, index: 1),
            FlushSchedule.Candidate(age: 0, bytes: 500, level0Depth: 4, index: 2),
            FlushSchedule.Candidate(age: 0, bytes: 300, level0Depth: 0, index: 3),
        ]
        #expect(FlushSchedule.order(candidates, Self.situation()).map(\.index) == [3, 1, 2, 0])
        // With little memory left, what is longest goes first.
        #expect(FlushSchedule.order(candidates, Self.situation(occupancy: 0.7)).map(\.index) == [2, 3, 1, 0])
    }

    @Test func memtablesAreMergedWhenThatSavesWrites() throws {
        let region = try Region.createPrivate(size: 64 << 20)
        let allocator = SlabAllocator(slabCount: region.slabCount)
        func memtable(_ id: UInt64, _ keys: Range<Int>, boundaries: [[UInt8]] = [], deletesRange: Bool = false) throws
            -> Memtable
        {
            let memtable = try #require(
                Memtable.create(
                    id: id, region: region, allocator: allocator, boundaries: boundaries, memtableSize: 1 << 20))
            memtable.activate(firstSequence: id * 10_000)
            var splice = Splice()
            for number in keys {
                let key = Array("key\(100_000 + number)".utf8)
                try key.withUnsafeBytes { key in
                    let shard = memtable.map.shards[memtable.map.route(key)]
                    let height = 1 + number.trailingZeroBitCount / 2
                    let offset = memtable.reserve(
                        shard, Shard.allocationBytes(height: height, key: key.count, value: 0),
                        id * 10_000 + UInt64(number))
                    try #require(offset != 0)
                    shard.fill(
                        offset, kind: EntryKind.put.rawValue | RegionLayout.Entry.batchEndFlag, height: height,
                        sequence: id * 10_000 + UInt64(number), key: key, value: UnsafeRawBufferPointer(start: nil, count: 0))
                    memtable.filter.add(hashKey(key))
                    shard.insert(offset, splice: &splice)
                }
            }
            if deletesRange { memtable.tombstones.add(RangeTombstone(begin: [0], end: [1], sequence: id * 10_000)) }
            memtable.seal(lastSequence: id * 10_000 + 9_999)
            return memtable
        }
        let first = try memtable(1, 1..<2000)
        let same = try memtable(2, 1..<2000)
        let half = try memtable(3, 1000..<3000)
        let other = try memtable(4, 5000..<7000)
        let deletes = try memtable(5, 8000..<9000, deletesRange: true)
        let cut = try memtable(6, 1..<2000, boundaries: [Array("key1".utf8)])
        #expect(FlushSchedule.saving([first], same) == 1)
        #expect((0.4...0.6).contains(FlushSchedule.saving([first], half)))
        #expect(FlushSchedule.saving([first], other) < 0.05)
        let waiting = [first, same, half, other, deletes]
        #expect(FlushSchedule.mergeCount(waiting, Self.situation()) == 3)
        #expect(FlushSchedule.mergeCount([other, deletes], Self.situation()) == 2)
        #expect(FlushSchedule.mergeCount([other, first], Self.situation()) == 1)
        // A deep L0 is reason enough; boundaries that differ forbid it; scarce memory keeps it short.
        #expect(FlushSchedule.mergeCount([other, first], Self.situation(depth: 4)) == 2)
        #expect(FlushSchedule.mergeCount([first, cut], Self.situation(depth: 4)) == 1)
        #expect(FlushSchedule.mergeCount(waiting, Self.situation(occupancy: 0.8)) == 2)
        #expect(FlushSchedule.mergeCount([first], Self.situation(depth: 9)) == 1)
    }
}
