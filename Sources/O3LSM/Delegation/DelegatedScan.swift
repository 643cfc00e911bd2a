/// What the cursors over the sealed memtables of one scan share: which way they go, what it has cost, and who asks next.
/// Belongs to one thread.
///
/// A seek goes to all of them. They announce it, and the first few requests are posted at once; each cursor that takes its
/// answer has the next request posted. The round trips of a seek overlap so, and no reader fills a ring by itself.
final class DelegatedScan {
    let delegation: ReadDelegation
    let way: DelegationChoice.Way
    private let choice: DelegationChoice

    /// What this scan has cost, how many cursors have sought, and how many entries have been read.
    private var spent: UInt64 = 0
    private var seeks: UInt64 = 0
    private var steps: UInt64 = 0
    /// Scans so far: a cursor that seeks again begins the next one.
    private(set) var number: UInt64 = 0

    /// Where the announced seek goes, and the cursors that have not posted their requests, in the order of their turns.
    private var key: [UInt8] = []
    private var trailer = Trailer.first
    private var waiting: [Unmanaged<DelegatedIterator>] = []
    private var next = 0
    private var inFlight = 0

    /// A seek counts as much as these many entries, so that short and long scans can be compared.
    private static let entriesOfSeek: UInt64 = 16

    init(_ delegation: ReadDelegation, _ choice: DelegationChoice, _ way: DelegationChoice.Way) {
        self.delegation = delegation
        self.choice = choice
        self.way = way
    }

    deinit { report() }

    // MARK: Cost

    /// Tells the choice what the scan has cost for each entry.
    private func report() {
        if spent > 0 { choice.record(spent / (Self.entriesOfSeek * seeks + steps), way) }
        (spent, seeks, steps) = (0, 0, 0)
    }

    /// A cursor seeks: the first time in this scan, or it is another scan.
    ///
    /// - Parameter last: the number of the scan in which it sought last; 0 for none.
    /// - Returns: that of this one.
    func countSeek(after last: UInt64) -> UInt64 {
        if last == number {
            report()
            number += 1
        }
        seeks += 1
        return number
    }

    @inline(__always) func countStep() { steps += 1 }

    /// Does a step, and adds its time to what the scan has cost.
    @inline(__always)
    func timed(_ body: () throws(EngineError) -> Void) throws(EngineError) {
        guard way.isTimed else { return try body() }
        let start = monotonicNanoseconds()
        defer { spent += monotonicNanoseconds() - start }
        try body()
    }

    // MARK: Seeks that are announced

    /// A cursor will seek to a key, after those that have announced it before.
    func announce(_ cursor: DelegatedIterator, _ key: UnsafeRawBufferPointer, _ trailer: Trailer) {
        if waiting.isEmpty || !isTarget(key, trailer) {
            waiting.removeAll(keepingCapacity: true)
            next = 0
            self.key.removeAll(keepingCapacity: true)
            self.key.append(contentsOf: key)
            self.trailer = trailer
        }
        waiting.append(.passUnretained(cursor))
        postNext(key, trailer)
    }

    /// Whether the announced seek goes to this key.
    func isTarget(_ key: UnsafeRawBufferPointer, _ trailer: Trailer) -> Bool {
        trailer == self.trailer && self.key.withUnsafeBytes { compareKeys($0, key) == 0 }
    }

    /// Posts requests while there is room for more on their way.
    private func postNext(_ key: UnsafeRawBufferPointer, _ trailer: Trailer) {
        while next < waiting.count, inFlight < ReadDelegation.mostInFlight {
            let cursor = waiting[next]
            guard cursor._withUnsafeGuaranteedRef({ $0.post(key, trailer) }) else { break }
            next += 1
            inFlight += 1
        }
        if next == waiting.count { leaveQueue() }
    }

    private func leaveQueue() {
        waiting.removeAll(keepingCapacity: true)
        next = 0
    }

    /// A cursor whose request is no longer on its way; others may follow.
    func hasEnded() { inFlight -= 1 }

    /// It is the turn of a cursor to seek, announced or not.
    func takeTurn(_ cursor: DelegatedIterator, _ key: UnsafeRawBufferPointer, _ trailer: Trailer) {
        guard !waiting.isEmpty else { return }
        guard isTarget(key, trailer) else { return leaveQueue() }
        // It may not have come to post.
        if let index = waiting[next...].firstIndex(where: {
            $0.toOpaque() == Unmanaged.passUnretained(cursor).toOpaque()
        }) {
            next = index + 1
        }
        postNext(key, trailer)
    }

    /// A cursor that goes away.
    func forget(_ cursor: DelegatedIterator) {
        guard !waiting.isEmpty else { return }
        let own = Unmanaged.passUnretained(cursor).toOpaque()
        if waiting[next...].contains(where: { $0.toOpaque() == own }) { leaveQueue() }
    }
}
