/// A cursor over the point entries of a sealed memtable in DM, which a server sends in batches. Belongs to one thread.
///
/// Which way it goes and what it costs it shares with the other cursors of its scan. A seek that is announced is asked for at
/// once, and waited for when it is its turn. Batches grow while the cursor moves on, so that a short scan is not charged
/// for entries it does not read. Steps back, and whatever is not answered, are done by a cursor of the owner's own.
final class DelegatedIterator: InternalIterator {
    private let memtable: Memtable
    private let scan: DelegatedScan
    /// `DelegatedScan.number` of the last seek.
    private var scanNumber: UInt64 = 0
    /// The request of an announced seek, to be waited for or withdrawn.
    private var posted: ReadDelegation.Posted?
    /// nil until it is needed; in use from a step that was not answered to the next seek.
    private var own: InternalIterator?
    private var isOwn = false

    /// The batch under the cursor and the one before it, whose key may be what is sought.
    private let buffers: UnsafeMutableRawBufferPointer
    private var isSecond = false
    private var reader = MessageReader(UnsafeRawBufferPointer(start: nil, count: 0))
    private var left: UInt32 = 0
    private var isLast = false
    private var batch: UInt16 = firstBatch

    private var isThere = false
    private var key = UnsafeRawBufferPointer(start: nil, count: 0)
    private var mark = Trailer.last
    private var bytes = UnsafeRawBufferPointer(start: nil, count: 0)

    /// Entries of the first batch after a seek; each one after that may have four times as many.
    private static let firstBatch: UInt16 = 16
    private static let mostEntries: UInt16 = 4096

    init(_ memtable: Memtable, _ scan: DelegatedScan) {
        self.memtable = memtable
        self.scan = scan
        buffers = .allocate(byteCount: 2 * ReadRing.maximumAnswerBytes, alignment: 8)
    }

    deinit {
        withdraw()
        scan.forget(self)
        buffers.deallocate()
    }

    // MARK: Seeks that are announced

    override var wantsSeeksAnnounced: Bool { scan.way.isDelegated }

    override func announceSeek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) {
        guard scan.way.isDelegated else { return }
        withdraw()
        scan.announce(self, userKey, trailer)
    }

    /// Posts the request of an announced seek.
    ///
    /// - Returns: false when it cannot be posted now.
    func post(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) -> Bool {
        posted = scan.delegation.postRange(memtable, from: userKey, trailer, atMost: Self.firstBatch)
        return posted != nil
    }

    private func takePosted() -> ReadDelegation.Posted? {
        guard let taken = posted else { return nil }
        posted = nil
        scan.hasEnded()
        return taken
    }

    private func withdraw() { if let taken = takePosted() { scan.delegation.withdraw(taken) } }

    // MARK: The cursor

    override var isValid: Bool { isOwn ? own?.isValid ?? false : isThere }
    override var userKey: UnsafeRawBufferPointer { isOwn ? own?.userKey ?? super.userKey : key }
    override var trailer: Trailer { isOwn ? own?.trailer ?? .last : mark }
    override var value: UnsafeRawBufferPointer { isOwn ? own?.value ?? super.value : bytes }

    override func seekToFirst() throws(EngineError) { try seek(UnsafeRawBufferPointer(start: nil, count: 0), .first) }

    override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        scanNumber = scan.countSeek(after: scanNumber)
        batch = Self.firstBatch
        try scan.timed { () throws(EngineError) in
            if scan.way.isDelegated { try fetch(userKey, trailer) } else { try useOwn().seek(userKey, trailer) }
        }
    }

    override func next() throws(EngineError) {
        scan.countStep()
        if isOwn {
            try scan.timed { () throws(EngineError) in try own?.next() }
            return
        }
        guard isThere else { return }
        let (last, after) = (key, Trailer(rawValue: mark.rawValue &- 1))
        if left > 0 {
            if read(last, after) { return }
            try useOwn().seek(last, after)
        } else if isLast {
            isThere = false
        } else {
            batch = min(batch * 4, Self.mostEntries)
            try scan.timed { () throws(EngineError) in try fetch(last, after) }
        }
    }

    override func seekToLast() throws(EngineError) { try useOwn().seekToLast() }
    override func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        try useOwn().seekBefore(userKey, trailer)
    }
    override func previous() throws(EngineError) {
        guard isValid else { return }
        if isOwn { try own?.previous() } else { try useOwn().seekBefore(key, mark) }
    }

    override func skip(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        if isOwn {
            try scan.timed { () throws(EngineError) in try own?.skip(to: userKey, upTo: sequence) }
            return
        }
        let last = memtable.lastSequence
        guard isThere, last > 0, last <= sequence, compareKeys(key, userKey) < 0 else { return }
        try scan.timed { () throws(EngineError) in try fetch(userKey, .first) }
    }

    /// Steps back are the own cursor's.
    override func skipBack(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        if isOwn { try own?.skipBack(to: userKey, upTo: sequence) }
    }

    /// The owner's own cursor, from now on.
    private func useOwn() -> InternalIterator {
        withdraw()
        isOwn = true
        if let own { return own }
        let made = memtable.makeIterator()
        own = made
        return made
    }

    /// Stands on the first entry at or after the key given.
    private func fetch(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        isOwn = false
        isThere = false
        let buffer = UnsafeMutableRawBufferPointer(
            rebasing: isSecond ? buffers[..<ReadRing.maximumAnswerBytes] : buffers[ReadRing.maximumAnswerBytes...])
        if posted != nil, !scan.isTarget(userKey, trailer) { withdraw() }
        let early = takePosted()
        scan.takeTurn(self, userKey, trailer)
        let request = early ?? scan.delegation.postRange(memtable, from: userKey, trailer, atMost: batch)
        func accept(_ answer: UnsafeRawBufferPointer) -> Bool {
            guard answer.count <= buffer.count else { return false }
            buffer.copyMemory(from: answer)
            reader = MessageReader(UnsafeRawBufferPointer(rebasing: buffer[..<answer.count]))
            guard let count = reader.number(UInt32.self), let flags = reader.number(UInt32.self) else { return false }
            left = count
            isLast = flags == ReadMessage.lastRange
            return flags <= ReadMessage.unknownRange
        }
        if let request, scan.delegation.wait(for: request, accept) {
            scan.delegation.countRange()
            isSecond.toggle()
            if left > 0, read(userKey, trailer) { return }
            if left == 0, isLast { return }
        }
        try useOwn().seek(userKey, trailer)
    }

    /// Moves to the next entry of the batch, if it is one at or after the internal key given.
    private func read(_ least: UnsafeRawBufferPointer, _ leastTrailer: Trailer) -> Bool {
        isThere = false
        guard left > 0, let entry = reader.entry(), compareInternal(least, leastTrailer, entry.key, entry.trailer) <= 0
        else { return false }
        if let value = entry.value {
            bytes = value
        } else {
            memtable.fabric?.roundTrips(1)
            guard let shard = memtable.map.shards.first(where: { $0.index == entry.shard }),
                let found = shard.soundEntry(entry.offset), compareKeys(found.key, entry.key) == 0,
                found.trailer == entry.trailer
            else { return false }
            bytes = found.value
        }
        left -= 1
        key = entry.key
        mark = entry.trailer
        isThere = true
        return true
    }
}
