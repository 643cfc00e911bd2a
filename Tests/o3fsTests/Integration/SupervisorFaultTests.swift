import Foundation
import Glibc
import Testing

@testable import o3fs

extension MountTests {
    /// What goes wrong with supervisors and with programs that are to go on with a mount, and what must not be in a log.
    @Suite(.serialized, .enabled(if: Machine.canMount, needsFUSE))
    struct SupervisorFaultTests {
        private static func program(_ mount: TestMount, _ name: String, _ script: String) throws -> String {
            let path = mount.directory.path + "/" + name
            try Data("#!/bin/sh\n\(script)\n".utf8).write(to: URL(fileURLWithPath: path))
            try #require(chmod(path, 0o755) == 0)
            return path
        }

        /// A supervisor that cannot open a socket waits until it can.
        @Test(.enabled(if: Shell.has("prlimit"))) func aSupervisorWithoutDescriptorsWaits() throws {
            let mount = try TestMount(options: ["--survive"])
            let supervisor = try #require(try mount.supervisorProcess())
            try Shell.script("echo kept >'\(mount("file"))'; prlimit --pid \(supervisor) --nofile=3:")
            let daemon = try mount.daemonProcess()
            kill(daemon, SIGKILL)
            usleep(700_000)
            #expect(kill(supervisor, 0) == 0 && !TestMount.hasEnded(supervisor))
            try Shell.script("prlimit --pid \(supervisor) --nofile=1024:")
            #expect(try String(contentsOfFile: mount("file"), encoding: .utf8) == "kept\n")
            #expect(try mount.daemonProcess() != daemon)
        }

        /// A mount that began with few descriptors works, and goes on after its daemon's death.
        @Test(.enabled(if: Shell.has("setpriv"))) func fewDescriptorsAreEnough() throws {
            let scripts = try TemporaryDirectory("descriptors")
            let binary = try #require(O3FSBinary.path)
            let limited = scripts.path + "/limited"
            // Root could raise the limit again.
            let drop = geteuid() == 0 ? "setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource " : ""
            try Data("#!/bin/sh\nulimit -n 24\nexec \(drop)'\(binary)' \"$@\"\n".utf8).write(to: URL(fileURLWithPath: limited))
            try #require(chmod(limited, 0o755) == 0)
            let mount = try TestMount(options: ["--survive"], program: limited)
            let daemon = try mount.daemonProcess()
            let limits = try String(contentsOfFile: "/proc/\(daemon)/limits", encoding: .utf8)
            let files = try #require(limits.split(separator: "\n").first { $0.hasPrefix("Max open files") })
            #expect(files.split(separator: " ").contains("24"), "\(files)")
            try Shell.script("for n in $(seq 60); do echo $n >'\(mount.path)'/$n; done")
            kill(daemon, SIGKILL)
            try Shell.script("cat '\(mount.path)'/60; echo more >'\(mount("61"))'")
            #expect(try mount.daemonProcess() != daemon)
            try mount.unmount()
        }

        /// A program that neither serves nor ends is killed, and the old one goes on; who waits is told meanwhile.
        @Test func aProgramThatDoesNothingIsReplaced() throws {
            let mount = try TestMount(options: ["--survive", "--start-patience", "4"])
            let idle = try Self.program(mount, "idle", "exec sleep 1000")
            let late = try O3FSBinary.run("upgrade", mount.path, "--program", idle, "--timeout", "1")
            #expect(late.status != 0 && late.errors.contains("for 1 seconds"), "\(late)")
            #expect(mkdir(mount("d"), 0o755) == 0)
            let failed = try O3FSBinary.run("upgrade", mount.path, "--program", idle)
            #expect(failed.status != 0 && failed.errors.contains("the old one does"), "\(failed)")
            #expect(failed.errors.contains("a start that did not go on"), "\(failed)")
            // Nor does a child that keeps the link to the supervisor.
            let parent = try Self.program(mount, "parent", "sleep 1000 & echo $! >'\(mount.directory.path)/child'; exit 3")
            let ended = try O3FSBinary.run("upgrade", mount.path, "--program", parent)
            #expect(ended.status != 0 && ended.errors.contains("exit status 3"), "\(ended)")
            try Shell.script("kill $(cat '\(mount.directory.path)/child')")
        }

        /// The store's memory is left as it is: nothing is flushed, whatever the program, and nothing is lost when the new
        /// one cannot use it.
        @Test func anUpgradeFlushesNothing() throws {
            let mount = try TestMount(dmSize: 256 << 20, options: ["--survive", "--commit-interval", "3600000"])
            try Shell.script("head -c 20M /dev/urandom >data; md5sum data >../sum", in: mount.path)
            func recovery() throws -> String? {
                (try O3FSBinary.json("status", mount.path, "--json")["recovery"] as? [String: Any])?["source"] as? String
            }
            func tables() throws -> Int { try FileManager.default.contentsOfDirectory(atPath: mount.store + "/sst").count }
            #expect(try tables() == 0)
            let binary = try #require(O3FSBinary.path)
            try O3FSBinary.succeed("upgrade", mount.path, "--program", binary)
            #expect(try recovery() == "region")
            #expect(try tables() == 0)
            // As if the layout of the memory were another one.
            try Shell.script("head -c 5M /dev/urandom >more; md5sum more >>../sum", in: mount.path)
            let region = try #require(mount.region)
            let other = try Self.program(mount, "other", "rm -f '\(region)'; exec '\(binary)' \"$@\"")
            try O3FSBinary.succeed("upgrade", mount.path, "--program", other)
            #expect(try recovery() == "log")
            try Shell.script("echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true; md5sum -c --quiet ../sum", in: mount.path)
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        /// After daemons have died of signals, with what a user has written in their memory, and after rows of theirs were
        /// damaged, the log has nothing of it.
        @Test func theLogHoldsNoSecret() throws {
            let mount = try TestMount(options: ["--survive", "--max-restarts", "1000"])
            let secret = "Geheimnis"
            let writeSecrets = """
                for i in $(seq 50); do
                  head -c 5000 /dev/zero | tr '\\0' X | sed 's/XXXXXXXXX/\(secret)/g' >\(secret)-name-$i
                  setfattr -n user.\(secret) -v \(secret)-value \(secret)-name-$i 2>/dev/null || true
                done
                """
            for signal in [SIGSEGV, SIGABRT, SIGBUS, SIGILL] {
                try Shell.script(writeSecrets, in: mount.path)
                let daemon = try mount.daemonProcess()
                // Read at the moment of the death, so that the bytes are on stacks and in registers. The runtime writes its
                // stacks to the log; a process whose own instructions did not cause the signal may go on after that.
                let reader = try Shell.run(
                    [
                        "bash", "-c",
                        "(for i in $(seq 20); do cat '\(mount.path)'/*; done) >/dev/null & sleep 0.1; "
                            + "kill -\(signal) \(daemon); "
                            + "for i in $(seq 100); do grep -q 'Signal \(signal): Backtracing' '\(mount.store)/o3fs.log' && break; "
                            + "sleep 0.1; done; sleep 3; kill -9 \(daemon); wait",
                    ])
                #expect(reader.status == 0)
                try waitFor("another daemon", seconds: 120) { (try? mount.daemonProcess()).map { $0 != daemon } ?? false }
            }
            let names = try FileManager.default.contentsOfDirectory(atPath: mount.path)
            let inode = try #require(try Shell.script("stat -c %i '\(mount(names[0]))'").lines.first)
            try mount.unmount()
            let dentry = "dentry 1/\"\(names[0])\""
            try O3FSBinary.succeed("kv", "put", mount.store, dentry, "x")
            let other = try #require(names.last)
            try O3FSBinary.succeed("kv", "put", mount.store, "dentry 1/\"\(other)\"", "\\x01")
            try mount.mount()
            let found = try Shell.run(["cat", mount(names[0]), mount(other)])
            #expect(found.status != 0, "inode \(inode)")
            let status = try O3FSBinary.json("status", mount.path, "--json")
            #expect("\(status["troubles"] ?? "")".contains(names[0]), "\(status)")
            let log = try String(contentsOfFile: mount.store + "/o3fs.log", encoding: .utf8)
            #expect(log.contains("dentry 1/… is corrupt"), "\(log.suffix(2000))")
            #expect(log.lowercased().contains("signal \(SIGSEGV)"))
            #expect(log.contains("Thread 0"))
            #expect(!log.contains(secret) && !log.contains("Registers:"), "\(log.suffix(2000))")
            // Registers and memory would be in hexadecimal.
            let hexadecimal = secret.utf8.map { String($0, radix: 16) }
            for separator in ["", " "] {
                #expect(!log.contains(hexadecimal.prefix(6).joined(separator: separator)))
                #expect(!log.contains(hexadecimal.prefix(6).reversed().joined(separator: separator)))
            }
        }

        @Test func daemonsLeaveNoCoreDumps() throws {
            let mount = try TestMount(options: ["--survive"])
            let daemon = try mount.daemonProcess()
            let limits = try String(contentsOfFile: "/proc/\(daemon)/limits", encoding: .utf8)
            let line = try #require(limits.split(separator: "\n").first { $0.hasPrefix("Max core file size") })
            #expect(line.split(separator: " ")[4] == "0", "\(line)")
        }
    }
}
