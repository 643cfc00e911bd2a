import CSystem
import Glibc
import Synchronization

/// A ring of delegated reads in DM: fixed slots through which the compute node asks one worker, several requests
/// at once. The layout is `RegionLayout.Ring`.
///
/// A slot belongs to the compute node but while its request is posted. A request has a number that its slot has
/// never had, and both request and answer are summed together with it: whatever is late, torn or damaged is refused.
/// The owner's side (`post`, `wait`, `withdraw`) is thread-safe; the server's side is for one thread. Either side may die
/// at any time.
final class ReadRing: @unchecked Sendable {
    // @unchecked: shared words are atomic; the rest of a slot belongs to one side at a time, as its word says.
    private typealias Layout = RegionLayout.Ring
    private typealias Slot = RegionLayout.Ring.Slot

    static let maximumRequestBytes = RegionLayout.Ring.Slot.maximumRequestBytes
    static let maximumAnswerBytes = RegionLayout.Ring.Slot.maximumAnswerBytes

    private enum State {
        static let empty: UInt64 = 0
        static let posted: UInt64 = 1
        static let answered: UInt64 = 2
        static let mask: UInt64 = 0xff
        static let shift: UInt64 = 8
    }

    private let region: Region
    private let base: UnsafeMutableRawPointer
    /// Slots that threads of this process use, a bit each. Owner only.
    private let busy = Atomic<UInt32>(0)

    /// - Parameter index: below `RegionLayout.Ring.count`.
    init(_ region: Region, index: Int) {
        precondition(index >= 0 && index < RegionLayout.Ring.count)
        self.region = region
        base = region.base + RegionLayout.Ring.offset + index * RegionLayout.Ring.bytes
    }

    // MARK: Who serves it

    /// A process by its id and the low half of its start time; 0 when there is no such process.
    static func identity(of processID: Int32) -> UInt64 {
        guard processID > 0, let start = processStartTime(processID) else { return 0 }
        return start << 32 | UInt64(UInt32(bitPattern: processID))
    }

    /// The identity of the process that serves the ring; 0 if nobody does. It may be dead.
    var server: UInt64 { sharedWord64(base + Layout.server).pointee.load(ordering: .acquiring) }

    /// Makes this process the server, unless a living one is.
    func take() -> Bool {
        let own = ReadRing.identity(of: getpid())
        let found = server
        guard own != 0, found == 0 || ReadRing.identity(of: Int32(truncatingIfNeeded: found & 0xffff_ffff)) != found
        else { return false }
        return sharedWord64(base + Layout.server).pointee
            .compareExchange(expected: found, desired: own, ordering: .acquiringAndReleasing).exchanged
    }

    /// Ends this process's service.
    func leave() { sharedWord64(base + Layout.server).pointee.store(0, ordering: .releasing) }

    // MARK: Asking (the owner)

    /// What became of a request.
    enum Outcome: Equatable {
        case answered
        /// No answer in time, or `isServed` said no.
        case timedOut
        /// The server refused the request; or the answer fails its checksum or its length, or `read` refused it.
        case damaged
    }

    /// How long a wait spins before it sleeps.
    static let spinNanoseconds: UInt64 = 20_000
    /// From when on it lets others have the processor in between.
    private static let politeNanoseconds: UInt64 = 8_000
    private static let sliceNanoseconds: UInt64 = 1_000_000

    /// A request that has been posted: to be waited for or withdrawn, once, by whichever thread.
    struct Ticket: Sendable {
        fileprivate let slot: Int
        fileprivate let number: UInt64
        /// `monotonicNanoseconds`.
        let postedAt: UInt64
    }

    /// Posts a request.
    ///
    /// - Parameter write: writes the request and returns its length, nil if it does not fit.
    /// - Returns: nil when all slots are taken or it does not fit.
    func post(_ write: (UnsafeMutableRawBufferPointer) -> Int?) -> Ticket? {
        guard let index = takeSlot() else { return nil }
        let slot = self.slot(index)
        guard let length = write(UnsafeMutableRawBufferPointer(start: slot + Slot.request, count: Slot.maximumRequestBytes)),
            length <= Slot.maximumRequestBytes
        else {
            releaseSlot(index)
            return nil
        }
        let word = sharedWord64(slot + Slot.word)
        let number = ((word.pointee.load(ordering: .acquiring) >> State.shift) &+ 1) & (.max >> State.shift)
        slot.storeBytes(of: UInt32(length), toByteOffset: Slot.requestBytes, as: UInt32.self)
        slot.storeBytes(
            of: Self.checksum(number, slot + Slot.request, length), toByteOffset: Slot.requestChecksum, as: UInt32.self)
        word.pointee.store(number << State.shift | State.posted, ordering: .sequentiallyConsistent)
        ringServer()
        return Ticket(slot: index, number: number, postedAt: monotonicNanoseconds())
    }

    /// Waits for the answer of a request. Its slot is free for others then.
    ///
    /// - Parameters:
    ///   - timeoutNanoseconds: after the posting, when to give up.
    ///   - isServed: asked about every millisecond of waiting; false gives up.
    ///   - read: reads the answer, whose bytes are checked only by their sum; false refuses it. Another process could
    ///     still write to them: every length must be read once and checked.
    func wait(
        for ticket: Ticket, timeoutNanoseconds: UInt64, isServed: () -> Bool, read: (UnsafeRawBufferPointer) -> Bool
    ) -> Outcome {
        defer { releaseSlot(ticket.slot) }
        let slot = self.slot(ticket.slot)
        let word = sharedWord64(slot + Slot.word)
        let posted = ticket.number << State.shift | State.posted
        let answered = ticket.number << State.shift | State.answered
        guard wait(slot, posted, since: ticket.postedAt, timeoutNanoseconds, isServed) else {
            // It may have come in the last moment.
            guard let found = giveUp(ticket) else { return .timedOut }
            return found == answered ? accept(slot, ticket.number, read) : .damaged
        }
        guard word.pointee.load(ordering: .acquiring) == answered else { return .damaged }
        return accept(slot, ticket.number, read)
    }

    /// Gives a request up whose answer nobody wants any more. An answer that is being written is for a number that the slot
    /// has no longer; the one of the slot's next request is written after it, by the same thread.
    func withdraw(_ ticket: Ticket) {
        _ = giveUp(ticket)
        releaseSlot(ticket.slot)
    }

    /// Takes a request back.
    ///
    /// - Returns: nil when it had not been answered, otherwise the word of its slot.
    private func giveUp(_ ticket: Ticket) -> UInt64? {
        let (isTaken, found) = sharedWord64(slot(ticket.slot) + Slot.word).pointee.compareExchange(
            expected: ticket.number << State.shift | State.posted, desired: ticket.number << State.shift | State.empty,
            ordering: .acquiringAndReleasing)
        return isTaken ? nil : found
    }

    private func accept(
        _ slot: UnsafeMutableRawPointer, _ number: UInt64, _ read: (UnsafeRawBufferPointer) -> Bool
    ) -> Outcome {
        let length = Int(slot.load(fromByteOffset: Slot.answerBytes, as: UInt32.self))
        guard length <= Slot.maximumAnswerBytes,
            slot.load(fromByteOffset: Slot.answerChecksum, as: UInt32.self)
                == Self.checksum(number, slot + Slot.answer, length),
            read(UnsafeRawBufferPointer(start: slot + Slot.answer, count: length))
        else { return .damaged }
        return .answered
    }

    /// Waits until the slot's word is no longer `posted`, until `timeout` after `postedAt` at most.
    private func wait(
        _ slot: UnsafeMutableRawPointer, _ posted: UInt64, since postedAt: UInt64, _ timeout: UInt64, _ isServed: () -> Bool
    ) -> Bool {
        let word = sharedWord64(slot + Slot.word)
        if word.pointee.load(ordering: .acquiring) != posted { return true }
        let start = monotonicNanoseconds()
        repeat {
            for _ in 0..<64 {
                if word.pointee.load(ordering: .acquiring) != posted { return true }
                o3_cpu_relax()
            }
            // The server may have only this processor.
            if monotonicNanoseconds() - start > Self.politeNanoseconds { sched_yield() }
        } while monotonicNanoseconds() - start < min(Self.spinNanoseconds, timeout)
        let flag = sharedWord32(slot + Slot.isAwaited)
        flag.pointee.store(1, ordering: .sequentiallyConsistent)
        defer { flag.pointee.store(0, ordering: .relaxed) }
        // The machine is little-endian wherever this runs: number and state are in the low half.
        let half = (slot + Slot.word).assumingMemoryBound(to: UInt32.self)
        while word.pointee.load(ordering: .sequentiallyConsistent) == posted {
            let passed = monotonicNanoseconds() &- postedAt
            guard passed < timeout, isServed() else { return false }
            var slice = timespec(tv_sec: 0, tv_nsec: Int(min(Self.sliceNanoseconds, timeout - passed)))
            _ = o3_futex_wait(half, UInt32(truncatingIfNeeded: posted), &slice)
        }
        return true
    }

    private func takeSlot() -> Int? {
        var taken = busy.load(ordering: .relaxed)
        while true {
            let free = (~taken).trailingZeroBitCount
            guard free < Layout.slotCount else { return nil }
            let (exchanged, found) = busy.compareExchange(
                expected: taken, desired: taken | 1 << UInt32(free), ordering: .acquiring)
            if exchanged { return free }
            taken = found
        }
    }

    private func releaseSlot(_ index: Int) { busy.bitwiseAnd(~(1 << UInt32(index)), ordering: .releasing) }

    private func ringServer() {
        guard sharedWord32(base + Layout.isAsleep).pointee.load(ordering: .sequentiallyConsistent) != 0 else { return }
        wakeServer()
    }

    // MARK: Serving (one thread of the worker)

    /// Answers what has been posted.
    ///
    /// - Parameter answer: reads a request, whose bytes are checked only by their sum, writes the answer, and returns
    ///   its length; nil leaves the request to its time-out.
    /// - Returns: whether there was anything.
    func serve(_ answer: (UnsafeRawBufferPointer, UnsafeMutableRawBufferPointer) -> Int?) -> Bool {
        var found = false
        for index in 0..<Layout.slotCount {
            let slot = self.slot(index)
            let word = sharedWord64(slot + Slot.word)
            let posted = word.pointee.load(ordering: .acquiring)
            guard posted & State.mask == State.posted else { continue }
            let number = posted >> State.shift
            let length = Int(slot.load(fromByteOffset: Slot.requestBytes, as: UInt32.self))
            guard length <= Slot.maximumRequestBytes,
                slot.load(fromByteOffset: Slot.requestChecksum, as: UInt32.self)
                    == Self.checksum(number, slot + Slot.request, length)
            else {
                // Nobody may wait for it in vain, nor may it keep the server from its sleep.
                finish(slot, posted, number << State.shift | State.empty)
                continue
            }
            found = true
            let room = UnsafeMutableRawBufferPointer(start: slot + Slot.answer, count: Slot.maximumAnswerBytes)
            guard let bytes = answer(UnsafeRawBufferPointer(start: slot + Slot.request, count: length), room),
                bytes <= Slot.maximumAnswerBytes
            else {
                // Back to its owner at once, unanswered.
                finish(slot, posted, number << State.shift | State.empty)
                continue
            }
            slot.storeBytes(of: UInt32(bytes), toByteOffset: Slot.answerBytes, as: UInt32.self)
            slot.storeBytes(
                of: Self.checksum(number, slot + Slot.answer, bytes), toByteOffset: Slot.answerChecksum, as: UInt32.self)
            finish(slot, posted, number << State.shift | State.answered)
        }
        return found
    }

    private func finish(_ slot: UnsafeMutableRawPointer, _ posted: UInt64, _ done: UInt64) {
        let word = sharedWord64(slot + Slot.word)
        guard word.pointee.compareExchange(expected: posted, desired: done, ordering: .sequentiallyConsistent).exchanged,
            sharedWord32(slot + Slot.isAwaited).pointee.load(ordering: .sequentiallyConsistent) != 0
        else { return }
        _ = o3_futex_wake((slot + Slot.word).assumingMemoryBound(to: UInt32.self), Int32.max)
    }

    /// Sleeps until something is posted, `wakeServer` is called, or `milliseconds` have passed.
    func sleep(milliseconds: Int) {
        let bell = Doorbell(base + Layout.bell)
        let ticket = bell.ticket
        let flag = sharedWord32(base + Layout.isAsleep)
        flag.pointee.store(1, ordering: .sequentiallyConsistent)
        defer { flag.pointee.store(0, ordering: .relaxed) }
        for index in 0..<Layout.slotCount {
            let word = sharedWord64(slot(index) + Slot.word).pointee.load(ordering: .sequentiallyConsistent)
            if word & State.mask == State.posted { return }
        }
        bell.wait(since: ticket, milliseconds: milliseconds)
    }

    func wakeServer() { Doorbell(base + Layout.bell).ring() }

    // MARK: Parts

    private func slot(_ index: Int) -> UnsafeMutableRawPointer { base + Layout.slots + index * Layout.slotBytes }

    private static func checksum(_ number: UInt64, _ bytes: UnsafeMutableRawPointer, _ count: Int) -> UInt32 {
        let seed = withUnsafeBytes(of: number) { CRC32C.checksum($0) }
        return CRC32C.checksum(UnsafeRawBufferPointer(start: bytes, count: count), seed: seed)
    }
}
