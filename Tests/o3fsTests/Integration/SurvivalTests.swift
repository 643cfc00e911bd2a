import CSystem
import Foundation
import Glibc
import Synchronization
import Testing

@testable import o3fs

extension MountTests {
    /// The mount outlives its daemon: programs see a pause, never an error, and nothing is done twice.
    @Suite(.serialized, .enabled(if: Machine.canMount, needsFUSE))
    struct SurvivalTests {
        private static let rounds = Int(ProcessInfo.processInfo.environment["O3FS_SURVIVAL_ROUNDS"] ?? "") ?? 20

        private static func mount(_ options: [String] = []) throws -> TestMount {
            try TestMount(options: ["--survive", "--max-restarts", "1000000"] + options)
        }

        /// Kills the daemon `rounds` times, a moment after it has come back each time.
        private static func killRepeatedly(_ mount: TestMount, rounds: Int = rounds) throws {
            for round in 0..<rounds {
                usleep(UInt32.random(in: 20_000...250_000))
                let daemon = try mount.daemonProcess()
                kill(daemon, SIGKILL)
                // Whatever is asked next is answered by another one.
                var info = stat()
                #expect(lstat(mount("."), &info) == 0, "round \(round): \(String(cString: strerror(errno)))")
                try waitFor("another daemon") { (try? mount.daemonProcess()).map { $0 != daemon } ?? false }
            }
        }

        /// Runs `body` on threads until `work` is over; what went wrong.
        private static func meanwhile(
            _ threads: Int, _ body: @escaping @Sendable (_ thread: Int, _ step: Int) -> String?, _ work: () throws -> Void
        ) rethrows -> [String] {
            let isOver = Atomic<Bool>(false)
            let problems = Mutex<[String]>([])
            let group = DispatchGroup()
            for thread in 0..<threads {
                group.enter()
                Thread.detachNewThread {
                    var step = 0
                    while !isOver.load(ordering: .relaxed) {
                        if let problem = body(thread, step) { problems.withLock { $0.append(problem) } }
                        step += 1
                    }
                    group.leave()
                }
            }
            defer { group.wait() }
            defer { isOver.store(true, ordering: .relaxed) }
            try work()
            isOver.store(true, ordering: .relaxed)
            group.wait()
            return problems.withLock { $0 }
        }

        /// The error number of a call, 0 for none.
        private static func code(_ result: Int32) -> Int32 { result < 0 ? errno : 0 }

        /// One turn of operations that must not be done twice: each would fail, or succeed wrongly, the second time.
        private static func turn(in directory: String, _ step: Int) -> String? {
            let name = "\(directory)/\(step)"
            func make(_ path: String) -> Int32 {
                let file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0o644)
                if file >= 0 { close(file) }
                return file
            }
            let steps: [(what: String, wanted: Int32, call: () -> Int32)] = [
                ("mkdir", 0, { mkdir(name + ".d", 0o755) }),
                ("mkdir again", EEXIST, { mkdir(name + ".d", 0o755) }),
                ("create", 0, { make(name) }),
                ("create again", EEXIST, { make(name) }),
                ("symlink", 0, { symlink("target", name + ".s") }),
                ("mknod", 0, { mknod(name + ".p", S_IFIFO | 0o644, 0) }),
                ("link", 0, { link(name, name + ".l") }),
                ("setxattr", 0, { setxattr(name, "user.one", "1", 1, 1) }),
                ("removexattr", 0, { removexattr(name, "user.one") }),
                ("rename", 0, { rename(name, name + ".r") }),
                ("rename over", 0, { rename(name + ".r", name + ".s") }),
                ("rename what is gone", ENOENT, { rename(name, name + ".r") }),
                ("unlink a link", 0, { unlink(name + ".l") }),
                ("unlink again", ENOENT, { unlink(name + ".l") }),
                ("unlink", 0, { unlink(name + ".s") }),
                ("unlink a pipe", 0, { unlink(name + ".p") }),
                ("rmdir", 0, { rmdir(name + ".d") }),
                ("rmdir again", ENOENT, { rmdir(name + ".d") }),
            ]
            for next in steps {
                let found = code(next.call())
                if found != next.wanted { return "step \(step) in \(directory): \(next.what) gave \(found), not \(next.wanted)" }
            }
            return nil
        }

        /// The question waits in the socket of a daemon that stands still and is killed then.
        @Test func aCommandIsAnsweredByTheNextDaemon() throws {
            let mount = try Self.mount()
            let daemon = try mount.daemonProcess()
            kill(daemon, SIGSTOP)
            let result = try Shell.script(
                """
                '\(try #require(O3FSBinary.path))' status '\(mount.path)' --json & question=$!
                sleep 0.3
                kill -9 \(daemon)
                wait $question
                """)
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.output.contains("\"pid\""))
            #expect(try mount.daemonProcess() != daemon)
        }

        @Test func eachOperationTakesEffectOnce() throws {
            let mount = try Self.mount()
            for thread in 0..<4 { try #require(mkdir(mount("t\(thread)"), 0o755) == 0) }
            let path = mount.path
            let problems = try Self.meanwhile(4, { Self.turn(in: "\(path)/t\($0)", $1) }) {
                try Self.killRepeatedly(mount)
            }
            #expect(problems == [], "\(mount.troubles())")
            for thread in 0..<4 {
                #expect(try FileManager.default.contentsOfDirectory(atPath: mount("t\(thread)")) == [])
            }
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        @Test func openFilesGoOn() throws {
            let mount = try Self.mount()
            // A file that is open, one that has lost its name, and a directory that is being listed.
            let kept = open(mount("kept"), O_CREAT | O_RDWR, 0o644)
            let unlinked = open(mount("unlinked"), O_CREAT | O_RDWR, 0o644)
            try #require(kept >= 0 && unlinked >= 0)
            defer {
                close(kept)
                close(unlinked)
            }
            try #require(write(unlinked, "still here", 10) == 10)
            try #require(unlink(mount("unlinked")) == 0)
            try #require(mkdir(mount("list"), 0o755) == 0)
            var expected: Set<String> = [".", ".."]
            for number in 0..<2000 {
                let file = open(mount("list/\(number)"), O_CREAT | O_WRONLY, 0o644)
                try #require(file >= 0)
                close(file)
                expected.insert("\(number)")
            }
            let listing = try #require(opendir(mount("list")))
            var seen: [String] = []
            func readSome(_ count: Int) {
                for _ in 0..<count {
                    guard let entry = readdir(listing) else { return }
                    seen.append(withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) })
                }
            }
            for round in 0..<6 {
                readSome(300)
                #expect(pwrite(kept, "round \(round)", 7, off_t(round * 7)) == 7)
                try Self.killRepeatedly(mount, rounds: 1)
                var text = [UInt8](repeating: 0, count: 10)
                #expect(pread(unlinked, &text, 10, 0) == 10)
                #expect(String(decoding: text, as: UTF8.self) == "still here")
            }
            readSome(3000)
            closedir(listing)
            #expect(seen.count == expected.count)
            #expect(Set(seen) == expected)
            #expect(try String(contentsOfFile: mount("kept"), encoding: .utf8) == (0..<6).map { "round \($0)" }.joined())
            let status = try O3FSBinary.json("status", mount.path, "--json")
            let supervisor = try #require(status["supervisor"] as? [String: Any])
            #expect(supervisor["deaths"] as? Int == 6)
        }

        /// Files and directories whose names change, or go, while they are open; each step with another daemon.
        @Test func whatIsOpenIsIndependentOfItsName() throws {
            let mount = try Self.mount()
            func restart() throws { try Self.killRepeatedly(mount, rounds: 1) }
            for directory in ["removed", "moved", "moved/deep"] { try #require(mkdir(mount(directory), 0o755) == 0) }
            let removed = open(mount("removed"), O_RDONLY | O_DIRECTORY)
            let moved = open(mount("moved"), O_RDONLY | O_DIRECTORY)
            let file = open(mount("moved/deep/file"), O_CREAT | O_RDWR, 0o644)
            let replaced = open(mount("replaced"), O_CREAT | O_RDWR, 0o644)
            let unnamed = open(mount("."), o3_O_TMPFILE | O_RDWR, 0o644)
            for descriptor in [removed, moved, file, replaced, unnamed] { try #require(descriptor >= 0) }
            try #require(write(replaced, "replaced", 8) == 8 && write(unnamed, "unnamed", 7) == 7)
            try #require(flock(file, LOCK_EX) == 0)
            try restart()
            #expect(rmdir(mount("removed")) == 0)
            #expect(rename(mount("moved"), mount("other")) == 0)
            #expect(rename(mount("other/deep/file"), mount("replaced")) == 0)
            try restart()
            // The removed directory is empty, and takes nothing.
            #expect(Self.code(mkdirat(removed, "new", 0o755)) == ENOENT)
            #expect(Self.code(openat(removed, "new", O_CREAT | O_WRONLY, 0o644)) == ENOENT)
            var info = stat()
            #expect(fstat(removed, &info) == 0 && info.st_nlink == 0)
            let listing = try #require(fdopendir(dup(removed)))
            #expect(readdir(listing) == nil)
            closedir(listing)
            // The moved one is where it was moved to.
            #expect(mkdirat(moved, "new", 0o755) == 0)
            #expect(lstat(mount("other/new"), &info) == 0)
            try restart()
            #expect(write(file, "moved", 5) == 5)
            #expect(try String(contentsOfFile: mount("replaced"), encoding: .utf8) == "moved")
            #expect(fstat(replaced, &info) == 0 && info.st_nlink == 0 && info.st_size == 8)
            var text = [UInt8](repeating: 0, count: 8)
            #expect(pread(replaced, &text, 8, 0) == 8 && String(decoding: text, as: UTF8.self) == "replaced")
            // The lock is held on, by the file, not by its name.
            let another = open(mount("replaced"), O_RDONLY)
            #expect(Self.code(flock(another, LOCK_EX | LOCK_NB)) == EWOULDBLOCK)
            close(another)
            try restart()
            #expect(linkat(AT_FDCWD, "/proc/self/fd/\(unnamed)", AT_FDCWD, mount("named"), AT_SYMLINK_FOLLOW) == 0)
            #expect(try String(contentsOfFile: mount("named"), encoding: .utf8) == "unnamed")
            for descriptor in [removed, moved, file, replaced, unnamed] { close(descriptor) }
            try restart()
            #expect(try FileManager.default.contentsOfDirectory(atPath: mount.path).sorted() == ["named", "other", "replaced"])
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        /// Somebody truncates, or deletes, the object in /dev/shm under a daemon that uses it: what was synced is there, the
        /// mount goes on, and status says what happened.
        @Test(arguments: [true, false]) func theMemoryGoes(byTruncation: Bool) throws {
            let mount = try Self.mount()
            let region = try #require(mount.region)
            try Shell.script(
                "for i in $(seq 200); do echo $i >file$i; done; head -c 3M /dev/urandom >big; sync big; md5sum big >../sum",
                in: mount.path)
            let daemon = try mount.daemonProcess()
            if byTruncation {
                #expect(truncate(region, 0) == 0)
            } else {
                #expect(unlink(region) == 0)
                // The daemon has it mapped and goes on; the next one finds nothing.
                try Shell.script("echo more >more; sync more", in: mount.path)
                kill(daemon, SIGKILL)
            }
            var info = stat()
            for number in 1...300 { _ = lstat(mount("new\(number)"), &info) }
            try Shell.script(
                "test $(ls file* | wc -l) = 200; test $(cat file123) = 123; echo 3 >/proc/sys/vm/drop_caches; "
                    + "md5sum -c --quiet ../sum; echo later >later; sync later", in: mount.path)
            try waitFor("another daemon") { (try? mount.daemonProcess()).map { $0 != daemon } ?? false }
            let status = try O3FSBinary.json("status", mount.path, "--json")
            #expect((status["recovery"] as? [String: Any])?["source"] as? String == "log")
            if byTruncation {
                let troubles = try #require(status["troubles"] as? [[String: Any]])
                #expect(troubles.contains { ($0["what"] as? String ?? "").contains("memory of the last daemon") }, "\(troubles)")
            }
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        @Test func daemonThatDiesAgainAndAgainIsGivenUp() throws {
            let mount = try TestMount(options: ["--survive", "--max-restarts", "2"])
            try Self.killRepeatedly(mount, rounds: 2)
            kill(try mount.daemonProcess(), SIGKILL)
            var info = stat()
            try waitFor("the end of the mount") { lstat(mount("x"), &info) != 0 && errno == ENOTCONN }
            let log = try String(contentsOfFile: mount.store + "/o3fs.log", encoding: .utf8)
            #expect(log.contains("the mount is given up"), "\(log)")
            let status = try O3FSBinary.run("status", mount.path)
            #expect(status.status != 0)
            for words in ["given up: its daemon died 3 times in 30 seconds, the last one by signal 9", "o3fs umount", "o3fs.log"] {
                #expect(status.errors.contains(words), "\(status.errors)")
            }
            // The way out is the usual one.
            try O3FSBinary.succeed("umount", mount.path)
            try mount.mount()
            #expect(access(mount.store + "/given-up", F_OK) != 0)
        }

        @Test func unmountWhileNobodyAnswers() throws {
            let mount = try Self.mount()
            try Data("x".utf8).write(to: URL(fileURLWithPath: mount("file")))
            kill(try mount.daemonProcess(), SIGKILL)
            try O3FSBinary.succeed("umount", mount.path)
            #expect(!mount.isMounted)
            try O3FSBinary.succeed("check", mount.store)
            // Nobody is left who would hold the store.
            try mount.mount()
            #expect(try String(contentsOfFile: mount("file"), encoding: .utf8) == "x")
        }

        @Test func anotherProgramGoesOn() throws {
            let mount = try Self.mount()
            let path = mount.path
            try #require(mkdir(mount("t0"), 0o755) == 0)
            let program = mount.directory.path + "/new"
            try FileManager.default.copyItem(atPath: try #require(O3FSBinary.path), toPath: program)
            let problems = try Self.meanwhile(1, { Self.turn(in: "\(path)/t\($0)", $1) }) {
                let daemon = try mount.daemonProcess()
                try O3FSBinary.succeed("upgrade", mount.path, "--program", program)
                let next = try mount.daemonProcess()
                #expect(next != daemon)
                let running = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(next)/exe")
                #expect(running == program)
                // One that cannot go on is no harm.
                let failed = try O3FSBinary.run("upgrade", mount.path, "--program", "/bin/false")
                #expect(failed.status != 0 && failed.errors.contains("the old one does"), "\(failed)")
                let last = try mount.daemonProcess()
                #expect(try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(last)/exe") == program)
            }
            #expect(problems == [], "\(mount.troubles())")
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        /// What cannot be started is said to be none, and one that would wait for the mount which it is to serve is refused.
        @Test func whatIsNoProgramDoesNotGoOn() throws {
            let mount = try Self.mount()
            let text = mount.directory.path + "/text"
            try Data("no program".utf8).write(to: URL(fileURLWithPath: text))
            chmod(text, 0o755)
            for program in [text, mount.directory.path] {
                let failed = try O3FSBinary.run("upgrade", mount.path, "--program", program)
                #expect(failed.status != 0 && failed.errors.contains("cannot be started"), "\(failed)")
            }
            try FileManager.default.copyItem(atPath: try #require(O3FSBinary.path), toPath: mount("o3fs"))
            let refused = try O3FSBinary.run("upgrade", mount.path, "--program", mount("o3fs"))
            #expect(refused.status != 0 && refused.errors.contains("lies in the mount"), "\(refused)")
            #expect(FileManager.default.fileExists(atPath: mount("o3fs")))
        }

        /// The program that serves is the one that is started after a death, whatever lies under its name by then.
        @Test func aProgramThatWasReplacedGoesOn() throws {
            let mount = try Self.mount()
            let program = mount.directory.path + "/new"
            try FileManager.default.copyItem(atPath: try #require(O3FSBinary.path), toPath: program)
            try O3FSBinary.succeed("upgrade", mount.path, "--program", program)
            try FileManager.default.removeItem(atPath: program)
            try FileManager.default.copyItem(atPath: "/bin/false", toPath: program)
            let daemon = try mount.daemonProcess()
            kill(daemon, SIGKILL)
            try waitFor("another daemon") { (try? mount.daemonProcess()).map { $0 != daemon } ?? false }
            let running = try FileManager.default.destinationOfSymbolicLink(
                atPath: "/proc/\(try mount.daemonProcess())/exe")
            #expect(running == program + " (deleted)")
        }

        /// fio verifies, git and sqlite3 work, with dirty pages in the kernel; see the script.
        @Test(.enabled(if: ["fio", "git", "jq", "python3", "sqlite3"].allSatisfy(Shell.has)), .timeLimit(.minutes(5)))
        func programsSeeNoError() throws {
            let result = try Shell.run(
                ["\(O3FSBinary.packageRoot)/tools/soak/survive.sh", "--rounds", "10", "--mount", "--writeback-cache"],
                environment: ["O3FS_BINARY": try #require(O3FSBinary.path)], timeout: 240)
            #expect(result.status == 0, "\(result)")
        }
    }
}
