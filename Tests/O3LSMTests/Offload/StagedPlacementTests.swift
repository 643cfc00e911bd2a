import Foundation
import Testing

@testable import O3LSM

/// Memtables that are born in private memory and leave it: for DM, or for a table.
@Suite struct StagedPlacementTests {
    private static var options: Options {
        var options = TemporaryStore.smallOptions
        options.placement = .staged
        options.localBuffer = 4 << 20
        return options
    }
    private static func key(_ number: Int) -> [UInt8] { Array("key\(number + 1_000_000)".utf8) }
    private static func value(_ number: Int) -> [UInt8] { (0..<500).map { UInt8(truncatingIfNeeded: number &* 31 &+ $0) } }

    private func fill(_ database: Database, _ range: Range<Int>) throws {
        for number in range { try database.put(Self.key(number), Self.value(number)) }
    }
    private func check(_ database: Database, _ range: Range<Int>) throws {
        for number in range { #expect(try database.get(Self.key(number)) == Self.value(number), "key \(number)") }
    }

    @Test func aTransferredMemtableIsWhatItWas() throws {
        let store = TemporaryStore()
        var options = Self.options
        options.memtableSize = 2 << 20
        options.shards = 4
        let database = try store.open(options)
        let core = database.core
        try fill(database, 0..<3000)
        try database.deleteRange(Self.key(100), Self.key(200))
        try database.delete(Self.key(7))
        let source = core.writes.active
        #expect(!source.isInDM)
        let sequence = core.region.visibleSequence
        // By hand, and without putting it in place: the scheduler goes its own way.
        let transfer = try #require(MemtableTransfer.begin(source, to: core.region, core.allocator, beside: []))
        let pieces = transfer.pieces
        for (index, piece) in pieces.enumerated() { #expect(transfer.copy(piece) == (index == pieces.count - 1)) }
        #expect(transfer.isCopied)
        let copy = try transfer.finish()
        #expect(copy.isInDM)
        #expect(copy.entryCount == source.entryCount)
        #expect(copy.reservedBytes == source.reservedBytes)
        #expect(copy.map.shards.map(\.lowerBound) == source.map.shards.map(\.lowerBound))
        #expect(
            copy.tombstones.tombstones(from: nil, to: nil).map(\.begin)
                == source.tombstones.tombstones(from: nil, to: nil).map(\.begin))
        let (left, right) = (source.makeIterator(), copy.makeIterator())
        try left.seekToFirst()
        try right.seekToFirst()
        var entries = 0
        while left.isValid {
            #expect(right.isValid && left.userKey.elementsEqual(right.userKey) && left.value.elementsEqual(right.value))
            entries += 1
            try left.next()
            try right.next()
        }
        #expect(!right.isValid && entries == 3001)
        try Self.key(50).withUnsafeBytes { key in
            let found = try copy.lookup(key, hash: hashKey(key), sequence)
            guard case .put(let value, _) = found else { throw EngineError.closed }
            #expect(value.copy() == Self.value(50))
        }
        copy.setState(.flushed)
        copy.discard()
        try database.close()
    }

    /// A slot is free until its transfer is finished: the next one must take another.
    @Test func transfersAtTheSameTimeTakeSlotsOfTheirOwn() throws {
        let store = TemporaryStore()
        let database = try store.open(Self.options)
        let core = database.core
        try fill(database, 0..<100)
        let source = core.writes.active
        var transfers: [MemtableTransfer] = []
        for _ in 0..<3 {
            transfers.append(
                try #require(MemtableTransfer.begin(source, to: core.region, core.allocator, beside: transfers)))
        }
        var copies: [Memtable] = []
        for transfer in transfers.reversed() {
            for piece in transfer.pieces { _ = transfer.copy(piece) }
            copies.append(try transfer.finish())
        }
        #expect(Set(copies.map(\.slot)).count == 3)
        for copy in copies {
            copy.setState(.flushed)
            copy.discard()
        }
        try database.close()
    }

    @Test func memtablesTravelWhileWritesGoOn() throws {
        let store = TemporaryStore()
        let database = try store.open(Self.options)
        try fill(database, 0..<20_000)
        let statistics = database.statistics()
        #expect(statistics.placement == "staged")
        #expect(statistics.offload.memtables + statistics.offload.flushedLocally >= 5)
        #expect(statistics.offload.failed == 0)
        #expect(statistics.dm.memtables.first?.place == "local")
        try check(database, 0..<20_000)
        try database.close()
        let again = try store.open(Self.options)
        try check(again, 0..<20_000)
        try again.close()
    }

    /// Contract 1: private memory dies with the process, and nothing that has returned with it.
    @Test func whatHasReturnedSurvivesTheProcess() throws {
        let store = TemporaryStore()
        var written = 0
        for life in 0..<6 {
            var options = Self.options
            if life == 4 { options.placement = .direct }
            let database = try store.open(options)
            try check(database, 0..<written)
            try fill(database, written..<(written + 1500))
            written += 1500
            abandon(database)
        }
        let database = try store.open(Self.options)
        try check(database, 0..<written)
        #expect(try database.verify().isEmpty)
        try database.close()
    }

    @Test func aFullRegionDoesNotStopWriters() throws {
        let store = TemporaryStore()
        var options = Self.options
        options.dmSize = 16 << 20
        options.memtableSize = 2 << 20
        let database = try store.open(options)
        // Everything in DM is taken: what cannot travel is flushed from where it is.
        var taken: [UInt32] = []
        while let slab = database.core.allocator.allocate() { taken.append(slab) }
        try fill(database, 0..<20_000)
        #expect(database.statistics().offload.flushedLocally >= 3)
        #expect(database.statistics().offload.memtables == 0)
        database.core.allocator.release(taken)
        try check(database, 0..<20_000)
        try database.close()
    }
}
