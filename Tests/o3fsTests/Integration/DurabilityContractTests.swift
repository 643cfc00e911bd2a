import Foundation
import Glibc
import Testing

extension MountTests {
    /// The rows of the durability table in README.md, in its order; README names these tests.
    @Suite(.serialized) struct DurabilityContract {
        /// Row 1: an operation that has returned survives kill -9 of every process, without fsync.
        @Test(.timeLimit(.minutes(5))) func operationsSurviveTheDeathOfEveryProcess() throws {
            let mount = try TestMount()
            for round in 0..<5 {
                // Killed while it works; what the shell has reported as done must be there.
                let log = mount.directory.path + "/done.\(round)"
                try Shell.script(
                    """
                    mkdir '\(mount("round\(round)"))'
                    (cd '\(mount("round\(round)"))'; i=0; while :; do
                        i=$((i + 1)); echo "content $i" >file$i && mv file$i moved$i && echo $i >>'\(log)' || exit 0
                    done) >/dev/null 2>&1 &
                    sleep 0.\(3 + round)
                    """
                )
                try mount.killDaemon()
                let done = try String(contentsOfFile: log, encoding: .utf8).split(separator: "\n").count
                #expect(done > 0)
                try mount.mount()
                let found = try Shell.script(
                    "cd '\(mount("round\(round)"))'; for i in $(seq \(done)); do [ \"$(cat moved$i)\" = \"content $i\" ] || echo \"$i\"; done"
                )
                #expect(found.output == "", "of \(done) files, these are wrong after the kill of round \(round)")
            }
            try mount.unmount()
            #expect(try O3FSBinary.run("check", mount.store).status == 0)
        }

        /// Row 2: what was synced survives power loss, with the names that lead to it.
        @Test(.timeLimit(.minutes(5))) func syncedDataSurvivesPowerLoss() throws {
            let mount = try TestMount(options: ["--commit-interval", "3600000"])
            try Shell.script(
                """
                mkdir -p a/b/c; seq 100000 >a/b/c/file; sync a/b/c/file
                python3 - <<'END'
                import os
                f = os.open("dsync", os.O_WRONLY | os.O_CREAT | os.O_DSYNC); os.write(f, b"x" * 5000); os.close(f)
                f = os.open("data", os.O_WRONLY | os.O_CREAT); os.write(f, b"y" * 70000); os.fdatasync(f); os.close(f)
                os.mkdir("made"); d = os.open("made", os.O_RDONLY); os.fsync(d); os.close(d)
                END
                mkdir -p a/b/d; ln -s target a/b/d/link; sync a/b/d
                """,
                in: mount.path
            )
            try mount.losePower()
            try mount.mount()
            try Shell.script(
                """
                cmp a/b/c/file <(seq 100000); test "$(tr -d x <dsync | wc -c)" = 0; test "$(wc -c <dsync)" = 5000
                test "$(tr -d y <data | wc -c)" = 0; test "$(wc -c <data)" = 70000
                test -d made; test "$(readlink a/b/d/link)" = target
                """,
                in: mount.path
            )
        }

        /// Row 2, for asynchronous writes past the page cache, for which the kernel sends no fsync.
        @Test(.timeLimit(.minutes(5)), arguments: [("O_DSYNC", "0"), ("O_SYNC", "0"), ("0", "RWF_DSYNC")])
        func asynchronousDirectWritesSurvivePowerLoss(openFlag: String, writeFlag: String) throws {
            let mount = try TestMount(options: ["--commit-interval", "3600000"])
            try Shell.script("head -c 64K /dev/zero | tr '\\0' a >file; sync file", in: mount.path)
            try CompiledProgram.run(
                """
                #include <linux/aio_abi.h>
                #include <sys/syscall.h>

                """,
                main: """
                    int fd = open("file", O_RDWR | O_DIRECT | \(openFlag));
                    void *bytes = aligned_alloc(4096, 8192); memset(bytes, 'b', 8192);
                    aio_context_t context = 0; struct io_event event; struct iocb request = {0}, *list = &request;
                    CHECK(fd >= 0 && syscall(SYS_io_setup, 4, &context) == 0);
                    request.aio_lio_opcode = IOCB_CMD_PWRITE; request.aio_fildes = fd;
                    request.aio_buf = (uintptr_t)bytes; request.aio_nbytes = 8192; request.aio_offset = 16384;
                    request.aio_rw_flags = \(writeFlag);
                    CHECK(syscall(SYS_io_submit, context, 1, &list) == 1);
                    CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, NULL) == 1 && event.res == 8192);
                    """, in: mount.path)
            try mount.losePower()
            try mount.mount()
            try Shell.script(
                """
                test "$(wc -c <file)" = 65536; test "$(tr -d a <file | wc -c)" = 8192
                test "$(dd if=file bs=8192 skip=2 count=1 status=none | tr -d b | wc -c)" = 0
                """, in: mount.path)
        }

        /// Row 3: after power loss the file system is a prefix of its history.
        @Test(.timeLimit(.minutes(5))) func powerLossLeavesAPrefixOfHistory() throws {
            let mount = try TestMount(options: ["--commit-interval", "50"])
            // Each step renames, so that a step that is half there would show as two names or none.
            try Shell.script(
                """
                touch state.0
                for i in $(seq 2000); do echo $i >new.$i; mv state.$((i - 1)) state.$i; done
                """,
                in: mount.path
            )
            try mount.losePower()
            try mount.mount()
            let names = Set(try FileManager.default.contentsOfDirectory(atPath: mount.path))
            let states = names.filter { $0.hasPrefix("state.") }
            #expect(states.count == 1, "\(states)")
            let reached = states.first.flatMap { Int($0.dropFirst("state.".count)) } ?? -1
            // The 50 ms before the loss at most: the loop takes seconds.
            #expect(reached > 0)
            let created = names.compactMap { $0.hasPrefix("new.") ? Int($0.dropFirst("new.".count)) : nil }.sorted()
            #expect(created == Array(1...max(created.count, 1)), "a file is missing before the last one")
            #expect(created.count == reached || created.count == reached + 1)
            for number in created.dropLast() {
                #expect(try String(contentsOfFile: mount("new.\(number)"), encoding: .utf8) == "\(number)\n")
            }
        }

        /// Row 4: corruption is detected, reported and contained.
        @Test(.timeLimit(.minutes(5))) func corruptionIsAnErrorAndNeverData() throws {
            let mount = try TestMount()
            try Shell.script(
                "for i in $(seq 40); do head -c 500000 /dev/urandom >f$i; done; sha256sum f* >'\(mount.directory.path)/sums'",
                in: mount.path
            )
            try mount.unmount()
            let table = try #require(try largestTable(mount.store))
            try flipByte(of: table, at: try fileSize(table) / 2)

            let check = try O3FSBinary.run("check", mount.store)
            #expect(check.status == 1, "\(check)")
            #expect(check.output.contains((table as NSString).lastPathComponent), "\(check)")

            try mount.mount()
            // Each file is right or refused; at least one is refused, and most are right.
            let result = try Shell.run(
                ["sha256sum", "--check", mount.directory.path + "/sums"],
                in: mount.path
            )
            let right = result.lines.count { $0.hasSuffix(": OK") }
            let refused = result.errors.components(separatedBy: "Input/output error").count - 1
            #expect(result.lines.count { $0.hasSuffix(": FAILED") } == 0, "wrong data was returned: \(result)")
            #expect(refused > 0 && right >= 30, "\(right) right, \(refused) refused: \(result)")
        }

        /// Row 5: full is an error, readers go on, and freed space is used without a restart.
        @Test(.timeLimit(.minutes(5)), .enabled(if: Machine.canUnshare, needsNamespaces))
        func aFullDiskIsAnErrorAndFreedSpaceIsUsed() throws {
            let directory = try TemporaryDirectory("full")
            try Shell.script(
                """
                mkdir disk mnt; mount -t tmpfs -o size=200m none disk
                o3fs='\(try #require(O3FSBinary.path))'
                trap '"$o3fs" umount mnt || umount -l mnt' EXIT
                "$o3fs" mount disk/store mnt --dm-size 32M --memtable-size 4M
                echo precious >mnt/kept; head -c 5M /dev/urandom >mnt/old; sum=$(sha256sum <mnt/old); sync mnt/old
                ! head -c 400M /dev/urandom >mnt/big 2>err
                grep -q 'No space left' err || { cat err; exit 1; }
                test "$(cat mnt/kept)" = precious; test "$(sha256sum <mnt/old)" = "$sum"
                rm mnt/big
                for attempt in $(seq 60); do
                    if head -c 20M /dev/urandom >mnt/again 2>err && sync mnt/again 2>>err; then break; fi
                    sleep 1
                done
                test "$(stat -c %s mnt/again)" = $((20 << 20))
                test "$(cat mnt/kept)" = precious; test "$(sha256sum <mnt/old)" = "$sum"
                """.inPrivateNamespace,
                in: directory.path,
                timeout: 200
            )
        }

        /// Every second file goes: no table is hidden whole, and what is hidden must come back all the same.
        @Test(.timeLimit(.minutes(5)), .enabled(if: Machine.canUnshare, needsNamespaces))
        func theSpaceOfEverySecondFileIsUsedAgain() throws {
            let directory = try TemporaryDirectory("scattered")
            try Shell.script(
                """
                mkdir disk mnt; mount -t tmpfs -o size=160m none disk
                o3fs='\(try #require(O3FSBinary.path))'
                trap '"$o3fs" umount mnt || umount -l mnt' EXIT
                "$o3fs" mount disk/store mnt --dm-size 32M --memtable-size 4M
                head -c 1M /dev/urandom >source
                files=0
                for number in $(seq 200); do
                    cp source mnt/$number 2>/dev/null || { rm -f mnt/$number; break; }
                    files=$number
                done
                test $files -gt 100; test $files -lt 160
                for number in $(seq 1 2 $files); do rm mnt/$number; done
                for number in $(seq $((files / 2 - 20))); do
                    for attempt in $(seq 30); do cp source mnt/again$number 2>err && break || sleep 0.2; done
                    cmp source mnt/again$number
                done
                for number in $(seq 2 2 $files); do cmp source mnt/$number; done
                """.inPrivateNamespace,
                in: directory.path,
                timeout: 200
            )
        }

        /// Row 6: only the owner and root reach the region and the socket.
        @Test func memoryAndSocketBelongToTheOwner() throws {
            let mount = try TestMount()
            let region = try #require(mount.region)
            for path in [region, mount.store + "/control.sock"] {
                var info = stat()
                #expect(lstat(path, &info) == 0)
                #expect(info.st_mode & 0o077 == 0, "\(path) has mode \(String(info.st_mode & 0o7777, radix: 8))")
                #expect(info.st_uid == geteuid())
            }
            guard Machine.isRoot else { return }
            chmod(mount.directory.path, 0o755)
            chmod(mount.store, 0o755)
            let other = try Shell.run(
                [
                    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                    try #require(O3FSBinary.path), "stats", mount.store,
                ])
            #expect(other.status != 0)
            #expect(!other.output.contains("write amplification"))
            let memory = try Shell.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "head", "-c1", region])
            #expect(memory.status != 0)
        }

        private func largestTable(_ store: String) throws -> String? {
            let directory = store + "/sst"
            return try FileManager.default.contentsOfDirectory(atPath: directory)
                .map { directory + "/" + $0 }.max { (try? fileSize($0)) ?? 0 < (try? fileSize($1)) ?? 0 }
        }
    }
}

func fileSize(_ path: String) throws -> Int {
    var info = stat()
    guard lstat(path, &info) == 0 else { throw SetupError("cannot stat \(path): \(errno)") }
    return Int(info.st_size)
}

/// Inverts the bits of one byte of a file.
func flipByte(of path: String, at offset: Int) throws {
    let file = open(path, O_RDWR)
    guard file >= 0 else { throw SetupError("cannot open \(path): \(errno)") }
    defer { close(file) }
    var byte: UInt8 = 0
    guard pread(file, &byte, 1, offset) == 1 else { throw SetupError("\(path) has no byte \(offset)") }
    byte = ~byte
    guard pwrite(file, &byte, 1, offset) == 1 else { throw SetupError("cannot write \(path): \(errno)") }
}

extension String {
    /// The script, run where its mounts are nobody else's and end with it.
    var inPrivateNamespace: String {
        "unshare -m --propagation private bash -euo pipefail -c \(quotedForShell)"
    }

    var quotedForShell: String { "'" + replacingOccurrences(of: "'", with: "'\\''") + "'" }
}
