import Foundation
import Synchronization
import Testing

@testable import O3LSM

/// Eight threads on one database. Writers own key ranges and write batches that must be seen whole; readers
/// check them through snapshots, iterators and gets, while others flush and compact.
@Suite struct ConcurrentUseTests {
    static let seconds = ProcessInfo.processInfo.environment["O3LSM_CONCURRENT_SECONDS"].flatMap { Double($0) } ?? 4

    @Test func batchesAreWholeToEveryThread() throws {
        let store = TemporaryStore()
        let database = try store.open()
        defer { try? database.close() }
        let problems = Mutex<[String]>([])
        let isOver = Atomic<Bool>(false)
        let writers = 3
        let members = 8

        @Sendable func key(_ writer: Int, _ member: Int) -> [UInt8] { Array("w\(writer)m\(member)".utf8) }
        @Sendable func report(_ text: String) { problems.withLock { $0.append(text) } }
        @Sendable func number(_ value: [UInt8]?) -> UInt64 {
            guard let value, value.count >= 8 else { return 0 }
            return value.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
        }
        /// All members of a writer's batch have the number of one batch, which never goes back.
        @Sendable func check(_ values: [[UInt8]?], atLeast least: UInt64, _ how: String) -> UInt64 {
            let numbers = values.map(number)
            if Set(numbers).count != 1 { report("\(how): a batch in part: \(numbers)") }
            if numbers[0] < least { report("\(how): batch \(numbers[0]) after \(least)") }
            return numbers[0]
        }

        var threads: [BackgroundThread] = []
        for writer in 0..<writers {
            threads.append(
                try BackgroundThread("writer-\(writer)") {
                    let batch = WriteBatch()
                    var count: UInt64 = 0
                    while !isOver.load(ordering: .relaxed) {
                        count += 1
                        batch.clear()
                        for member in 0..<members {
                            var value = withUnsafeBytes(of: count) { Array($0) }
                            value += [UInt8](repeating: UInt8(truncatingIfNeeded: count), count: Int(count % 300))
                            batch.put(key(writer, member), value)
                        }
                        // Deletes of a neighbouring range must not touch the members.
                        if count % 50 == 0 { batch.deleteRange(Array("x\(writer)".utf8), Array("y".utf8)) }
                        do { try database.write(batch, sync: count % 200 == 0) } catch { report("write: \(error)") }
                        let seen = number(try? database.get(key(writer, 0)))
                        if seen != count { report("writer \(writer) wrote \(count) and read \(seen)") }
                    }
                })
        }
        for reader in 0..<3 {
            threads.append(
                try BackgroundThread("reader-\(reader)") {
                    var least = [UInt64](repeating: 0, count: writers)
                    while !isOver.load(ordering: .relaxed) {
                        for writer in 0..<writers {
                            do {
                                let keys = (0..<members).map { key(writer, $0) }
                                least[writer] = check(
                                    try database.multiGet(keys), atLeast: least[writer], "multiGet")
                                let snapshot = database.makeSnapshot()
                                let single = try keys.map { try database.get($0, snapshot: snapshot) }
                                least[writer] = check(single, atLeast: least[writer], "snapshot")
                                var options = ReadOptions()
                                options.lowerBound = Array("w\(writer)".utf8)
                                options.upperBound = Array("w\(writer + 1)".utf8)
                                let iterator = try database.makeIterator(options)
                                var values: [[UInt8]?] = []
                                try reader == 0 ? iterator.seekToLast() : iterator.seekToFirst()
                                while iterator.isValid {
                                    values.append([UInt8](iterator.value))
                                    try reader == 0 ? iterator.previous() : iterator.next()
                                }
                                if values.isEmpty { continue }
                                if values.count != members { report("iterator: \(values.count) members") }
                                least[writer] = check(values, atLeast: least[writer], "iterator")
                            } catch { report("read: \(error)") }
                        }
                    }
                })
        }
        threads.append(
            try BackgroundThread("flusher") {
                while !isOver.load(ordering: .relaxed) {
                    do { try database.flush() } catch { report("flush: \(error)") }
                    usleep(20_000)
                }
            })
        threads.append(
            try BackgroundThread("compacter") {
                while !isOver.load(ordering: .relaxed) {
                    do { try database.compact() } catch { report("compact: \(error)") }
                    usleep(100_000)
                }
            })
        usleep(UInt32(ConcurrentUseTests.seconds * 1_000_000))
        isOver.store(true, ordering: .relaxed)
        for thread in threads { thread.join() }
        let found = problems.withLock { $0 }
        #expect(found.isEmpty, "\(found.prefix(5))")
        #expect(try database.verify().isEmpty)
    }
}
