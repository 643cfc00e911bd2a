import Foundation
import Glibc
import Testing

extension MountTests {
    /// Snapshots of a mount that programs work in, and copies made of them.
    @Suite struct Backups {
        /// A tree with all that a file system keeps goes through a stream, and the changes to it through another.
        @Test(.timeLimit(.minutes(3))) func aTreeGoesThroughStreams() throws {
            let mount = try TestMount()
            let copy = mount.directory.path + "/copy"
            let back = mount.directory.path + "/back"
            try Shell.script(
                """
                mkdir -p tree/deep; cp -r /usr/include/linux tree/headers
                ln tree/headers/fuse.h tree/link; ln -s headers/fuse.h tree/symlink; mkfifo tree/pipe
                truncate -s 1G tree/sparse; echo end >>tree/sparse
                setfattr -n user.name -v value tree/link; setfacl -m u:4321:r tree/deep; chown 5:6 tree/deep
                touch -d '1969-01-01 00:00:00.123456789' tree/deep
                """, in: mount.path)
            try O3FSBinary.succeed("snapshot", "create", mount.path, "one")
            let first = try Self.listing(mount("tree"))
            try Shell.script(
                """
                rm -r tree/headers/dvb; mv tree/headers tree/moved; echo more >>tree/link; chmod 700 tree/deep
                fallocate -p -o 0 -l 1M tree/sparse; for i in $(seq 500); do echo $i >tree/deep/$i; done
                """, in: mount.path)
            try O3FSBinary.succeed("snapshot", "create", mount.path, "two")
            let second = try Self.listing(mount("tree"))
            try Shell.script("rm -r tree; echo later >later", in: mount.path)

            let files = ["one.o3", "two.o3"].map { mount.directory.path + "/" + $0 }
            try O3FSBinary.succeed("export", mount.path, "--snapshot", "one", "--output", files[0])
            try O3FSBinary.succeed("export", mount.path, "--snapshot", "two", "--since", "one", "--output", files[1])
            try FileManager.default.createDirectory(atPath: back, withIntermediateDirectories: true)
            for (file, expected) in [(files[0], first), (files[1], second)] {
                try O3FSBinary.succeed("import", copy, "--input", file)
                try O3FSBinary.succeed("check", copy)
                try O3FSBinary.succeed("mount", "-o", "ro", copy, back)
                defer { _ = try? O3FSBinary.run("umount", back) }
                #expect(try Self.listing(back + "/tree") == expected)
            }
            try O3FSBinary.succeed("mount", "--snapshot", "one", mount.store, back)
            defer { _ = try? O3FSBinary.run("umount", back) }
            #expect(try Self.listing(back + "/tree") == first)
            let refused = try O3FSBinary.run("snapshot", "delete", mount.path, "one")
            #expect(refused.status == 1 && refused.errors.contains("in use"), "\(refused)")
            try O3FSBinary.succeed("umount", back)
            try O3FSBinary.succeed("snapshot", "delete", mount.path, "one")
            #expect(try String(contentsOfFile: mount("later"), encoding: .utf8) == "later\n")
        }

        /// A file that was open without a name when the snapshot was made, and when all processes died.
        @Test(.timeLimit(.minutes(3))) func filesWithoutANameAreNoObstacle() throws {
            let mount = try TestMount()
            let back = mount.directory.path + "/back"
            try FileManager.default.createDirectory(atPath: back, withIntermediateDirectories: true)
            try "kept".write(toFile: mount("kept"), atomically: false, encoding: .utf8)
            try Data(count: 100_000).write(to: URL(fileURLWithPath: mount("open")))
            let descriptor = open(mount("open"), O_RDWR)
            #expect(descriptor >= 0 && unlink(mount("open")) == 0)
            try O3FSBinary.succeed("snapshot", "create", mount.path, "held")
            try O3FSBinary.succeed("mount", "--snapshot", "held", mount.store, back)
            defer { _ = try? O3FSBinary.run("umount", back) }
            #expect(try String(contentsOfFile: back + "/kept", encoding: .utf8) == "kept")
            try mount.killDaemon()
            close(descriptor)
            try O3FSBinary.succeed("umount", back)
            try O3FSBinary.succeed("mount", "-o", "ro", mount.store, back, "--dm-size", "64M")
            #expect(try String(contentsOfFile: back + "/kept", encoding: .utf8) == "kept")
            try O3FSBinary.succeed("umount", back)
            try mount.mount()
            try mount.unmount()
            #expect(try O3FSBinary.run("check", mount.store).status == 0)
        }

        /// sqlite3 writes transactions; snapshots made meanwhile hold whole ones.
        @Test(.timeLimit(.minutes(3))) func aDatabaseInASnapshotIsSound() throws {
            let mount = try TestMount()
            try Shell.script("sqlite3 db 'PRAGMA journal_mode=wal; CREATE TABLE t(a, b)' >/dev/null", in: mount.path)
            let writer = Process()
            writer.executableURL = URL(fileURLWithPath: "/bin/bash")
            writer.arguments = [
                "-c",
                """
                cd '\(mount.path)'; for i in $(seq 60); do echo "BEGIN; INSERT INTO t SELECT $i, value FROM
                generate_series(1, 50); COMMIT;"; done | sqlite3 db
                """,
            ]
            try writer.run()
            for number in 0..<5 { try O3FSBinary.succeed("snapshot", "create", mount.path, "s\(number)") }
            writer.waitUntilExit()
            #expect(writer.terminationStatus == 0)
            let back = mount.directory.path + "/back"
            for number in 0..<5 {
                let file = mount.directory.path + "/s.o3"
                try O3FSBinary.succeed("export", mount.path, "--snapshot", "s\(number)", "--output", file)
                let copy = mount.directory.path + "/copy\(number)"
                try O3FSBinary.succeed("import", copy, "--input", file)
                try FileManager.default.removeItem(atPath: file)
                try FileManager.default.createDirectory(atPath: back, withIntermediateDirectories: true)
                try O3FSBinary.succeed("mount", copy, back)
                defer { _ = try? O3FSBinary.run("umount", back) }
                let answer = try Shell.script(
                    "sqlite3 db 'PRAGMA integrity_check; SELECT count(*) % 50 FROM t'", in: back)
                #expect(answer.output == "ok\n0\n")
            }
        }

        /// Its reader goes away, or somebody ends it: the snapshot that it made for itself goes.
        @Test(arguments: ["INT", "TERM", "HUP", "PIPE"]) func anExportThatIsCutOffLeavesNothing(signal: String) throws {
            let mount = try TestMount()
            try Shell.script("head -c 30M /dev/urandom >file", in: mount.path)
            let program = try #require(O3FSBinary.path)
            let fifo = mount.directory.path + "/fifo"
            let result = try Shell.run(
                [
                    "bash", "-c",
                    signal == "PIPE"
                        ? "'\(program)' export '\(mount.path)' | head -c 100 >/dev/null; exit ${PIPESTATUS[0]}"
                        // Nobody reads from the pipe: it waits in a write.
                        : "mkfifo '\(fifo)'; sleep 60 <>'\(fifo)' & holder=$!; "
                            + "'\(program)' export '\(mount.path)' >'\(fifo)' & "
                            + "sleep 2; kill -\(signal) $!; wait $!; status=$?; kill $holder; exit $status",
                ])
            // 1: its reader is gone, an error as any other.
            #expect(result.status == ["INT": 128 + SIGINT, "TERM": 128 + SIGTERM, "HUP": 128 + SIGHUP, "PIPE": 1][signal])
            #expect(try O3FSBinary.run("snapshot", "list", mount.path, "--json").output.contains("export-") == false)
        }

        /// A damaged snapshot hides no other, and can be deleted.
        @Test func theOthersAreListedBesideADamagedOne() throws {
            let mount = try TestMount()
            for name in ["a", "b", "c"] { try O3FSBinary.succeed("snapshot", "create", mount.path, name) }
            try flipByte(of: mount.store + "/snapshots/b/SNAPSHOT", at: 9)
            for options in [[], ["--json"]] {
                let result = try O3FSBinary.run(["snapshot", "list", mount.path] + options)
                #expect(result.status == 1 && result.errors.hasPrefix("Error: snapshot b cannot be read"), "\(result)")
                #expect(result.errors.contains("SNAPSHOT") && result.errors.split(separator: "\n").count == 1, "\(result)")
                let names = ["a", "b", "c"].filter { result.output.contains(options.isEmpty ? "\n\($0) " : "\"\($0)\"") }
                #expect(names == ["a", "c"], "\(result)")
            }
            try O3FSBinary.succeed("snapshot", "delete", mount.path, "b")
            try O3FSBinary.succeed("snapshot", "list", mount.path)
        }

        @Test(.enabled(if: Machine.canUnshare, needsNamespaces)) func noStoreIsImportedOntoAMountpoint() throws {
            let mount = try TestMount()
            let binary = try #require(O3FSBinary.path)
            let file = mount.directory.path + "/stream"
            try O3FSBinary.succeed("export", mount.path, "--output", file)
            let result = try Shell.run([
                "unshare", "-m", "--propagation", "private", "bash", "-c",
                "mkdir disk; mount -t tmpfs none disk; '\(binary)' import disk --dry-run --input \(file) && "
                    + "! '\(binary)' import disk --input \(file) && '\(binary)' import disk/store --input \(file)",
            ], in: mount.directory.path)
            #expect(result.status == 0 && result.errors.contains("/disk is a mountpoint: name a directory below it"), "\(result)")
        }

        @Test func mistakesAreOneSentence() throws {
            let mount = try TestMount()
            try O3FSBinary.succeed("snapshot", "create", mount.path, "a")
            let occupied = mount.directory.path
            for (arguments, words) in [
                (["snapshot", "create", mount.path, "a"], "already has a snapshot a"),
                (["snapshot", "create", mount.path, "a/b"], "a snapshot's name"),
                (["snapshot", "delete", mount.path, "b"], "no snapshot b"),
                (["mount", "--snapshot", "b", mount.store, mount.directory.path + "/mnt2"], "no snapshot b"),
                (["mount", mount.store + "/snapshots/a", occupied + "/x"], "is a snapshot"),
                (["export", mount.path, "--snapshot", "b"], "no snapshot b"),
                (["export", mount.path, "--since", "a"], "--since needs --snapshot"),
                (["export", mount.path, "--snapshot", "a", "--since", "a", "-o", occupied + "/o"], "not older"),
                (["import", mount.store, "--input", "/etc/passwd"], "is mounted at"),
                (["import", occupied + "/new", "--input", "/etc/passwd"], "the beginning of an export"),
            ] {
                for directory in ["mnt2", "x"] { mkdir(occupied + "/" + directory, 0o700) }
                let result = try O3FSBinary.run(arguments)
                #expect(result.status != 0 && result.errors.contains(words), "\(arguments): \(result)")
            }
            #expect(access(occupied + "/new", F_OK) != 0 && access(occupied + "/o", F_OK) != 0)
        }

        /// Everything that stat(2), getfattr(1), getfacl(1) and reading tell of a tree.
        private static func listing(_ tree: String) throws -> String {
            try Shell.script(
                """
                find . -printf '%P %y %m %U:%G %n %s %b %T@ %l\\n' | grep -v '^ d' | sort
                find . -type f ! -name sparse -exec md5sum {} + | sort -k2
                tail -c 10 sparse
                find . ! -type l ! -type p -print0 | sort -z | xargs -0 getfattr -d -m user.
                getfacl -R . 2>/dev/null
                """, in: tree
            ).output
        }
    }
}
