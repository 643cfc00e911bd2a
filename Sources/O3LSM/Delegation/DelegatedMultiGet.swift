/// Several keys looked up with as few requests as hold them.
extension EngineCore {
    /// Keys of one request at most.
    private static let keysOfRequest = 64

    /// The values of keys at `sequence`, in their order.
    func multiLookup(_ keys: [[UInt8]], _ state: ReadState, _ sequence: SequenceNumber) throws(EngineError)
        -> [PinnedValue?]
    {
        guard let delegation, keys.count > 1 else { return try lookupEach(keys, state, sequence) }
        let way = delegation.batches.way(0)
        guard !way.isPlain, delegation.hasServers, let first = state.memtables.firstIndex(where: { $0.isDelegable })
        else {
            return try lookupEach(keys, state, sequence)
        }
        let start = way.isTimed ? monotonicNanoseconds() : 0
        defer {
            if way.isTimed { delegation.batches.record((monotonicNanoseconds() - start) / UInt64(keys.count), way) }
        }
        guard way.isDelegated else { return try lookupEach(keys, state, sequence) }
        // One copy, so that all keys can be pointed to at once.
        let joined = [UInt8](keys.joined())
        return try joined.withEngineBytes { (bytes) throws(EngineError) in
            var pending: [PendingKey] = []
            pending.reserveCapacity(keys.count)
            var offset = 0
            for key in keys {
                let range = UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + key.count)])
                pending.append(PendingKey(key: range, hash: hashKey(range), end: first))
                offset += key.count
            }
            for index in pending.indices {
                try look(&pending[index], in: state.memtables[..<first], sequence)
                if pending[index].isSettled { continue }
                pending[index].end = endOfRun(state.memtables, from: first, pending[index].key, sequence)
            }
            ask(&pending, state.memtables, first, sequence, delegation)
            var values: [PinnedValue?] = []
            values.reserveCapacity(keys.count)
            for var key in pending {
                let older = state.memtables[(key.isAsked ? key.end : first)...]
                if !key.isSettled { try look(&key, in: older, sequence) }
                if !key.isSettled { key.value = try lookupInTables(key.key, key.hash, state.version, sequence) }
                values.append(key.value)
            }
            return values
        }
    }

    private func lookupEach(_ keys: [[UInt8]], _ state: ReadState, _ sequence: SequenceNumber) throws(EngineError)
        -> [PinnedValue?]
    {
        var values: [PinnedValue?] = []
        values.reserveCapacity(keys.count)
        for key in keys {
            values.append(try key.withEngineBytes { bytes throws(EngineError) in try lookup(bytes, state, sequence) })
        }
        return values
    }

    /// A key on its way through the sources.
    private struct PendingKey {
        var key: UnsafeRawBufferPointer
        var hash: UInt64
        /// The end of the memtables to ask a server about.
        var end: Int
        var isAsked = false
        var isSettled = false
        var value: PinnedValue?

        mutating func take(_ finding: Finding) {
            guard case .settled(let value) = finding else { return }
            isSettled = true
            self.value = value
        }
    }

    private func look(_ key: inout PendingKey, in memtables: ArraySlice<Memtable>, _ sequence: SequenceNumber)
        throws(EngineError)
    {
        for memtable in memtables where !key.isSettled {
            key.take(try look(in: memtable, key.key, key.hash, sequence))
        }
    }

    /// Asks about all keys that are not settled, as many at once as a request holds. Those that are not answered stay as
    /// they are.
    private func ask(
        _ keys: inout [PendingKey],
        _ memtables: [Memtable],
        _ first: Int,
        _ sequence: SequenceNumber,
        _ delegation: ReadDelegation
    ) {
        var next = 0
        while next < keys.count {
            var chosen: [Int] = []
            var end = first
            var bytes = ReadMessage.headBytes + ReadMessage.maximumMemtables * ReadMessage.memtableBytes
            while next < keys.count, chosen.count < Self.keysOfRequest {
                if !keys[next].isSettled {
                    bytes += ReadMessage.keyHeadBytes + keys[next].key.count
                    if bytes > ReadRing.maximumRequestBytes, !chosen.isEmpty { break }
                    chosen.append(next)
                    end = max(end, keys[next].end)
                }
                next += 1
            }
            if chosen.isEmpty { return }
            let questions = chosen.map { ReadDelegation.Question(key: keys[$0].key, memtables: keys[$0].end - first) }
            var findings: [(Int, Finding)] = []
            _ = delegation.lookup(questions, memtables[first..<end], sequence) { index, answer in
                let key = keys[chosen[index]]
                if let finding = interpret(answer, key.key, key.hash, memtables[first..<key.end], sequence) {
                    findings.append((chosen[index], finding))
                } else {
                    delegation.countUnknown()
                }
                return true
            }
            for (index, finding) in findings {
                keys[index].isAsked = true
                keys[index].take(finding)
            }
        }
    }
}
