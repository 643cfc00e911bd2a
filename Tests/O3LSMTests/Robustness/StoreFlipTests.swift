import Foundation
import Testing

@testable import O3LSM

/// One flipped bit anywhere in the files of a store: what `o3fs check` does then says so, or the bit provably does
/// not matter, because the store's contents are what they were.
@Suite struct StoreFlipTests {
    /// O3LSM_FLIP_STRIDE 1 tries every byte of every file, O3LSM_FLIP_BITS 8 every bit of it. By default tables, each
    /// byte of which `TableCorruptionTests` tries, and logs are sampled, and one bit of a byte is tried.
    private static let stride = environment("O3LSM_FLIP_STRIDE") ?? 17
    private static let bits = environment("O3LSM_FLIP_BITS") ?? 1
    private static func environment(_ name: String) -> Int? {
        ProcessInfo.processInfo.environment[name].flatMap { Int($0) }
    }

    private static var options: Options {
        var options = NumberedHistory.options
        options.disableAutomaticCompaction = true
        return options
    }

    private static func key(_ number: Int) -> [UInt8] { Array("key \(number)".utf8) }

    /// Three small tables; with `isClosed` all is in them, otherwise the rest is in the log and power was lost.
    private static func store(isClosed: Bool) throws -> MemoryStorage {
        let storage = MemoryStorage()
        let database = try Database.open("/store", options: options, storage: storage)
        for number in 0..<24 {
            try database.put(key(number), Array("value \(number)".utf8))
            try database.sync()
            if number == 5 { try database.deleteRange(key(2), key(3)) }
            if number % 8 == 6 { try database.flush() }
        }
        if isClosed { try database.close() } else { abandon(database) }
        let result = storage.afterPowerLoss(isClosed ? .nothing : .everything)
        NumberedHistory(seed: 0).forgetRegion(result)
        return result
    }

    /// What a reader finds, and what the check says; nil when the store does not open.
    private static func look(_ storage: MemoryStorage) throws -> (contents: [[UInt8]: [UInt8]], problems: Int)? {
        var reading = options
        reading.readOnly = true
        reading.createIfMissing = false
        defer { NumberedHistory(seed: 0).forgetRegion(storage) }
        do {
            let database = try Database.open("/store", options: reading, storage: storage)
            defer { abandon(database) }
            let problems = try database.verify().count
            return problems > 0 ? ([:], problems) : (try NumberedHistory.contents(database), 0)
        } catch let error as EngineError {
            switch error {
            case .corruption, .unsupportedFormat: return nil
            default: throw error
            }
        }
    }

    @Test(arguments: [true, false]) func isFoundOrDoesNotMatter(isClosed: Bool) throws {
        let sound = try Self.store(isClosed: isClosed)
        let files = sound.tree.compactMap { path, bytes in bytes.map { (path: path, bytes: $0) } }.sorted { $0.path < $1.path }
        let original = try #require(try Self.look(sound))
        #expect(original.problems == 0 && original.contents.count > 20)
        var tried = 0
        var harmless: [String: [Int]] = [:]
        var unseen: [String: [Int]] = [:]
        for (path, bytes) in files {
            let isSampled = path.hasSuffix(".sst") || path.hasSuffix(".log")
            for offset in Swift.stride(from: 0, to: bytes.count, by: isSampled ? Self.stride : 1) {
                for bit in 0..<Self.bits {
                    var damaged = bytes
                    damaged[offset] ^= UInt8(1) << UInt8((offset + bit) % 8)
                    let storage = sound.afterPowerLoss(.nothing)
                    storage.set(path, to: damaged)
                    tried += 1
                    guard let found = try Self.look(storage), found.problems == 0 else { continue }
                    if found.contents == original.contents {
                        harmless[path, default: []].append(offset)
                    } else {
                        unseen[path, default: []].append(offset)
                    }
                }
            }
        }
        func ranges(_ places: [String: [Int]]) -> String {
            places.sorted { $0.key < $1.key }.map { path, offsets in
                "\(path) (\(files.first { $0.path == path }?.bytes.count ?? 0) bytes): \(offsets.count) in \(offsets.min() ?? 0)…\(offsets.max() ?? 0)"
            }.joined(separator: "; ")
        }
        print("StoreFlipTests: \(isClosed ? "closed" : "after power loss"), \(tried) flips; without effect: \(ranges(harmless)); unseen: \(ranges(unseen))")
        // The last group that was synced has no witness behind it (docs/formats.md, log files).
        let known = isClosed ? [] : unseen.keys.filter { $0.hasSuffix(".log") }
        #expect(unseen.keys.filter { !known.contains($0) } == [], "a flip that changes what is read goes unseen")
    }
}
