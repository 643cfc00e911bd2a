import Glibc
import Synchronization

/// Background work as descriptors in DM: *empty → posted → claimed → done | failed → empty*.
///
/// The control plane posts and collects; any attached process claims and executes. A descriptor holds all
/// that a stateless executor needs, and each attempt carries a generation, so that the answer of an
/// executor whose lease has run out is refused. Thread-safe between processes; states are atomic words.
struct JobTable: @unchecked Sendable {
    // @unchecked: see above.
    typealias Job = RegionLayout.Job

    /// A job as its executor sees it.
    struct Claim: Sendable {
        var slot: Int
        var kind: JobKind
        var jobID: UInt64
        var generation: UInt64
        var descriptor: [UInt8]
    }

    /// What became of a job.
    enum Outcome: Sendable {
        case pending
        case done([UInt8])
        case failed(String)
    }

    private let region: Region

    init(_ region: Region) { self.region = region }

    private var posted: Doorbell { region.doorbell(RegionLayout.Doorbells.jobPosted) }
    private var finished: Doorbell { region.doorbell(RegionLayout.Doorbells.jobFinished) }

    /// Forgets every job: after a crash the control plane posts what is still to be done.
    func reset() {
        for slot in 0..<Job.count { state(slot).pointee.store(JobState.empty.rawValue, ordering: .releasing) }
    }

    /// Whether a descriptor fits; one that does not is executed without the table.
    static func fits(_ descriptor: [UInt8]) -> Bool { descriptor.count <= Job.maximumDescriptorBytes }

    /// Control plane: offers a job. nil when the table is full or the descriptor too long.
    ///
    /// - Parameter isLocal: only the owner of the store can execute it.
    func post(_ kind: JobKind, jobID: UInt64, generation: UInt64, descriptor: [UInt8], isLocal: Bool = false) -> Int? {
        guard JobTable.fits(descriptor) else { return nil }
        for slot in 0..<Job.count
        where state(slot).pointee.load(ordering: .acquiring) == JobState.empty.rawValue {
            let row = address(slot)
            row.storeBytes(of: kind.rawValue, toByteOffset: Job.kind, as: UInt32.self)
            row.storeBytes(of: isLocal ? 1 : 0, toByteOffset: Job.isLocal, as: UInt32.self)
            row.storeBytes(of: generation, toByteOffset: Job.generation, as: UInt64.self)
            row.storeBytes(of: jobID, toByteOffset: Job.jobID, as: UInt64.self)
            row.storeBytes(of: 0, toByteOffset: Job.resultBytes, as: UInt32.self)
            row.storeBytes(of: UInt32(descriptor.count), toByteOffset: Job.descriptorBytes, as: UInt32.self)
            descriptor.withUnsafeBytes { source in
                if let base = source.baseAddress { memcpy(row + Job.descriptor, base, source.count) }
                row.storeBytes(of: CRC32C.checksum(source), toByteOffset: Job.checksum, as: UInt32.self)
            }
            state(slot).pointee.store(JobState.posted.rawValue, ordering: .releasing)
            posted.ring()
            return slot
        }
        return nil
    }

    /// Executor: takes a posted job of one of the kinds; nil when there is none. A descriptor whose
    /// checksum does not hold is marked failed and passed over.
    ///
    /// - Parameter isOwner: whether this is the process that owns the store.
    func claim(_ kinds: [JobKind], node: Int, leaseNanoseconds: UInt64, isOwner: Bool = true) -> Claim? {
        for slot in 0..<Job.count
        where state(slot).pointee.load(ordering: .acquiring) == JobState.posted.rawValue {
            let row = address(slot)
            guard let kind = JobKind(rawValue: row.load(fromByteOffset: Job.kind, as: UInt32.self)), kinds.contains(kind),
                isOwner || row.load(fromByteOffset: Job.isLocal, as: UInt32.self) == 0,
                state(slot).pointee.compareExchange(
                    expected: JobState.posted.rawValue, desired: JobState.claimed.rawValue, ordering: .acquiring
                ).exchanged
            else { continue }
            row.storeBytes(of: UInt32(node), toByteOffset: Job.node, as: UInt32.self)
            row.storeBytes(
                of: monotonicNanoseconds() + leaseNanoseconds, toByteOffset: Job.leaseDeadline, as: UInt64.self)
            let generation = row.load(fromByteOffset: Job.generation, as: UInt64.self)
            let count = Int(row.load(fromByteOffset: Job.descriptorBytes, as: UInt32.self))
            guard count <= Job.maximumDescriptorBytes else {
                fail(slot, generation, "the job descriptor has an impossible length")
                continue
            }
            let descriptor = [UInt8](UnsafeRawBufferPointer(start: row + Job.descriptor, count: count))
            guard
                row.load(fromByteOffset: Job.checksum, as: UInt32.self)
                    == descriptor.withUnsafeBytes({ CRC32C.checksum($0) })
            else {
                fail(slot, generation, "the job descriptor's checksum does not hold")
                continue
            }
            return Claim(
                slot: slot, kind: kind, jobID: row.load(fromByteOffset: Job.jobID, as: UInt64.self),
                generation: generation, descriptor: descriptor)
        }
        return nil
    }

    /// Executor: hands over a result. A result that is too long for the table is a failure.
    func finish(_ slot: Int, _ generation: UInt64, result: [UInt8]) {
        guard result.count <= Job.maximumResultBytes else {
            return fail(slot, generation, "the job's result is too long")
        }
        conclude(slot, generation, .done, result)
    }

    /// Executor: gives up with one sentence.
    func fail(_ slot: Int, _ generation: UInt64, _ message: String) {
        conclude(slot, generation, .failed, Array(message.utf8.prefix(4096)))
    }

    private func conclude(_ slot: Int, _ generation: UInt64, _ newState: JobState, _ payload: [UInt8]) {
        let row = address(slot)
        guard row.load(fromByteOffset: Job.generation, as: UInt64.self) == generation else { return }
        payload.withUnsafeBytes { source in
            if let base = source.baseAddress { memcpy(row + Job.result, base, source.count) }
            row.storeBytes(of: CRC32C.checksum(source), toByteOffset: Job.resultChecksum, as: UInt32.self)
        }
        row.storeBytes(of: UInt32(payload.count), toByteOffset: Job.resultBytes, as: UInt32.self)
        _ = state(slot).pointee.compareExchange(
            expected: JobState.claimed.rawValue, desired: newState.rawValue, ordering: .releasing)
        finished.ring()
    }

    /// Control plane: what a posted job has come to.
    func outcome(_ slot: Int) -> Outcome {
        let row = address(slot)
        let current = JobState(rawValue: state(slot).pointee.load(ordering: .acquiring))
        guard current == .done || current == .failed else { return .pending }
        let count = Int(row.load(fromByteOffset: Job.resultBytes, as: UInt32.self))
        guard count <= Job.maximumResultBytes else { return .failed("the job's result has an impossible length") }
        let payload = [UInt8](UnsafeRawBufferPointer(start: row + Job.result, count: count))
        guard
            row.load(fromByteOffset: Job.resultChecksum, as: UInt32.self)
                == payload.withUnsafeBytes({ CRC32C.checksum($0) })
        else { return .failed("the checksum of the job's result does not hold") }
        return current == .done ? .done(payload) : .failed(String(decoding: payload, as: UTF8.self))
    }

    /// Control plane: gives the slot back.
    func release(_ slot: Int) { state(slot).pointee.store(JobState.empty.rawValue, ordering: .releasing) }

    /// Tickets and waits for both sides.
    var postedTicket: UInt32 { posted.ticket }
    func waitForPost(since ticket: UInt32, milliseconds: Int) { posted.wait(since: ticket, milliseconds: milliseconds) }
    func ringPosted() { posted.ring() }
    var finishedTicket: UInt32 { finished.ticket }
    func waitForFinish(since ticket: UInt32, milliseconds: Int) {
        finished.wait(since: ticket, milliseconds: milliseconds)
    }
    func ringFinished() { finished.ring() }

    private func address(_ slot: Int) -> UnsafeMutableRawPointer { region.base + Job.offset + slot * Job.bytes }
    private func state(_ slot: Int) -> UnsafeMutablePointer<Atomic<UInt32>> { sharedWord32(address(slot) + Job.state) }
}
