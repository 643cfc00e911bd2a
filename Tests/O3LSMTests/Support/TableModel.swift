@testable import O3LSM

/// One entry of a table, as tests hold it.
struct TableEntry: Equatable {
    var key: [UInt8]
    var trailer: Trailer
    var value: [UInt8]

    var internalKey: InternalKey { InternalKey(userKey: key, trailer: trailer) }
}

/// The sorted array that a table must agree with.
struct TableModel {
    var entries: [TableEntry]
    var tombstones: [RangeTombstone] = []

    /// Random entries: keys of a small alphabet with long common prefixes, some very long, some with
    /// so many versions that they fill several blocks.
    static func random(_ count: Int, using generator: inout SeededRandom) -> TableModel {
        var entries: [TableEntry] = []
        var sequence: UInt64 = 1
        var seen: Set<[UInt8]> = []
        while entries.count < count {
            var length = Int.random(in: 1...12, using: &generator)
            if Int.random(in: 0..<200, using: &generator) == 0 {
                length = Int.random(in: 100...16384, using: &generator)
            }
            var key = generator.bytes(length, alphabet: 97...99)
            if Bool.random(using: &generator) { key = Array("a/common/prefix/".utf8) + key }
            if Int.random(in: 0..<50, using: &generator) == 0 { key = generator.bytes(length) }
            guard seen.insert(key).inserted else { continue }
            var versions = 1
            switch Int.random(in: 0..<100, using: &generator) {
            case 0: versions = 150
            case 1..<20: versions = Int.random(in: 2...6, using: &generator)
            default: break
            }
            for _ in 0..<versions {
                let kind: EntryKind = Int.random(in: 0..<5, using: &generator) == 0 ? .delete : .put
                var size = Int.random(in: 0...60, using: &generator)
                if Int.random(in: 0..<300, using: &generator) == 0 { size = 20_000 }
                let value =
                    kind == .delete
                    ? [] : generator.bytes(size, alphabet: 0...(Bool.random(using: &generator) ? 3 : 255))
                entries.append(
                    TableEntry(key: key, trailer: Trailer(sequence: sequence, kind: kind), value: value)
                )
                sequence += UInt64.random(in: 1...3, using: &generator)
            }
        }
        entries.sort { $0.internalKey < $1.internalKey }
        return TableModel(entries: entries)
    }

    /// The bytes of the table, and what the builder says of it.
    func build(_ options: TableOptions, number: UInt64 = 7) throws -> (bytes: [UInt8], metadata: FileMetadata?) {
        let file = MemoryWritableFile()
        let builder = TableBuilder(file: file, number: number, options: options)
        for tombstone in tombstones { try builder.addRangeTombstone(tombstone) }
        for entry in entries { try builder.add(entry) }
        let metadata = try builder.finish()
        return (file.bytes, metadata)
    }

    /// The index of the first entry at or after the key.
    func firstIndex(atOrAfter key: InternalKey) -> Int {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].internalKey < key { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The newest entry of the key that `sequence` sees.
    func newest(_ key: [UInt8], _ sequence: SequenceNumber) -> TableEntry? {
        let index = firstIndex(atOrAfter: InternalKey(userKey: key, trailer: .seek(sequence)))
        guard index < entries.count, entries[index].key == key else { return nil }
        return entries[index]
    }
}

extension TableBuilder {
    func add(_ entry: TableEntry) throws(EngineError) {
        try entry.key.withEngineBytes { (key) throws(EngineError) in
            try entry.value.withEngineBytes { (value) throws(EngineError) in try add(key, entry.trailer, value) }
        }
    }
}

extension Table {
    /// The lookup's answer as an entry.
    func newest(_ key: [UInt8], _ sequence: SequenceNumber = maximumSequenceNumber) throws(EngineError) -> TableEntry? {
        switch try key.withEngineBytes({ (bytes) throws(EngineError) in
            try lookup(bytes, hash: hashKey(bytes), sequence)
        }) {
        case .put(let value, let sequence):
            return TableEntry(key: key, trailer: Trailer(sequence: sequence, kind: .put), value: value.copy())
        case .deleted(let sequence):
            return TableEntry(key: key, trailer: Trailer(sequence: sequence, kind: .delete), value: [])
        case .notFound: return nil
        }
    }
}

extension InternalIterator {
    /// The entry under the cursor; nil when there is none.
    var tableEntry: TableEntry? {
        isValid ? TableEntry(key: [UInt8](userKey), trailer: trailer, value: [UInt8](value)) : nil
    }
    func seek(_ key: InternalKey) throws(EngineError) {
        try key.userKey.withEngineBytes { (bytes) throws(EngineError) in try seek(bytes, key.trailer) }
    }
    func seekBefore(_ key: InternalKey) throws(EngineError) {
        try key.userKey.withEngineBytes { (bytes) throws(EngineError) in try seekBefore(bytes, key.trailer) }
    }
}
