/// Point reads with delegation: sealed memtables in DM that follow each other are asked with one request.
extension EngineCore {
    /// As `lookup` without delegation.
    ///
    /// Memtables in DM that follow each other are a run. Where the offset cache knows a place of the key in one of them, the
    /// run ends with that one: either it is read by its place, once the filters of those before it have said no, or all are
    /// walked through, or a server is asked, whichever costs least by the estimates for such reads.
    ///
    /// - Parameter count: point reads for which this one stands, see `DelegationChoices.readsToChooseFor`.
    @inline(never)
    func lookup(
        _ key: UnsafeRawBufferPointer,
        _ hash: UInt64,
        _ state: ReadState,
        _ sequence: SequenceNumber,
        _ delegation: ReadDelegation,
        standingFor count: UInt64
    ) throws(EngineError) -> PinnedValue? {
        let memtables = state.memtables
        let isServed = delegation.isServed
        if let readClass = state.readClass { delegation.choices.passBy(readClass) }
        var index = 0
        while index < memtables.count {
            guard memtables[index].isDelegable else {
                if case .settled(let value) = try look(in: memtables[index], key, hash, sequence) { return value }
                index += 1
                continue
            }
            var run = memtables[index..<endOfRun(memtables, from: index, key, sequence)]
            let place = offsetCache?.newestPlace(hash, in: run)
            if let place { run = run[...place] }
            index = run.endIndex
            let choice = delegation.choices[place == nil ? .point : .cached, ReadClass(run)]
            let way = choice.way(standingFor: count, isServed: isServed)
            let start = way.isTimed ? monotonicNanoseconds() : 0
            defer { if way.isTimed { choice.record(monotonicNanoseconds() - start, way) } }
            if way.isDelegated, let finding = ask(run, key, hash, sequence, delegation) {
                if case .settled(let value) = finding { return value }
                continue
            }
            for memtable in run {
                if case .settled(let value) = try look(in: memtable, key, hash, sequence, byPlace: !way.isWalk) { return value }
            }
        }
        return try lookupInTables(key, hash, state.version, sequence)
    }

    /// What a server says of a key in memtables; nil: nothing.
    private func ask(
        _ memtables: ArraySlice<Memtable>,
        _ key: UnsafeRawBufferPointer,
        _ hash: UInt64,
        _ sequence: SequenceNumber,
        _ delegation: ReadDelegation
    ) -> Finding? {
        let questions = [ReadDelegation.Question(key: key, memtables: memtables.count)]
        guard let posted = delegation.postLookup(questions, memtables, sequence) else { return nil }
        var finding: Finding?
        let isAnswered = delegation.wait(for: posted, questions, sequence) { _, answer in
            finding = interpret(answer, key, hash, memtables, sequence)
            return true
        }
        if isAnswered, let finding { return finding }
        if isAnswered { delegation.countUnknown() }
        return nil
    }

    /// The end of the memtables from `index` on that one request can ask: behind a range tombstone over the key there is
    /// nothing to look for.
    func endOfRun(_ memtables: [Memtable], from index: Int, _ key: UnsafeRawBufferPointer, _ sequence: SequenceNumber)
        -> Int
    {
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
        _ answer: ReadAnswer,
        _ key: UnsafeRawBufferPointer,
        _ hash: UInt64,
        _ memtables: ArraySlice<Memtable>,
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
                hash,
                memtable: memtable.id,
                OffsetCache.Place(shard: answer.shard, offset: answer.offset)
            )
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
