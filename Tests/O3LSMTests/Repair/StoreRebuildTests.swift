import Foundation
import Glibc
import Testing

@testable import O3LSM

/// Stores that are made anew: of many tables that overlap, and of logs that an attempt to open them has read in part.
@Suite struct StoreRebuildTests {
    private static func file(_ number: UInt64, _ smallest: String, _ largest: String) -> FileMetadata {
        FileMetadata(
            number: number, size: 1, smallest: InternalKey(userKey: Array(smallest.utf8), trailer: .last),
            largest: InternalKey(userKey: Array(largest.utf8), trailer: .last), smallestSequence: 1,
            largestSequence: 1, entryCount: 1, deletionCount: 0, rangeTombstoneCount: 0)
    }

    @Test func tablesMakeAsFewRunsAsCanBe() {
        let files = [
            Self.file(1, "c", "d"), Self.file(2, "a", "b"), Self.file(3, "b", "c"), Self.file(4, "e", "z"),
            Self.file(5, "a", "a"),
        ]
        let runs = StoreRebuild.runs(of: files)
        #expect(runs.count == 2 && Set(runs.joined().map(\.number)) == [1, 2, 3, 4, 5])
        for run in runs {
            for (left, right) in zip(run, run.dropFirst()) { #expect(KeyRange(left).isBefore(KeyRange(right))) }
        }
        #expect(StoreRebuild.runs(of: []).isEmpty)
    }

    /// More tables over one key than are merged at once: what is deleted in one of them stays deleted in all.
    @Test func moreRunsThanAreMergedAtOnce() throws {
        var random = SeededRandom(9)
        let store = TemporaryStore()
        var options = TemporaryStore.smallOptions
        options.disableAutomaticCompaction = true
        let database = try store.open(options)
        var contents: [[UInt8]: [UInt8]] = [:]
        for round in 0..<150 {
            for _ in 0..<40 {
                let key = Array("key \(Int.random(in: 100..<400, using: &random))".utf8)
                if random.below(3) == 0 {
                    try database.delete(key)
                    contents[key] = nil
                } else {
                    let value = Array("\(round)".utf8)
                    try database.put(key, value)
                    contents[key] = value
                }
            }
            if round % 7 == 0 {
                let first = Int.random(in: 100..<400, using: &random)
                let (begin, end) = (Array("key \(first)".utf8), Array("key \(first + 10)".utf8))
                try database.deleteRange(begin, end)
                contents = contents.filter { compareKeys($0.key, begin) < 0 || compareKeys($0.key, end) >= 0 }
            }
            try database.flush()
        }
        #expect(StoreRebuild.runs(of: database.core.versions.current.levels[0]).count > 64)
        try database.close()
        for name in try FileManager.default.contentsOfDirectory(atPath: store.path)
        where name.hasPrefix("MANIFEST-") || name == "CURRENT" {
            try FileManager.default.removeItem(atPath: store.path + "/" + name)
        }
        defer { try? FileManager.default.removeItem(atPath: store.path + ".damaged") }
        let report = try StoreRepair(store.path).run(dryRun: false)
        #expect(report.losses.isEmpty)
        let again = try store.open()
        let cursor = try again.makeIterator()
        var found: [[UInt8]: [UInt8]] = [:]
        try cursor.seekToFirst()
        while cursor.isValid {
            found[Array(cursor.key)] = Array(cursor.value)
            try cursor.next()
        }
        #expect(found == contents)
        #expect(try again.verify() == [])
        try again.close()
    }

    /// The opening that finds a log damaged has put what lies before into tables by then, and let its logs go.
    @Test func whatAnOpeningHasFlushedIsKept() throws {
        let store = TemporaryStore()
        let database = try store.open()
        try database.put(Array("before".utf8), [1])
        let first = database.lastSequence + 1
        try database.close()
        let layout = StoreLayout(root: store.path)
        let records: UInt64 = 200
        func key(_ number: UInt64) -> [UInt8] { Array("key \(1000 + number)".utf8) }
        // More than the memory of the opening holds: it must flush on the way.
        let files = try LogFiles.open(layout: layout, storage: POSIXStorage(), fileSize: 8 << 20)
        for number in 0..<records {
            let value = [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 512 << 10)
            let payload = Self.record(first + number, key(number), value)
            try payload.withUnsafeBytes { try files.append($0, sequences: first + number...first + number) }
            try files.sync()
        }
        let path = try #require(
            try FileManager.default.contentsOfDirectory(atPath: layout.logDirectory).sorted().dropLast().last)
        let log = layout.logDirectory + "/" + path
        var bytes = try #require(FileManager.default.contents(atPath: log))
        bytes[bytes.count / 2] ^= 1
        try bytes.write(to: URL(fileURLWithPath: log))

        defer { try? FileManager.default.removeItem(atPath: store.path + ".damaged") }
        let report = try StoreRepair(store.path).run(dryRun: false)
        #expect(report.losses.count == 1)
        let again = try store.open()
        #expect(try again.get(Array("before".utf8)) == [1])
        let missing = try (0..<records).filter { try again.get(key($0))?.first != UInt8(truncatingIfNeeded: $0) }
        #expect(missing.count == 1, "\(missing)")
        #expect(try again.verify() == [])
        try again.close()
    }

    /// The payload of a record with one put.
    private static func record(_ sequence: SequenceNumber, _ key: [UInt8], _ value: [UInt8]) -> [UInt8] {
        var writer = ByteWriter(capacity: value.count + 64)
        writer.append(sequence)
        writer.append(UInt32(1))
        writer.append(EntryKind.put.rawValue | RegionLayout.Entry.batchEndFlag)
        writer.append(UInt16(key.count))
        writer.append(UInt32(value.count))
        writer.append(raw: key)
        writer.append(raw: value)
        return writer.bytes
    }
}
