import CSystem
import FUSE
import Glibc
import Testing

@testable import o3fs

@Suite struct SupervisorTests {
    @Test func messagesComeAsTheyWent() throws {
        var ends: [Int32] = [-1, -1]
        #expect(o3_socket_pair(&ends) == 0)
        let (left, right) = (SupervisorLink(descriptor: ends[0]), SupervisorLink(descriptor: ends[1]))
        let kept = KeptMount(
            session: HeldSession(
                descriptors: (0..<65).map { _ in dup(0) }, mountPoint: "/mnt/ü", initialization: [1, 2, 3],
                agreement: [4]),
            storeLock: dup(0), lookupCounts: dup(0))
        let beginning = SupervisorMessage.Beginning(
            generation: 7, deaths: 3, endNanoseconds: 12, cause: "signal 9", kept: kept.encoded)
        let messages: [SupervisorMessage] = [
            .begin(beginning), .begin(.init()), .keep(kept.encoded), .ready, .upgrade("/usr/bin/o3fs"), .over,
        ]
        for message in messages {
            #expect(left.send(message, descriptors: kept.descriptors))
            let (found, descriptors) = try #require(right.receive())
            #expect(found == message)
            #expect(descriptors.count == 67)
            let again = try #require(KeptMount(kept.encoded, descriptors: descriptors))
            #expect(again.session.mountPoint == "/mnt/ü" && again.session.descriptors.count == 65)
            #expect(again.session.initialization == [1, 2, 3] && again.session.agreement == [4])
            for descriptor in descriptors { close(descriptor) }
        }
        for descriptor in kept.descriptors { close(descriptor) }
        #expect(right.isConnected)
    }

    @Test func whatIsNoMessageIsRefused() {
        let good = SupervisorMessage.begin(.init(generation: 1, cause: "signal 9", kept: [1, 2, 3])).encoded
        for length in 0..<good.count { #expect(SupervisorMessage(Array(good[..<length])) == nil) }
        var random = SystemRandomNumberGenerator()
        for _ in 0..<10_000 {
            var bytes = good
            bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            // Any answer will do, as long as there is one.
            _ = SupervisorMessage(bytes)
            _ = KeptMount(bytes, descriptors: [1, 2, 3, 4])
        }
        #expect(KeptMount([], descriptors: [1, 2, 3, 4]) == nil)
    }

    @Test func deathsAreForgivenUpToALimit() {
        let second: UInt64 = 1_000_000_000
        func answers(_ maximum: Int, _ seconds: [UInt64]) -> [Bool] {
            var limit = RestartLimit(maximum: maximum)
            return seconds.map { limit.forgives(deathAt: $0 * second) }
        }
        #expect(answers(2, [0, 10, 20, 45, 90]) == [true, true, false, true, true])
        #expect(answers(0, [1]) == [false])
    }
}
