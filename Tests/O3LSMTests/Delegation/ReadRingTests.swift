import Glibc
import Synchronization
import Testing

@testable import O3LSM

/// The ring alone: requests meet their own answers, and nothing that is written to it harms its owner.
@Suite struct ReadRingTests {
    private func makeRegion() throws -> Region {
        try Region.createPrivate(size: RegionLayout.firstSlabOffset + RegionLayout.slabBytes)
    }

    /// Answers with the request reversed until told to stop.
    private func withServer(_ ring: ReadRing, _ body: () throws -> Void) throws {
        let stop = Flag()
        let thread = try BackgroundThread("test-server") {
            while !stop.isSet {
                let found = ring.serve { request, answer in
                    for (index, byte) in request.reversed().enumerated() { answer[index] = byte }
                    return request.count
                }
                if !found { ring.sleep(milliseconds: 20) }
            }
        }
        defer {
            stop.set()
            ring.wakeServer()
            thread.join()
        }
        try body()
    }

    private final class Flag: Sendable {
        private let value = Atomic<Bool>(false)
        var isSet: Bool { value.load(ordering: .acquiring) }
        func set() { value.store(true, ordering: .releasing) }
    }

    private func ask(_ ring: ReadRing, _ request: [UInt8], timeout: UInt64 = 20_000_000_000) -> (ReadRing.Outcome?, [UInt8]) {
        var answer: [UInt8] = []
        let outcome = ring.ask(timeoutNanoseconds: timeout, isServed: { true }) { room in
            guard request.count <= room.count else { return nil }
            room.copyBytes(from: request)
            return request.count
        } read: {
            answer = [UInt8]($0)
            return true
        }
        return (outcome, answer)
    }

    @Test func requestsOfManyThreadsMeetTheirOwnAnswers() throws {
        let ring = ReadRing(try makeRegion(), index: 3)
        let wrong = Mutex<[String]>([])
        try withServer(ring) {
            let threads = try (0..<10).map { thread in
                try BackgroundThread("asker-\(thread)") {
                    var answered = 0
                    while answered < 300 {
                        let request = Array("thread \(thread), request \(answered)".utf8)
                        let (outcome, answer) = ask(ring, request)
                        switch outcome {
                        // More threads than slots.
                        case nil: sched_yield()
                        case .answered where answer == request.reversed(): answered += 1
                        default:
                            wrong.withLock { $0.append("\(String(describing: outcome)) \(String(decoding: answer, as: UTF8.self))") }
                            return
                        }
                    }
                }
            }
            for thread in threads { thread.join() }
        }
        #expect(wrong.withLock { $0 } == [])
    }

    @Test func aRequestThatDoesNotFitIsNotPosted() throws {
        let ring = ReadRing(try makeRegion(), index: 0)
        #expect(ask(ring, [UInt8](repeating: 1, count: ReadRing.maximumRequestBytes + 1)).0 == nil)
        #expect(!ring.serve { _, _ in 0 })
    }

    @Test func aRequestNobodyServesIsGivenUpAndItsSlotGoesOn() throws {
        let ring = ReadRing(try makeRegion(), index: 0)
        for _ in 0..<20 { #expect(ask(ring, [1, 2], timeout: 100_000).0 == .timedOut) }
        #expect(!ring.serve { _, _ in 0 })
        var looks = 0
        let outcome = ring.ask(timeoutNanoseconds: 60_000_000_000) {
            looks += 1
            return looks < 3
        } write: { _ in
            4
        } read: { _ in
            true
        }
        #expect(outcome == .timedOut && looks == 3)
        try withServer(ring) { #expect(ask(ring, [1, 2]) == (.answered, [2, 1])) }
    }

    @Test func aLateAnswerIsNotThatOfTheNextRequest() throws {
        let ring = ReadRing(try makeRegion(), index: 0)
        // The request is given up while it is being answered.
        let asker = try BackgroundThread("asker") { _ = ask(ring, [7], timeout: 200_000_000) }
        while !ring.serve({ _, answer in
            asker.join()
            answer[0] = 99
            return 1
        }) {}
        try withServer(ring) { #expect(ask(ring, [5]) == (.answered, [5])) }
    }

    private func post(_ ring: ReadRing, _ request: [UInt8]) -> ReadRing.Ticket? {
        ring.post {
            $0.copyBytes(from: request)
            return request.count
        }
    }

    private func wait(_ ring: ReadRing, _ ticket: ReadRing.Ticket, timeout: UInt64 = 20_000_000_000) -> (ReadRing.Outcome?, [UInt8]) {
        var answer: [UInt8] = []
        let outcome = ring.wait(for: ticket, timeoutNanoseconds: timeout, isServed: { true }) {
            answer = [UInt8]($0)
            return true
        }
        return (outcome, answer)
    }

    /// Requests on their way at once, waited for in any order or withdrawn, by several threads: each gets its own answer.
    @Test func manyOnTheirWayMeetTheirOwnAnswers() throws {
        let ring = ReadRing(try makeRegion(), index: 2)
        let seed = UInt64.random(in: 0 ... .max)
        let wrong = Mutex<[String]>([])
        try withServer(ring) {
            let threads = try (0..<3).map { thread in
                try BackgroundThread("asker-\(thread)") {
                    var random = SeededRandom(seed &+ UInt64(thread))
                    for round in 0..<400 {
                        var tickets: [(ReadRing.Ticket, [UInt8])] = []
                        for number in 0..<1 + random.below(4) {
                            let request = Array("thread \(thread), round \(round), number \(number)".utf8)
                            if let ticket = post(ring, request) { tickets.append((ticket, request)) }
                        }
                        while !tickets.isEmpty {
                            let (ticket, request) = tickets.remove(at: random.below(tickets.count))
                            if random.below(4) == 0 {
                                ring.withdraw(ticket)
                                continue
                            }
                            let found = wait(ring, ticket)
                            if found != (.answered, request.reversed()) {
                                wrong.withLock { $0.append("\(String(describing: found.0)) \(String(decoding: found.1, as: UTF8.self))") }
                            }
                        }
                    }
                }
            }
            for thread in threads { thread.join() }
        }
        #expect(wrong.withLock { $0 } == [], "seed \(seed)")
        // No slot is lost.
        let tickets = (0..<RegionLayout.Ring.slotCount).compactMap { post(ring, [UInt8($0)]) }
        #expect(tickets.count == RegionLayout.Ring.slotCount && post(ring, [1]) == nil)
        for ticket in tickets { ring.withdraw(ticket) }
        #expect(!ring.serve { _, _ in 0 })
    }

    /// The slot of a request that is withdrawn while the server is at it may be posted to at once: the server's answer is of a
    /// number that is no more, and the next request is answered for itself.
    @Test func aWithdrawnRequestsAnswerIsNotThatOfTheNext() throws {
        let ring = ReadRing(try makeRegion(), index: 0)
        let first = try #require(post(ring, [7]))
        var next: ReadRing.Ticket?
        var served: [[UInt8]] = []
        // The next request is in the same slot, behind the server's back.
        _ = ring.serve { request, answer in
            served.append(Array(request))
            guard served.count == 1 else { return nil }
            ring.withdraw(first)
            next = post(ring, [5, 6])
            answer[0] = 99
            return 1
        }
        #expect(served == [[7]])
        let second = try #require(next)
        try withServer(ring) { #expect(wait(ring, second) == (.answered, [6, 5])) }
    }

    /// Time runs from the posting: a dead server's requests are given up together.
    @Test func timeRunsFromThePosting() throws {
        let ring = ReadRing(try makeRegion(), index: 0)
        let tickets = (0..<4).compactMap { post(ring, [UInt8($0)]) }
        #expect(tickets.count == 4)
        usleep(60_000)
        let began = monotonicNanoseconds()
        for ticket in tickets { #expect(wait(ring, ticket, timeout: 50_000_000).0 == .timedOut) }
        // Each for itself would have taken 200 ms.
        #expect(monotonicNanoseconds() - began < 150_000_000)
        try withServer(ring) { #expect(ask(ring, [1, 2]) == (.answered, [2, 1])) }
    }

    @Test func aRefusedRequestComesBackAtOnce() throws {
        let ring = ReadRing(try makeRegion(), index: 0)
        let asker = try BackgroundThread("asker") {
            let began = monotonicNanoseconds()
            #expect(ask(ring, [7]).0 == .damaged)
            #expect(monotonicNanoseconds() - began < 10_000_000_000)
        }
        while !ring.serve({ _, _ in nil }) { sched_yield() }
        asker.join()
    }

    @Test func whateverStandsInARingIsRefused() throws {
        let region = try makeRegion()
        let ring = ReadRing(region, index: 0)
        let seed = UInt64.random(in: 0 ... .max)
        var random = SeededRandom(seed)
        let base = region.base + RegionLayout.Ring.offset
        for round in 0..<200 {
            // Each round: noise all over the ring, then a request while noise goes on in answers and lengths.
            for offset in stride(from: 0, to: RegionLayout.Ring.bytes, by: 8) {
                base.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
            }
            var served = 0
            _ = ring.serve { request, _ in
                served += 1
                return request.count
            }
            #expect(served == 0, "seed \(seed), round \(round)")
            for slot in 0..<RegionLayout.Ring.slotCount {
                let word = base + RegionLayout.Ring.slots + slot * RegionLayout.Ring.slotBytes
                word.storeBytes(of: UInt64(random.below(1 << 20)) << 8, as: UInt64.self)
            }
            let stop = Flag()
            let vandal = try BackgroundThread("vandal") {
                let slot = region.base + RegionLayout.Ring.offset + RegionLayout.Ring.slots
                while !stop.isSet {
                    let word = sharedWord64(slot)
                    let found = word.pointee.load(ordering: .acquiring)
                    if found & 0xff == 1 { word.pointee.store(found + 1, ordering: .releasing) }
                }
            }
            let (outcome, _) = ask(ring, [1, 2, 3])
            stop.set()
            vandal.join()
            #expect(outcome == .damaged, "seed \(seed), round \(round)")
        }
    }

    @Test func aRingIsTakenOnceAndFromTheDead() throws {
        let region = try makeRegion()
        let ring = ReadRing(region, index: 1)
        #expect(ring.take())
        #expect(ring.server == ReadRing.identity(of: getpid()))
        #expect(!ReadRing(region, index: 1).take())
        // The same id, another start.
        sharedWord64(region.base + RegionLayout.Ring.offset + RegionLayout.Ring.bytes).pointee
            .store(ring.server ^ 1 << 40, ordering: .relaxed)
        #expect(ring.take())
        ring.leave()
        #expect(ring.server == 0)
    }

    @Test func ringsLieBetweenJobsAndSlabs() {
        typealias Ring = RegionLayout.Ring
        #expect(Ring.offset >= RegionLayout.Job.offset + RegionLayout.Job.count * RegionLayout.Job.bytes)
        #expect(Ring.offset + Ring.count * Ring.bytes <= RegionLayout.firstSlabOffset)
        #expect(Ring.slots + Ring.slotCount * Ring.slotBytes <= Ring.bytes)
        #expect(Ring.Slot.request + Ring.Slot.maximumRequestBytes <= Ring.Slot.answer)
        #expect(Ring.Slot.answer + Ring.Slot.maximumAnswerBytes <= Ring.slotBytes)
    }
}

extension ReadRing {
    /// Posts a request and waits for its answer, see `post` and `wait`; nil when it cannot be posted.
    fileprivate func ask(
        timeoutNanoseconds: UInt64, isServed: () -> Bool, write: (UnsafeMutableRawBufferPointer) -> Int?,
        read: (UnsafeRawBufferPointer) -> Bool
    ) -> Outcome? {
        guard let ticket = post(write) else { return nil }
        return wait(for: ticket, timeoutNanoseconds: timeoutNanoseconds, isServed: isServed, read: read)
    }
}
