import CSystem
import Glibc
import Synchronization

/// Whether reads in sealed memtables are left to workers that sit next to the memory.
public enum ReadDelegationMode: String, Sendable, CaseIterable {
    case off
    /// All that can be.
    case on
    /// Those for which it is the faster way, by running estimates.
    case auto
}

/// The compute node's side of delegated reads: who serves them, and how to ask. Thread-safe.
///
/// A read that gets no answer, for whatever reason, is for the caller to do directly. A server whose process has died
/// is asked no more as soon as its pidfd says so; one that is late or sends damaged answers is left alone for a while.
/// The idea is that of O3-LSM (arXiv 2603.05439).
final class ReadDelegation: @unchecked Sendable {
    // @unchecked: everything that changes is atomic or behind the mutex.
    let mode: ReadDelegationMode
    /// How to read single keys, several at once (costs are those of a key), and ranges (those of an entry).
    let choices: DelegationChoices
    private let region: Region
    /// Distinguishes this owner from the ones before it, whose memtables a server may remember.
    private let life = UInt64.random(in: 1 ... .max)
    private let rings: [Server]
    private let watch = Mutex<[Watched]>([])
    private let servers = Atomic<Int>(0)
    private let nextLook = Atomic<UInt64>(0)
    private let turn = Atomic<Int>(0)
    private let counts = Counts()
    /// Whether new reads are to be as without delegation.
    let isPaused = Atomic<Bool>(false)

    private final class Server: Sendable {
        let ring: ReadRing
        /// Who serves it and is known to live; 0: nobody.
        let identity = Atomic<UInt64>(0)
        let restingUntil = Atomic<UInt64>(0)

        init(_ ring: ReadRing) { self.ring = ring }
    }
    private struct Watched {
        var identity: UInt64 = 0
        var descriptor: Int32 = -1
    }
    private final class Counts: Sendable {
        let keys = Atomic<UInt64>(0)
        let answered = Atomic<UInt64>(0)
        let ranges = Atomic<UInt64>(0)
        let timeouts = Atomic<UInt64>(0)
        let damaged = Atomic<UInt64>(0)
        let busy = Atomic<UInt64>(0)
        let unknown = Atomic<UInt64>(0)
    }

    private static let lookNanoseconds: UInt64 = 20_000_000
    private static let timeoutNanoseconds: UInt64 = 20_000_000
    /// Requests that one reader has posted and not waited for at most: a ring has room for a few more.
    static let mostInFlight = 4
    /// How long a server that has failed is left alone.
    private static let restNanoseconds: UInt64 = 100_000_000

    /// nil when the mode is off.
    ///
    /// - Parameter isOffsetCacheUsed: whether readers have places of keys.
    init?(_ region: Region, mode: ReadDelegationMode, isOffsetCacheUsed: Bool = false) {
        guard mode != .off else { return nil }
        self.mode = mode
        self.region = region
        choices = DelegationChoices(isAutomatic: mode == .auto, isOffsetCacheUsed: isOffsetCacheUsed)
        rings = (0..<RegionLayout.Ring.count).map { Server(ReadRing(region, index: $0)) }
        watch.withLock { $0 = rings.map { _ in Watched() } }
    }

    deinit { watch.withLock { for watched in $0 where watched.descriptor >= 0 { close(watched.descriptor) } } }

    // MARK: Servers

    /// Whether somebody serves; looks for new servers now and then.
    var hasServers: Bool {
        let now = monotonicNanoseconds()
        let due = nextLook.load(ordering: .relaxed)
        if now >= due,
            nextLook.compareExchange(expected: due, desired: now + Self.lookNanoseconds, ordering: .relaxed).exchanged
        {
            lookForServers()
        }
        return servers.load(ordering: .relaxed) > 0
    }

    /// As `hasServers`, without a look at the clock when somebody serves or did a moment ago.
    var isServed: Bool { servers.load(ordering: .relaxed) > 0 || hasServers }

    private func lookForServers() {
        watch.withLock { watched in
            var living = 0
            for (index, server) in rings.enumerated() {
                let found = server.ring.server
                if found != watched[index].identity {
                    if watched[index].descriptor >= 0 { close(watched[index].descriptor) }
                    watched[index] = Watched(identity: found)
                    let processID = Int32(truncatingIfNeeded: found & 0xffff_ffff)
                    if found != 0, processID > 0 {
                        let descriptor = o3_pidfd_open(processID)
                        // The id may be another process's by now.
                        if descriptor >= 0, ReadRing.identity(of: processID) == found {
                            watched[index].descriptor = descriptor
                        } else if descriptor >= 0 {
                            close(descriptor)
                        }
                    }
                }
                let lives = Self.isRunning(watched[index].descriptor)
                server.identity.store(lives ? found : 0, ordering: .relaxed)
                if lives { living += 1 }
            }
            servers.store(living, ordering: .relaxed)
        }
    }

    private static func isRunning(_ descriptor: Int32) -> Bool {
        guard descriptor >= 0 else { return false }
        var question = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&question, 1, 0) == 0
    }

    private func isRunning(_ index: Int) -> Bool { watch.withLock { Self.isRunning($0[index].descriptor) } }

    /// A server that lives and does not rest; they take turns.
    private func pick() -> Int? {
        guard hasServers else { return nil }
        let first = servers.load(ordering: .relaxed) > 1 ? turn.wrappingAdd(1, ordering: .relaxed).newValue : 0
        for step in 0..<rings.count {
            let index = ((first & 0xffff) + step) % rings.count
            guard rings[index].identity.load(ordering: .relaxed) != 0 else { continue }
            let rest = rings[index].restingUntil.load(ordering: .relaxed)
            if rest == 0 || monotonicNanoseconds() >= rest { return index }
        }
        return nil
    }

    /// A request on its way: to be waited for or withdrawn, once.
    struct Posted: Sendable {
        fileprivate let server: Int
        fileprivate let ticket: ReadRing.Ticket
    }

    /// Posts a request to one of the servers.
    ///
    /// - Returns: nil when nobody serves, all slots are taken, or the request does not fit.
    private func post(_ write: (UnsafeMutableRawBufferPointer) -> Int?) -> Posted? {
        guard let index = pick() else { return nil }
        guard let ticket = rings[index].ring.post(write) else {
            counts.busy.wrappingAdd(1, ordering: .relaxed)
            return nil
        }
        return Posted(server: index, ticket: ticket)
    }

    /// Waits for an answer, and pays for the round trip, which began when the request was posted: several that are on their
    /// way at once cost as much as one.
    ///
    /// - Parameter read: see `ReadRing.wait`.
    /// - Returns: whether it came and was accepted.
    func wait(for posted: Posted, _ read: (UnsafeRawBufferPointer) -> Bool) -> Bool {
        let server = rings[posted.server]
        let outcome = server.ring.wait(
            for: posted.ticket, timeoutNanoseconds: Self.timeoutNanoseconds, isServed: { isRunning(posted.server) }, read: read)
        region.fabric?.roundTrips(1, since: posted.ticket.postedAt)
        switch outcome {
        case .answered: return true
        case .timedOut:
            counts.timeouts.wrappingAdd(1, ordering: .relaxed)
            if isRunning(posted.server) { rest(server) } else { lookForServers() }
        case .damaged:
            counts.damaged.wrappingAdd(1, ordering: .relaxed)
            rest(server)
        }
        return false
    }

    /// Gives a request up whose answer nobody wants any more.
    func withdraw(_ posted: Posted) { rings[posted.server].ring.withdraw(posted.ticket) }

    private func rest(_ server: Server) {
        server.restingUntil.store(monotonicNanoseconds() + Self.restNanoseconds, ordering: .relaxed)
    }

    /// Asks servers again that have failed a moment ago.
    func endRests() { for server in rings { server.restingUntil.store(0, ordering: .relaxed) } }

    // MARK: Lookups

    /// A key to look up, and in how many of the memtables.
    struct Question {
        var key: UnsafeRawBufferPointer
        var memtables: Int
    }

    /// Posts one request for keys in memtables.
    ///
    /// - Parameter memtables: delegable ones, newest first, at most `ReadMessage.maximumMemtables`.
    /// - Returns: nil: read directly.
    func postLookup(_ questions: [Question], _ memtables: ArraySlice<Memtable>, _ sequence: SequenceNumber) -> Posted? {
        counts.keys.wrappingAdd(UInt64(questions.count), ordering: .relaxed)
        return post { room in
            var writer = MessageWriter(room)
            let heads = ReadMessage.headBytes + memtables.count * ReadMessage.memtableBytes
            let bytes = questions.reduce(heads) { $0 + ReadMessage.keyHeadBytes + $1.key.count }
            guard bytes <= room.count else { return nil }
            writer.lookup(questions, memtables, sequence, life: life)
            return writer.position
        }
    }

    /// Waits for the answer to a request for keys.
    ///
    /// - Parameters:
    ///   - questions, sequence: as posted.
    ///   - answer: told of each key in order what the server says; false refuses it. The value is in the ring: it is
    ///     there only during the call. Not called at all, or for some keys only, when false is returned.
    /// - Returns: whether all answers came.
    func wait(
        for posted: Posted, _ questions: [Question], _ sequence: SequenceNumber, answer: (Int, ReadAnswer) -> Bool
    ) -> Bool {
        let isAnswered = wait(for: posted) { bytes in
            var reader = MessageReader(bytes)
            for index in questions.indices {
                guard let found = reader.answer(memtables: questions[index].memtables), found.sequence <= sequence,
                    answer(index, found)
                else { return false }
            }
            return true
        }
        if isAnswered { counts.answered.wrappingAdd(UInt64(questions.count), ordering: .relaxed) }
        return isAnswered
    }

    /// Counts a key about which the server could not say anything.
    func countUnknown() { counts.unknown.wrappingAdd(1, ordering: .relaxed) }

    /// Posts a request for the entries of a memtable at and after an internal key. The answer is as `ReadMessage` says.
    ///
    /// - Parameter count: of entries wanted at most; fewer come when they do not fit.
    /// - Returns: nil: read directly.
    func postRange(
        _ memtable: Memtable, from key: UnsafeRawBufferPointer, _ trailer: Trailer, atMost count: UInt16
    ) -> Posted? {
        post { room in
            var writer = MessageWriter(room)
            guard ReadMessage.headBytes + ReadMessage.memtableBytes + key.count <= room.count else { return nil }
            writer.range(memtable, from: key, trailer, atMost: count, life: life)
            return writer.position
        }
    }

    /// Counts a batch of entries that came.
    func countRange() { counts.ranges.wrappingAdd(1, ordering: .relaxed) }

    /// How a new cursor is to read the sealed memtables.
    ///
    /// - Parameter readClass: of the memtables it goes through, nil for none.
    /// - Returns: nil: as without delegation.
    func scan(_ readClass: ReadClass?) -> DelegatedScan? {
        guard let readClass else { return nil }
        let choice = choices[.scan, readClass]
        let way = choice.way(isServed: isServed)
        return way.isDelegated || way.isTimed ? DelegatedScan(self, choice, way) : nil
    }

    // MARK: Counting

    var statistics: Statistics.Delegation {
        var sum = Statistics.Delegation()
        sum.mode = mode.rawValue
        sum.servers = hasServers ? servers.load(ordering: .relaxed) : 0
        sum.keys = counts.keys.load(ordering: .relaxed)
        sum.answered = counts.answered.load(ordering: .relaxed)
        sum.ranges = counts.ranges.load(ordering: .relaxed)
        sum.timeouts = counts.timeouts.load(ordering: .relaxed)
        sum.damaged = counts.damaged.load(ordering: .relaxed)
        sum.busy = counts.busy.load(ordering: .relaxed)
        sum.unknown = counts.unknown.load(ordering: .relaxed)
        sum.classes = choices.statistics
        for row in sum.classes {
            sum.directReads += row.direct
            sum.cachedReads += row.cached
            sum.delegatedReads += row.delegated
            sum.trials += row.trials
        }
        func busiest(_ kind: DelegationChoices.Kind) -> Statistics.DelegationClass {
            let rows = sum.classes.filter { $0.kind == "\(kind)" }
            return rows.max { $0.direct + $0.delegated < $1.direct + $1.delegated } ?? Statistics.DelegationClass()
        }
        let (point, batch, scan) = (busiest(.point), busiest(.batch), busiest(.scan))
        (sum.directNanoseconds, sum.delegatedNanoseconds) = (point.directNanoseconds, point.delegatedNanoseconds)
        (sum.batchDirectNanoseconds, sum.batchDelegatedNanoseconds) = (batch.directNanoseconds, batch.delegatedNanoseconds)
        (sum.scanDirectNanoseconds, sum.scanDelegatedNanoseconds) = (scan.directNanoseconds, scan.delegatedNanoseconds)
        return sum
    }
}

extension Memtable {
    /// Whether others can read it: it is in DM, and nothing in it changes any more.
    @inline(__always)
    var isDelegable: Bool { isInDM && immutableSince != Memtable.isMutable }
}
