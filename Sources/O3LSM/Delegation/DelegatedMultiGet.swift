/// Several keys looked up with as few requests as hold them.
extension EngineCore {
    /// Keys of one request at most: its answer has room for values of 168 bytes then, and more keys are several requests
    /// that are on their way at once.
    private static let keysOfRequest = 32

    /// The values of keys at `sequence`, in their order.
    func multiLookup(_ keys: [[UInt8]], _ state: ReadState, _ sequence: SequenceNumber) throws(EngineError)
        -> [PinnedValue?]
    {
        guard let delegation = activeDelegation, keys.count > 1, let readClass = state.readClass,
            let first = state.memtables.firstIndex(where: { $0.isDelegable })
        else { return try lookupEach(keys, state, sequence, choosesForEach: keys.count == 1) }
        let choice = delegation.choices[.batch, readClass]
        let way = choice.way(isServed: delegation.isServed)
        let start = way.isTimed ? monotonicNanoseconds() : 0
        defer { if way.isTimed { choice.record((monotonicNanoseconds() - start) / UInt64(keys.count), way) } }
        // Those that are timed give estimates for keys whose place is known, too.
        guard way.isDelegated else { return try lookupEach(keys, state, sequence, choosesForEach: way.isTimed) }
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
                try readByPlace(&pending[index], state.memtables, first, sequence, delegation, choice)
            }
            ask(&pending, state.memtables, first, sequence, delegation)
            var values: [PinnedValue?] = []
            values.reserveCapacity(keys.count)
            for var key in pending {
                let older = state.memtables[(key.isRead ? key.end : first)...]
                if !key.isSettled { try look(&key, in: older, sequence) }
                if !key.isSettled { key.value = try lookupInTables(key.key, key.hash, state.version, sequence) }
                values.append(key.value)
            }
            return values
        }
    }

    /// One after the other.
    ///
    /// - Parameter choosesForEach: whether the way is chosen for each of them; false: all are read directly.
    private func lookupEach(
        _ keys: [[UInt8]], _ state: ReadState, _ sequence: SequenceNumber, choosesForEach: Bool
    ) throws(EngineError) -> [PinnedValue?] {
        var values: [PinnedValue?] = []
        values.reserveCapacity(keys.count)
        for key in keys {
            values.append(
                try key.withEngineBytes { bytes throws(EngineError) in
                    choosesForEach
                        ? try lookup(bytes, state, sequence) : try lookupDirectly(bytes, hashKey(bytes), state, sequence)
                })
        }
        return values
    }

    /// A key on its way through the sources.
    private struct PendingKey {
        var key: UnsafeRawBufferPointer
        var hash: UInt64
        /// The end of the memtables that a request asks about.
        var end: Int
        /// Whether the memtables before `end` have said all they know.
        var isRead = false
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

    /// Reads a key whose place the offset cache knows, when that is known to cost less than to ask about it among others.
    private func readByPlace(
        _ key: inout PendingKey, _ memtables: [Memtable], _ first: Int, _ sequence: SequenceNumber,
        _ delegation: ReadDelegation, _ choice: DelegationChoice
    ) throws(EngineError) {
        guard let place = offsetCache?.newestPlace(key.hash, in: memtables[first..<key.end]) else { return }
        let run = memtables[first...place]
        let (looking, asking) = (delegation.choices[.cached, ReadClass(run)].placeNanoseconds, choice.delegatedNanoseconds)
        guard looking > 0, looking < asking else { return }
        try look(&key, in: run, sequence)
        key.end = run.endIndex
        key.isRead = true
    }

    /// A request for some of the keys.
    private struct Request {
        /// Which, and what is asked about them.
        var keys: [Int] = []
        var questions: [ReadDelegation.Question] = []
        /// The end of the memtables of all.
        var end: Int
    }

    /// As many of the keys from `next` on that are neither settled nor read as one request holds; nil: there are none.
    private func nextRequest(_ keys: [PendingKey], from next: inout Int, _ first: Int) -> Request? {
        var request = Request(end: first)
        var bytes = ReadMessage.headBytes + ReadMessage.maximumMemtables * ReadMessage.memtableBytes
        while next < keys.count, request.keys.count < Self.keysOfRequest {
            let key = keys[next]
            if !key.isSettled, !key.isRead {
                bytes += ReadMessage.keyHeadBytes + key.key.count
                if bytes > ReadRing.maximumRequestBytes, !request.keys.isEmpty { break }
                request.keys.append(next)
                request.questions.append(ReadDelegation.Question(key: key.key, memtables: key.end - first))
                request.end = max(request.end, key.end)
            }
            next += 1
        }
        return request.keys.isEmpty ? nil : request
    }

    /// Asks about all keys that are neither settled nor read, with several requests on their way at once. Those that are not
    /// answered stay as they are.
    private func ask(
        _ keys: inout [PendingKey],
        _ memtables: [Memtable],
        _ first: Int,
        _ sequence: SequenceNumber,
        _ delegation: ReadDelegation
    ) {
        var next = 0
        var waiting: [(request: Request, posted: ReadDelegation.Posted)] = []
        var oldest = 0
        // One for which there was no room.
        var held: Request?
        while true {
            while waiting.count - oldest < ReadDelegation.mostInFlight {
                guard let request = held ?? nextRequest(keys, from: &next, first) else { break }
                held = nil
                if let posted = delegation.postLookup(request.questions, memtables[first..<request.end], sequence) {
                    waiting.append((request, posted))
                } else if oldest < waiting.count {
                    held = request
                    break
                }
            }
            guard oldest < waiting.count else { return }
            let (request, posted) = waiting[oldest]
            oldest += 1
            var findings: [(Int, Finding)] = []
            _ = delegation.wait(for: posted, request.questions, sequence) { index, answer in
                let key = keys[request.keys[index]]
                if let finding = interpret(answer, key.key, key.hash, memtables[first..<key.end], sequence) {
                    findings.append((request.keys[index], finding))
                } else {
                    delegation.countUnknown()
                }
                return true
            }
            for (index, finding) in findings {
                keys[index].isRead = true
                keys[index].take(finding)
            }
        }
    }
}
