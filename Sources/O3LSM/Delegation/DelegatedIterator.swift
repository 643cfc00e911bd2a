/// A cursor over the point entries of a sealed memtable in DM, which a server sends in batches. Belongs to one thread.
///
/// Which way it goes is said when it is made; it reports what each scan, from a seek to the next one, has cost.
/// Batches grow while the cursor moves on, so that a short scan is not charged for entries it does not read. Steps
/// back, and whatever is not answered, are done by a cursor of the owner's own.
final class DelegatedIterator: InternalIterator {
    private let memtable: Memtable
    private let delegation: ReadDelegation
    private let way: DelegationChoice.Way
    /// What this scan has cost, and how many entries it has read.
    private var spent: UInt64 = 0
    private var steps: UInt64 = 0
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

    /// A seek counts as much as these many entries, so that short and long scans can be compared.
    private static let entriesOfSeek: UInt64 = 16

    init(_ memtable: Memtable, _ delegation: ReadDelegation, _ way: DelegationChoice.Way) {
        self.memtable = memtable
        self.way = way
        self.delegation = delegation
        buffers = .allocate(byteCount: 2 * ReadRing.maximumAnswerBytes, alignment: 8)
    }

    deinit {
        report()
        buffers.deallocate()
    }

    /// Ends a scan.
    private func report() {
        if spent > 0 { delegation.scans.record(spent / (Self.entriesOfSeek + steps), way) }
        spent = 0
        steps = 0
    }

    /// Adds the time of a step to what the scan has cost.
    @inline(__always)
    private func timed(_ body: () throws(EngineError) -> Void) throws(EngineError) {
        guard way.isTimed else { return try body() }
        let start = monotonicNanoseconds()
        defer { spent += monotonicNanoseconds() - start }
        try body()
    }

    override var isValid: Bool { isOwn ? own?.isValid ?? false : isThere }
    override var userKey: UnsafeRawBufferPointer { isOwn ? own?.userKey ?? super.userKey : key }
    override var trailer: Trailer { isOwn ? own?.trailer ?? .last : mark }
    override var value: UnsafeRawBufferPointer { isOwn ? own?.value ?? super.value : bytes }

    override func seekToFirst() throws(EngineError) { try seek(UnsafeRawBufferPointer(start: nil, count: 0), .first) }

    override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        report()
        batch = Self.firstBatch
        try timed { () throws(EngineError) in
            if way.isDelegated { try fetch(userKey, trailer) } else { try useOwn().seek(userKey, trailer) }
        }
    }

    override func next() throws(EngineError) {
        steps += 1
        if isOwn {
            try timed { () throws(EngineError) in try own?.next() }
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
            try timed { () throws(EngineError) in try fetch(last, after) }
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
            try timed { () throws(EngineError) in try own?.skip(to: userKey, upTo: sequence) }
            return
        }
        let last = memtable.lastSequence
        guard isThere, last > 0, last <= sequence, compareKeys(key, userKey) < 0 else { return }
        try timed { () throws(EngineError) in try fetch(userKey, .first) }
    }

    /// Steps back are the own cursor's.
    override func skipBack(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        if isOwn { try own?.skipBack(to: userKey, upTo: sequence) }
    }

    /// The owner's own cursor, from now on.
    private func useOwn() -> InternalIterator {
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
        let isAnswered = delegation.range(memtable, from: userKey, trailer, atMost: batch) { answer in
            guard answer.count <= buffer.count else { return false }
            buffer.copyMemory(from: answer)
            reader = MessageReader(UnsafeRawBufferPointer(rebasing: buffer[..<answer.count]))
            guard let count = reader.number(UInt32.self), let flags = reader.number(UInt32.self) else { return false }
            left = count
            isLast = flags == ReadMessage.lastRange
            return flags <= ReadMessage.unknownRange
        }
        if isAnswered {
            isSecond.toggle()
            if left > 0, read(userKey, trailer) { return }
            if left == 0, isLast { return }
        }
        try useOwn().seek(userKey, trailer)
    }

    /// Moves to the next entry of the batch, if it is one at or after the internal key given.
    private func read(_ least: UnsafeRawBufferPointer, _ leastTrailer: Trailer) -> Bool {
        isThere = false
        guard left > 0, let trailer = reader.number(UInt64.self), let keyLength = reader.number(UInt32.self),
            let valueLength = reader.number(UInt32.self), let offset = reader.number(UInt32.self),
            let shardIndex = reader.number(UInt16.self), let isInline = reader.number(UInt16.self),
            let key = reader.take(Int(keyLength)), Trailer(rawValue: trailer).kind != nil,
            compareInternal(least, leastTrailer, key, Trailer(rawValue: trailer)) <= 0
        else { return false }
        if isInline == 1 {
            guard let value = reader.take(Int(valueLength)) else { return false }
            bytes = value
        } else {
            memtable.fabric?.roundTrips(1)
            guard let shard = memtable.map.shards.first(where: { $0.index == shardIndex }),
                let entry = shard.soundEntry(offset), compareKeys(entry.key, key) == 0,
                entry.trailer == Trailer(rawValue: trailer)
            else { return false }
            bytes = entry.value
        }
        left -= 1
        self.key = key
        mark = Trailer(rawValue: trailer)
        isThere = true
        return true
    }
}
