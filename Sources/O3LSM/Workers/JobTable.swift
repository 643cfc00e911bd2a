import Glibc
import Synchronization

/// Background work as descriptors in DM: *empty → posted → claimed → done | failed → empty*.
///
/// The control plane posts and collects; any attached process claims and executes. A descriptor holds all
/// that a stateless executor needs. State, executor and generation of a slot are one atomic word, and a
/// generation is never given twice in the life of a region: an executor that has lost its claim finds
/// another word, and its answer is refused. Thread-safe between processes.
struct JobTable: @unchecked Sendable {
    // @unchecked: see above.
    typealias Job = RegionLayout.Job

    /// A posted job, for the one who posted it.
    struct Ticket: Equatable, Sendable {
        var slot: Int
        var generation: UInt64
    }

    /// A job as its executor sees it.
    struct Claim: Sendable {
        var ticket: Ticket
        var node: Int
        var kind: JobKind
        var descriptor: [UInt8]

        /// Names this attempt at the job, and never another one.
        var attempt: UInt64 { ticket.generation }
    }

    /// What became of a job.
    enum Outcome: Sendable {
        /// Nobody has claimed it.
        case posted
        /// The node is at it.
        case claimed(node: Int)
        case done([UInt8], node: Int)
        case failed(String, node: Int)
        /// The slot does not hold the job or its answer any more, so that it is to be done again: somebody who was held
        /// up in the middle of an older answer has written over it.
        case lost
    }

    private let region: Region

    init(_ region: Region) { self.region = region }

    private var postedBell: Doorbell { region.doorbell(RegionLayout.Doorbells.jobPosted) }
    private var finishedBell: Doorbell { region.doorbell(RegionLayout.Doorbells.jobFinished) }

    /// Forgets every job: after a crash the control plane posts what is still to be done. Whoever executes one
    /// finds that it has lost its claim.
    func reset() {
        for slot in 0..<Job.count { word(slot).pointee.store(0, ordering: .releasing) }
    }

    /// Whether a descriptor fits; one that does not is executed without the table.
    static func fits(_ descriptor: [UInt8]) -> Bool { descriptor.count <= Job.maximumDescriptorBytes }

    // MARK: The control plane

    /// Offers a job. nil when the table is full or the descriptor too long.
    ///
    /// - Parameter isLocal: only the owner of the store can execute it.
    func post(_ kind: JobKind, descriptor: [UInt8], isLocal: Bool = false) -> Ticket? {
        guard JobTable.fits(descriptor) else { return nil }
        for slot in 0..<Job.count where load(slot).state == .empty {
            let generation = nextGeneration()
            let row = address(slot)
            row.storeBytes(of: isLocal ? 1 : 0, toByteOffset: Job.isLocal, as: UInt32.self)
            row.storeBytes(of: kind.rawValue, toByteOffset: Job.kind, as: UInt32.self)
            row.storeBytes(of: monotonicNanoseconds(), toByteOffset: Job.postedAt, as: UInt64.self)
            row.storeBytes(of: 0, toByteOffset: Job.resultBytes, as: UInt32.self)
            row.storeBytes(of: UInt32(descriptor.count), toByteOffset: Job.descriptorBytes, as: UInt32.self)
            descriptor.withUnsafeBytes { source in
                if let base = source.baseAddress { memcpy(row + Job.descriptor, base, source.count) }
                row.storeBytes(
                    of: JobTable.checksum(source, generation), toByteOffset: Job.checksum, as: UInt32.self)
            }
            word(slot).pointee.store(
                JobWord(generation: generation, node: 0, state: .posted).bits, ordering: .releasing)
            FaultPoint.jobPosted.hit()
            postedBell.ring()
            return Ticket(slot: slot, generation: generation)
        }
        return nil
    }

    /// What a posted job has come to.
    func outcome(_ ticket: Ticket) -> Outcome {
        let current = load(ticket.slot)
        guard current.generation == ticket.generation else { return .lost }
        switch current.state {
        case .posted: return .posted
        case .empty: return .lost
        case .claimed: return .claimed(node: current.node)
        case .done, .failed: FaultPoint.beforeCollect.hit()
        }
        let row = address(ticket.slot)
        let count = Int(row.load(fromByteOffset: Job.resultBytes, as: UInt32.self))
        guard count <= Job.maximumResultBytes else { return .lost }
        let payload = [UInt8](UnsafeRawBufferPointer(start: row + Job.result, count: count))
        let stored = row.load(fromByteOffset: Job.resultChecksum, as: UInt32.self)
        guard stored == payload.withUnsafeBytes({ JobTable.checksum($0, ticket.generation) }) else { return .lost }
        return current.state == .done
            ? .done(payload, node: current.node)
            : .failed(String(decoding: payload, as: UTF8.self), node: current.node)
    }

    /// Gives the slot back, whatever has become of the job: nobody can finish it any more.
    func release(_ ticket: Ticket) {
        var current = load(ticket.slot)
        while current.generation == ticket.generation {
            let (exchanged, original) = word(ticket.slot).pointee.compareExchange(
                expected: current.bits, desired: 0, ordering: .acquiringAndReleasing)
            if exchanged { return }
            current = JobWord(bits: original)
        }
    }

    /// Slots that hold a job, in whatever state.
    var occupiedSlots: Int { (0..<Job.count).count { load($0).state != .empty } }

    /// Whether a node has claimed a job that it has not answered for.
    func hasClaim(of node: Int) -> Bool {
        (0..<Job.count).contains { slot in
            let current = load(slot)
            return current.state == .claimed && current.node == node
        }
    }

    // MARK: Executors

    /// Takes the oldest posted job of the kinds; nil when there is none. A descriptor whose checksum does not hold
    /// is marked failed and passed over.
    ///
    /// - Parameters:
    ///   - isOwner: whether this is the process that owns the store.
    ///   - leastAgeNanoseconds: younger jobs are left to others, unless only the owner can execute them.
    func claim(_ kinds: [JobKind], node: Int, isOwner: Bool, leastAgeNanoseconds: (JobKind) -> UInt64 = { _ in 0 })
        -> Claim?
    {
        for slot in postedSlots {
            let current = load(slot)
            let row = address(slot)
            guard current.state == .posted,
                let kind = JobKind(rawValue: row.load(fromByteOffset: Job.kind, as: UInt32.self)), kinds.contains(kind)
            else { continue }
            let isLocal = row.load(fromByteOffset: Job.isLocal, as: UInt32.self) != 0
            guard isOwner || !isLocal else { continue }
            let age = monotonicNanoseconds() &- row.load(fromByteOffset: Job.postedAt, as: UInt64.self)
            guard isLocal || age >= leastAgeNanoseconds(kind) else { continue }
            let claimed = JobWord(generation: current.generation, node: node, state: .claimed)
            guard
                word(slot).pointee.compareExchange(
                    expected: current.bits, desired: claimed.bits, ordering: .acquiringAndReleasing
                ).exchanged
            else { continue }
            let ticket = Ticket(slot: slot, generation: current.generation)
            let count = Int(row.load(fromByteOffset: Job.descriptorBytes, as: UInt32.self))
            let descriptor = [UInt8](
                UnsafeRawBufferPointer(start: row + Job.descriptor, count: min(count, Job.maximumDescriptorBytes)))
            let claim = Claim(ticket: ticket, node: node, kind: kind, descriptor: descriptor)
            guard count <= Job.maximumDescriptorBytes,
                row.load(fromByteOffset: Job.checksum, as: UInt32.self)
                    == descriptor.withUnsafeBytes({ JobTable.checksum($0, ticket.generation) })
            else {
                fail(claim, JobFailure.message(5, "the job descriptor's checksum does not hold"))
                continue
            }
            FaultPoint.jobClaimed.hit()
            return claim
        }
        return nil
    }

    /// Oldest first: taken in the order of the table, a job far down would wait for as long as new ones come.
    private var postedSlots: [Int] {
        (0..<Job.count).map { (slot: $0, word: load($0)) }.filter { $0.word.state == .posted }
            .sorted { $0.word.generation < $1.word.generation }.map(\.slot)
    }

    /// Whether the job is still the executor's. Once false it stays false.
    func isHeld(_ claim: Claim) -> Bool { load(claim.ticket.slot).bits == JobTable.held(claim).bits }

    /// Hands over a result.
    ///
    /// - Returns: false when the claim was lost: nobody will use what was made.
    @discardableResult
    func finish(_ claim: Claim, result: [UInt8]) -> Bool {
        guard result.count <= Job.maximumResultBytes else {
            fail(claim, JobFailure.message(7, "the job's result is too long"))
            return false
        }
        return conclude(claim, .done, result)
    }

    /// Gives up with an errno and one sentence, see `JobFailure`.
    func fail(_ claim: Claim, _ message: String) {
        _ = conclude(claim, .failed, Array(message.utf8.prefix(4096)))
    }

    /// An executor that was held up may write here what is not its slot any more; then the checksum, which
    /// includes the generation, does not hold for the one that is at it now, and that job is done again.
    private func conclude(_ claim: Claim, _ newState: JobState, _ payload: [UInt8]) -> Bool {
        guard isHeld(claim) else { return false }
        let row = address(claim.ticket.slot)
        payload.withUnsafeBytes { source in
            if let base = source.baseAddress { memcpy(row + Job.result, base, source.count) }
            row.storeBytes(
                of: JobTable.checksum(source, claim.ticket.generation), toByteOffset: Job.resultChecksum,
                as: UInt32.self)
        }
        row.storeBytes(of: UInt32(payload.count), toByteOffset: Job.resultBytes, as: UInt32.self)
        FaultPoint.resultWritten.hit()
        let concluded = JobWord(generation: claim.ticket.generation, node: claim.node, state: newState)
        let isTaken = word(claim.ticket.slot).pointee.compareExchange(
            expected: JobTable.held(claim).bits, desired: concluded.bits, ordering: .acquiringAndReleasing
        ).exchanged
        FaultPoint.jobDone.hit()
        finishedBell.ring()
        return isTaken
    }

    // MARK: Waiting

    /// Tickets and waits for both sides.
    var postedTicket: UInt32 { postedBell.ticket }
    func waitForPost(since ticket: UInt32, milliseconds: Int) {
        postedBell.wait(since: ticket, milliseconds: milliseconds)
    }
    func ringPosted() { postedBell.ring() }
    var finishedTicket: UInt32 { finishedBell.ticket }
    func waitForFinish(since ticket: UInt32, milliseconds: Int) {
        finishedBell.wait(since: ticket, milliseconds: milliseconds)
    }
    func ringFinished() { finishedBell.ring() }

    // MARK: Words

    private static func held(_ claim: Claim) -> JobWord {
        JobWord(generation: claim.ticket.generation, node: claim.node, state: .claimed)
    }
    static func checksum(_ bytes: UnsafeRawBufferPointer, _ generation: UInt64) -> UInt32 {
        withUnsafeBytes(of: generation) { CRC32C.checksum(bytes, seed: CRC32C.checksum($0)) }
    }
    private func nextGeneration() -> UInt64 {
        sharedWord64(region.base + RegionLayout.Header.generation).pointee
            .wrappingAdd(1, ordering: .relaxed).newValue & JobWord.maximumGeneration
    }
    func load(_ slot: Int) -> JobWord { JobWord(bits: word(slot).pointee.load(ordering: .acquiring)) }
    func address(_ slot: Int) -> UnsafeMutableRawPointer { region.base + Job.offset + slot * Job.bytes }
    private func word(_ slot: Int) -> UnsafeMutablePointer<Atomic<UInt64>> { sharedWord64(address(slot) + Job.word) }
}

/// A job slot's state, its executor's row in the node table, and the generation, in one word.
struct JobWord: Equatable {
    static let maximumGeneration: UInt64 = (1 << 48) - 1

    let bits: UInt64

    init(bits: UInt64) { self.bits = bits }
    init(generation: UInt64, node: Int, state: JobState) {
        bits = generation << 16 | UInt64(UInt8(truncatingIfNeeded: node)) << 8 | UInt64(state.rawValue)
    }

    var generation: UInt64 { bits >> 16 }
    var node: Int { Int(bits >> 8 & 0xff) }
    /// What no version of the layout knows counts as empty.
    var state: JobState { JobState(rawValue: UInt32(bits & 0xff)) ?? .empty }
}
