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
            .lastWords("the disk is full"),
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

    /// However long each takes to die.
    @Test func deathsInVainAreCounted() {
        let minute: UInt64 = 60_000_000_000
        var limit = RestartLimit(maximum: 2)
        var answers: [Bool] = []
        for (number, wasReady) in [false, false, true, false, false, false].enumerated() {
            answers.append(limit.forgives(deathAt: UInt64(number) * minute, wasReady: wasReady))
        }
        #expect(answers == [true, true, true, true, true, false])
        #expect(limit.reason == "3 daemons in a row died before they served it")
        var quick = RestartLimit(maximum: 1)
        let first = quick.forgives(deathAt: 1)
        #expect(first && quick.pauseMicroseconds == 0)
        let second = quick.forgives(deathAt: 2)
        #expect(!second && quick.reason == "its daemon died 2 times in 30 seconds")
        var patient = RestartLimit(maximum: .max)
        var areForgiven = true
        for number in 0..<100 where !patient.forgives(deathAt: UInt64(number) * minute, wasReady: false) { areForgiven = false }
        #expect(areForgiven && patient.pauseMicroseconds == 2_000_000)
    }

    @Test func aStartThatDoesNothingIsToldFromALongOne() throws {
        let second: UInt64 = 1_000_000_000
        var watch = StartWatch(getpid(), patienceSeconds: 10, now: 0)
        let now = StartWatch.work(of: getpid())
        #expect(now.ticks > 0 && now.bytes > 0)
        func after(_ ticks: UInt64, _ bytes: UInt64 = 0) -> StartWatch.Work {
            var work = now
            (work.ticks, work.bytes) = (now.ticks + ticks, now.bytes + bytes)
            return work
        }
        let looks: [(time: UInt64, work: StartWatch.Work, isStuck: Bool)] = [
            (9, now, false),
            // Busy: 1 s of the processor in 10 s; 2 MiB.
            (10, after(100), false), (20, after(100, 2 << 20), false),
            // Then neither, and a tick now and then is no work.
            (29, after(105, 2 << 20), false), (30, after(105, 2 << 20), true),
            // What cannot be looked at is not stuck.
            (40, StartWatch.Work(), false), (50, StartWatch.Work(), false),
        ]
        for look in looks {
            let isStuck = watch.isStuck(now: look.time * second, look.work)
            #expect(isStuck == look.isStuck, "after \(look.time) s")
        }
        #expect(StartWatch.work(of: -1) == StartWatch.Work())
        var child = pid_t()
        var arguments = [strdup("sleep"), strdup("1000"), nil]
        defer { for argument in arguments { free(argument) } }
        let code = posix_spawnp(&child, "sleep", nil, nil, &arguments, Glibc.environ)
        try #require(code == 0)
        #expect(!StartWatch.hasEnded(child))
        kill(child, SIGKILL)
        for _ in 0..<500 where !StartWatch.hasEnded(child) { usleep(10_000) }
        #expect(StartWatch.hasEnded(child))
        #expect(waitpid(child, nil, 0) == child && StartWatch.hasEnded(child))
    }

    @Test func aMessageToNobodyIsNotWaitedFor() throws {
        var ends: [Int32] = [-1, -1]
        #expect(o3_socket_pair(&ends) == 0)
        let link = SupervisorLink(descriptor: ends[0])
        #expect(!link.hasMessage(within: 1))
        close(ends[1])
        #expect(link.hasMessage(within: 1000))
        #expect(!link.sendPatiently(.begin(.init())))
        #expect(link.receive() == nil)
    }

    @Test func whyAMountWasGivenUpIsKept() throws {
        let directory = try TemporaryDirectory("given-up")
        let note = GivenUpNote(store: directory.path)
        #expect(note.read() == nil)
        note.write("first")
        note.write("the second\none")
        #expect(note.read() == "the second one")
        note.clear()
        #expect(note.read() == nil)
        // A link in its place is neither read nor written through.
        let other = directory.path + "/other"
        #expect(symlink(other, directory.path + "/given-up") == 0)
        note.write("third")
        #expect(access(other, F_OK) != 0 && note.read() == "third")
    }

    @Test func theLogIsAFileOfItsOwn() throws {
        let directory = try TemporaryDirectory("log")
        func path(_ name: String) -> String { directory.path + "/" + name }
        let file = open(path("file"), O_CREAT | O_WRONLY, 0o600)
        close(file)
        #expect(symlink(path("nowhere"), path("dangling")) == 0 && symlink(path("file"), path("link")) == 0)
        #expect(link(path("file"), path("second")) == 0 && mkfifo(path("pipe"), 0o600) == 0)
        #expect(mkdir(path("directory"), 0o700) == 0)
        for name in ["dangling", "link", "second", "pipe", "directory"] {
            #expect(throws: CommandError.self, "\(name)") { try TroubleLog.redirect(to: path(name)) }
        }
        #expect(access(path("nowhere"), F_OK) != 0)
        let errors = dup(STDERR_FILENO)
        defer {
            dup2(errors, STDERR_FILENO)
            close(errors)
        }
        try TroubleLog.redirect(to: path("log"))
        #expect(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK == 0)
        var info = stat()
        #expect(stat(path("log"), &info) == 0 && info.st_mode & 0o777 == 0o600)
    }

    @Test func daemonsWriteNeitherRegistersNorMemory() {
        let found = Daemons.withEnvironment { list -> [String] in
            var (texts, next) = ([String](), list)
            while let text = next.pointee {
                texts.append(String(cString: text))
                next += 1
            }
            return texts
        }
        let settings = found.filter { $0.hasPrefix("SWIFT_BACKTRACE=") }
        let given = getenv("SWIFT_BACKTRACE").map { "SWIFT_BACKTRACE=" + String(cString: $0) }
        #expect(settings == [given ?? Daemons.backtraces])
        #expect(found.contains { $0.hasPrefix("PATH=") })
    }
}
