/// Point reads with delegation: sealed memtables in DM that follow each other are asked with one request.
extension EngineCore {
    /// As `lookup` without delegation.
    func lookup(
        _ key: UnsafeRawBufferPointer, _ state: ReadState, _ sequence: SequenceNumber, _ delegation: ReadDelegation
    ) throws(EngineError) -> PinnedValue? {
        let hash = hashKey(key)
        let memtables = state.memtables
        var index = 0
        while index < memtables.count {
            // A place that the cache knows costs no more than a request.
            let isKnown = offsetCache?.place(hash, memtable: memtables[index].id) != nil
            guard memtables[index].isDelegable, !isKnown, delegation.hasServers else {
                if case .settled(let value) = try look(in: memtables[index], key, hash, sequence) { return value }
                index += 1
                continue
            }
            let end = endOfRun(memtables, from: index, key, sequence)
            let way = delegation.choice.way(hash)
            let start = way.isTimed ? monotonicNanoseconds() : 0
            defer {
                if way.isTimed {
                    delegation.choice.record(monotonicNanoseconds() - start, isDelegated: way.isDelegated)
                }
            }
            if way.isDelegated {
                let questions = [ReadDelegation.Question(key: key, memtables: end - index)]
                var finding: Finding?
                if delegation.lookup(questions, memtables[index..<end], sequence, answer: { _, answer in
                    finding = interpret(answer, key, hash, memtables[index..<end], sequence)
                    return true
                }), let finding {
                    if case .settled(let value) = finding { return value }
                    index = end
                    continue
                }
                delegation.countUnknown()
            }
            while index < end {
                if case .settled(let value) = try look(in: memtables[index], key, hash, sequence) { return value }
                index += 1
            }
        }
        return try lookupInTables(key, state.version, sequence)
    }

    /// The end of the memtables from `index` on that one request can ask: behind a range tombstone over the key there is
    /// nothing to look for.
    func endOfRun(_ memtables: [Memtable], from index: Int, _ key: UnsafeRawBufferPointer, _ sequence: SequenceNumber) -> Int {
        var end = index
        while end < memtables.count, end - index < ReadMessage.maximumMemtables, memtables[end].isDelegable {
            let tombstones = memtables[end].tombstones
            end += 1
            if !tombstones.isEmpty, tombstones.newestCovering(key, upTo: sequence) > 0 { break }
        }
        return end
    }

    /// What a server's answer about a key means; nil: nothing, so the memtables must be asked directly.
    ///
    /// - Parameter memtables: all that were asked about the key.
    func interpret(
        _ answer: ReadAnswer, _ key: UnsafeRawBufferPointer, _ hash: UInt64, _ memtables: ArraySlice<Memtable>,
        _ sequence: SequenceNumber
    ) -> Finding? {
        func tombstone(_ memtable: Memtable) -> SequenceNumber {
            memtable.tombstones.isEmpty ? 0 : memtable.tombstones.newestCovering(key, upTo: sequence)
        }
        guard answer.state != .unknown, answer.memtable < memtables.count else { return nil }
        if answer.state == .notFound {
            guard let last = memtables.last else { return nil }
            return tombstone(last) > 0 ? .settled(nil) : .askOlder
        }
        let memtable = memtables[memtables.startIndex + answer.memtable]
        if let offsetCache, sequence >= memtable.immutableSince {
            offsetCache.store(
                hash, memtable: memtable.id, OffsetCache.Place(shard: answer.shard, offset: answer.offset))
        }
        let isHidden = answer.sequence <= tombstone(memtable)
        switch answer.state {
        case .value: return .settled(isHidden ? nil : PinnedValue.copying(answer.value))
        case .place:
            memtable.fabric?.roundTrips(1)
            guard let shard = memtable.map.shards.first(where: { $0.index == answer.shard }),
                let entry = shard.soundEntry(answer.offset), compareKeys(entry.key, key) == 0,
                entry.sequence == answer.sequence, entry.kind == .put
            else { return nil }
            return .settled(isHidden ? nil : PinnedValue(bytes: entry.value, owner: memtable))
        default: return .settled(nil)
        }
    }
}

/// A value with memory of its own.
private final class OwnedBytes {
    let bytes: UnsafeMutableRawBufferPointer

    init(_ source: UnsafeRawBufferPointer) {
        bytes = .allocate(byteCount: source.count, alignment: 1)
        bytes.copyMemory(from: source)
    }

    deinit { bytes.deallocate() }
}

extension PinnedValue {
    /// A value that stays when the bytes go.
    static func copying(_ bytes: UnsafeRawBufferPointer) -> PinnedValue {
        let owned = OwnedBytes(bytes)
        return PinnedValue(bytes: UnsafeRawBufferPointer(owned.bytes), owner: owned)
    }
}
