import Testing

@testable import O3FileSystem

@Suite struct LookupCountsTests {
    @Test func countsAgreeWithADictionary() {
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SeededGenerator(seed: seed)
        let counts = LookupCounts()
        var model: [InodeNumber: UInt32] = [:]
        for step in 0..<200_000 {
            // Grows, then shrinks.
            let isGrowing = step < 100_000
            let inode = UInt64.random(in: 1...20_000, using: &random)
            if UInt.random(in: 0..<10, using: &random) < (isGrowing ? 7 : 2) {
                counts.retain(inode)
                model[inode, default: 0] += 1
            } else {
                let amount = UInt64.random(in: 1...3, using: &random)
                let before = model[inode] ?? 0
                #expect(counts.release(inode, amount).before == before, "seed \(seed)")
                model[inode] = UInt64(before) > amount ? before - UInt32(amount) : nil
            }
        }
        #expect(counts.inodeCount == model.count, "seed \(seed)")
        for inode in 1...20_000 as ClosedRange<UInt64> {
            #expect(counts.isRetained(inode) == (model[inode] != nil), "seed \(seed)")
        }
    }

    @Test func onlyTheLastReleaseOfAMarkedInodeIsAForgottenOrphan() {
        let counts = LookupCounts()
        #expect(!counts.markOrphan(5))
        counts.retain(5)
        counts.retain(5)
        #expect(counts.markOrphan(5))
        #expect(!counts.release(5, 1).isForgottenOrphan)
        #expect(counts.release(5, 1).isForgottenOrphan)
        #expect(!counts.isRetained(5))
        #expect(counts.release(5, 1) == LookupCounts.Release(before: 0, isForgottenOrphan: false))
    }

    @Test func aTableIsNeverFullerOrEmptierThanPromised() {
        var table = CountTable()
        for inode in 1...100_000 as ClosedRange<UInt64> {
            table.insert(inode, 1)
            #expect(table.used * 8 <= table.capacity * 7)
            #expect(table.capacity == 16 || table.used * 100 >= table.capacity * 58)
        }
        // The promise to people with a million files: at most 24 bytes for each.
        #expect(table.capacity * 12 <= table.used * 24)
        for inode in 1...100_000 as ClosedRange<UInt64> { table.remove(at: table.place(of: inode)) }
        #expect(table.used == 0 && table.capacity == 16)
    }
}

@Suite struct InodeCacheTests {
    private func row(_ size: UInt64) -> Inode {
        var row = Inode(mode: 0o100644, owner: .root, linkCount: 1, time: Timestamp(seconds: 0))
        row.size = size
        return row
    }

    @Test func rowsComeBackUntilTheyMakeRoom() {
        let cache = InodeCache(capacity: 64)
        for inode in 1...10_000 as ClosedRange<UInt64> {
            cache.insert(inode, row(inode))
            #expect(cache.row(of: inode)?.size == inode)
        }
        let kept = (1...10_000 as ClosedRange<UInt64>).filter { cache.row(of: $0) != nil }
        #expect(kept.count == 64)
        cache.remove(10_000)
        #expect(cache.row(of: 10_000) == nil)
        cache.insert(10_000, row(1)) { false }
        #expect(cache.row(of: 10_000) == nil)
    }

    @Test func noCapacityHoldsNothing() {
        let cache = InodeCache(capacity: 0)
        cache.insert(1, row(1))
        #expect(cache.row(of: 1) == nil)
        cache.remove(1)
    }
}

@Suite struct StripeSetTests {
    @Test func stripesAscendEachOnce() {
        var set = StripeSet()
        for stripe in [9, 3, 9, 7, 3, 1] { set.insert(stripe) }
        #expect((0..<set.count).map { set.stripes[$0] } == [1, 3, 7, 9])
    }
}
