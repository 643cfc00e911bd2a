import Glibc
import Testing

@testable import O3FileSystem

@Suite struct CountFileTests {
    private func goOn(_ file: CountFile) throws -> LookupCounts {
        LookupCounts(try CountFile(continuing: dup(file.descriptor)))
    }

    @Test func countsGoOnWhereAnotherLeftThem() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SeededGenerator(seed: seed)
        var counts = LookupCounts(try CountFile(continuing: nil))
        var model: [InodeNumber: UInt32] = [:]
        for round in 0..<20 {
            for _ in 0..<5000 {
                let inode = UInt64.random(in: 1...20_000, using: &random)
                if UInt.random(in: 0..<10, using: &random) < (round < 10 ? 7 : 2) {
                    counts.retain(inode)
                    model[inode, default: 0] += 1
                } else {
                    let before = model[inode] ?? 0
                    #expect(counts.release(inode, 2).before == before, "seed \(seed)")
                    model[inode] = before > 2 ? before - 2 : nil
                }
            }
            counts = try goOn(try #require(counts.file))
            #expect(counts.inodeCount == model.count, "seed \(seed)")
        }
        for (inode, count) in model { #expect(counts.release(inode, 1000).before == count, "seed \(seed)") }
        #expect(counts.inodeCount == 0)
    }

    /// As if the process had died after each store of a removal: no entry may be missing.
    @Test func anInterruptedRemovalLosesNothing() throws {
        for cut in 0..<40 {
            let file = try CountFile(continuing: nil)
            var table = CountTable(file, shard: 3)
            for inode in 1...400 as ClosedRange<UInt64> { table.insert(inode, UInt32(inode)) }
            // A removal shifts entries back one by one, keys before values; its first steps leave one of them twice.
            var place = table.place(of: 17)
            var kept = Set(1...400 as ClosedRange<UInt64>)
            kept.remove(17)
            for _ in 0..<cut {
                let next = place + 1 == table.capacity ? 0 : place + 1
                guard table.keys[next] != 0 else { break }
                table.keys[place] = table.keys[next]
                place = next
            }
            file.setTorn(true, 3)
            let mended = CountTable(try CountFile(continuing: dup(file.descriptor)), shard: 3)
            for inode in kept {
                #expect(mended.keys[mended.place(of: inode)] == inode)
                #expect(mended.values[mended.place(of: inode)] >= UInt32(inode))
            }
            #expect((399...400).contains(mended.used))
        }
    }

    @Test func refusesWhatIsNoCountFile() throws {
        #expect(throws: FileSystemError.self) { try CountFile(continuing: open("/dev/null", O_RDWR)) }
    }
}
