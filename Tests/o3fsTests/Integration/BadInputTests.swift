import Foundation
import Glibc
import Testing

extension MountTests {
    /// What is wrong is said in one sentence, with a status that is not 0, and nothing is lost.
    @Suite(.serialized) struct BadInput {
        /// A refusal: not a crash (128 and more), one line on standard error, and the words that matter.
        private func expectRefusal(
            _ result: CommandResult,
            _ words: String...,
            sourceLocation: SourceLocation = #_sourceLocation
        ) {
            #expect(result.status > 0 && result.status < 124, "\(result)", sourceLocation: sourceLocation)
            let lines = result.errors.split(separator: "\n").filter { line in
                !["Usage:", "  See ", "Help:"].contains { line.hasPrefix($0) }
            }
            #expect(lines.count == 1, "\(result)", sourceLocation: sourceLocation)
            for word in words {
                #expect(result.errors.contains(word), "no word of \(word): \(result)", sourceLocation: sourceLocation)
            }
        }

        /// A store with a few files in tables, unmounted; its log no longer holds what the tables do.
        private func madeStore() throws -> TestMount {
            let mount = try TestMount()
            for change in ["cp -r /usr/include/linux .", "cp -r linux copy", "rm -r copy; echo precious >kept"] {
                try Shell.script(change, in: mount.path)
                try mount.unmount()
                try mount.mount()
            }
            try mount.unmount()
            return mount
        }

        @Test func mountpointsThatCannotBe() throws {
            let mount = try TestMount(mounted: false)
            expectRefusal(try O3FSBinary.run("mount", mount.store, mount.path + "/missing"), "missing")
            let file = mount.directory.path + "/file"
            try Data().write(to: URL(fileURLWithPath: file))
            expectRefusal(try O3FSBinary.run("mount", mount.store, file), "not a directory")
            // Nothing was made meanwhile.
            #expect(access(mount.store, F_OK) != 0)
        }

        @Test func storesThatAreNone() throws {
            let mount = try TestMount(mounted: false)
            let foreign = mount.directory.path + "/foreign"
            try Shell.script("mkdir '\(foreign)'; echo hello >'\(foreign)/letter'")
            expectRefusal(try O3FSBinary.run("mount", foreign, mount.path), foreign)
            let file = foreign + "/letter"
            expectRefusal(try O3FSBinary.run("mount", file, mount.path), file)
            for command in [["status"], ["stats"], ["check"], ["repair"], ["compact"], ["kv", "scan"], ["umount"]] {
                expectRefusal(try O3FSBinary.run(command + [foreign]), foreign)
                expectRefusal(try O3FSBinary.run(command + [mount.directory.path + "/nowhere"]), "nowhere")
            }
            #expect(try Shell.script("cat '\(file)'; ls -A '\(foreign)'").output == "hello\nletter\n")
        }

        @Test func aStoreInUse() throws {
            let mount = try TestMount()
            let second = mount.directory.path + "/second"
            mkdir(second, 0o755)
            expectRefusal(try O3FSBinary.run("mount", mount.store, second), mount.store)
            for command in [["check"], ["kv", "scan"], ["kv", "delete"]] {
                let key = command == ["kv", "delete"] ? ["x"] : []
                let result = try O3FSBinary.run(command + [mount.store] + key)
                expectRefusal(result, mount.path)
            }
            #expect(try O3FSBinary.run("check", mount.store).status == 2)
            try Shell.script("echo still works >file; cat file", in: mount.path)
        }

        @Test func aBusyMountpoint() throws {
            let mount = try TestMount()
            let result = try Shell.run(
                ["bash", "-c", "cd '\(mount.path)' && '\(try #require(O3FSBinary.path))' umount '\(mount.path)'"])
            expectRefusal(result, mount.path)
            #expect(mount.isMounted)
            try mount.unmount()
        }

        @Test func optionsOutOfRange() throws {
            let mount = try TestMount(mounted: false)
            for (option, value) in [
                ("--dm-size", "1K"), ("--shards", "0"), ("--shards", "99"), ("--cache-size", "1"),
                ("--dm-size", "lots"),
                ("--memtable-size", "7"), ("--compression", "zip"), ("--commit-interval", "0"), ("--threads", "0"),
            ] {
                expectRefusal(try O3FSBinary.run("mount", mount.store, mount.path, option, value))
            }
            expectRefusal(try O3FSBinary.run("mount", mount.store, mount.path, "-o", "nonsense=1"), "nonsense")
            #expect(access(mount.store, F_OK) != 0)
        }

        enum Damage: String, CaseIterable, CustomTestStringConvertible {
            case truncated, emptied, flippedFirst, flippedMiddle, foreign, missing
            var testDescription: String { rawValue }

            func apply(to path: String) throws {
                let size = try fileSize(path)
                switch self {
                case .truncated: truncate(path, size / 2)
                case .emptied: truncate(path, 0)
                case .flippedFirst: try flipByte(of: path, at: 0)
                case .flippedMiddle: try flipByte(of: path, at: size / 2)
                case .foreign:
                    try Data(contentsOf: URL(fileURLWithPath: "/bin/true")).write(to: URL(fileURLWithPath: path))
                case .missing: unlink(path)
                }
            }
        }

        /// Each file of a store, damaged in each way: `check` says so, and a mount that works for all that
        /// returns no wrong data.
        @Test(.timeLimit(.minutes(10)), arguments: ["IDENTITY", "CURRENT", "MANIFEST-", "sst/"], Damage.allCases)
        func damagedFiles(kind: String, damage: Damage) throws {
            let mount = try madeStore()
            let victim = try #require(try file(kind, in: mount.store))
            try damage.apply(to: victim)

            let check = try O3FSBinary.run("check", mount.store)
            #expect(check.status <= 2, "\(check)")

            let mounted = try O3FSBinary.run(
                ["mount", mount.store, mount.path, "--dm-size", "64M", "--memtable-size", "8M"],
                timeout: 60
            )
            #expect(mounted.status < 124, "\(mounted)")
            guard mounted.status == 0 else { return expectRefusal(mounted) }
            defer { _ = try? O3FSBinary.run("umount", mount.path) }
            let compared = try Shell.run(["diff", "-r", "--no-dereference", "/usr/include/linux", mount("linux")])
            if check.status == 0 {
                // The store knew better than the file (the log still had it): then nothing may be missing.
                #expect(compared.status == 0, "\(compared)")
                #expect(try String(contentsOfFile: mount("kept"), encoding: .utf8) == "precious\n")
            }
            // Each difference is a refusal to read, not a difference of content.
            #expect(!compared.output.contains("differ"), "\(compared)")
            if compared.output.contains("Only in") {
                #expect(compared.errors.contains("Input/output error"), "\(compared)")
            }
        }

        /// Each file of a store, damaged in each way: after a repair the store is sound, and holds nothing that was not
        /// in it.
        @Test(
            .timeLimit(.minutes(10)), arguments: ["IDENTITY", "CURRENT", "MANIFEST-", "sst/"],
            [Damage.flippedMiddle, .missing])
        func damagedFilesAreRepaired(kind: String, damage: Damage) throws {
            let mount = try madeStore()
            try damage.apply(to: try #require(try file(kind, in: mount.store)))
            let repaired = try O3FSBinary.run("repair", "--yes", mount.store)
            #expect(kind == "sst/" ? repaired.status <= 1 : repaired.status == 0, "\(repaired)")
            let check = try O3FSBinary.run("check", mount.store)
            #expect(check.status == 0, "\(check)")
            try mount.mount()
            defer { try? mount.unmount() }
            let compared = try Shell.run(["diff", "-r", "--no-dereference", "/usr/include/linux", mount("linux")])
            if repaired.status == 0 {
                #expect(compared.status == 0, "\(compared)")
                #expect(try String(contentsOfFile: mount("kept"), encoding: .utf8) == "precious\n")
            }
        }

        private func file(_ kind: String, in store: String) throws -> String? {
            let slash = kind.lastIndex(of: "/")
            let directory = slash.map { store + "/" + kind[..<$0] } ?? store
            let prefix = slash.map { String(kind[kind.index(after: $0)...]) } ?? kind
            return try FileManager.default.contentsOfDirectory(atPath: directory).filter { $0.hasPrefix(prefix) }
                .sorted()
                .map { directory + "/" + $0 }.max { (try? fileSize($0)) ?? 0 < (try? fileSize($1)) ?? 0 }
        }

        /// A region that is not this store's, or not ours, is refused or rebuilt, never trusted.
        @Test(arguments: ["garbage", "zeros", "short", "other store", "other owner"])
        func strangeRegion(kind: String) throws {
            let mount = try TestMount()
            try Shell.script("echo precious >kept; sync kept", in: mount.path)
            let region = try #require(mount.region)
            try mount.killDaemon()
            let other = try TestMount()
            try Shell.script("echo wrong >kept", in: other.path)
            switch kind {
            case "garbage": try Shell.script("head -c 64M /dev/urandom | dd of='\(region)' conv=notrunc status=none")
            case "zeros": try Shell.script("head -c 64M /dev/zero | dd of='\(region)' conv=notrunc status=none")
            case "short": truncate(region, 100)
            case "other store": try Shell.script("cp '\(try #require(other.region))' '\(region)'")
            default:
                guard Machine.isRoot else { return }
                chown(region, 65534, 65534)
            }
            let result = try O3FSBinary.run(
                ["mount", mount.store, mount.path, "--dm-size", "64M", "--memtable-size", "8M"],
                timeout: 60
            )
            guard result.status == 0 else { return expectRefusal(result) }
            defer { _ = try? O3FSBinary.run("umount", mount.path) }
            #expect(try String(contentsOfFile: mount("kept"), encoding: .utf8) == "precious\n")
        }

        /// Text would garble them, and another store would be made, or looked for.
        @Test func pathsThatAreNotUTF8() throws {
            let mount = try TestMount(mounted: false)
            let binary = try #require(O3FSBinary.path)
            func run(_ command: String, in directory: String? = nil) throws -> CommandResult {
                try Shell.run(["bash", "-c", command], in: directory)
            }
            let base = mount.directory.path
            for command in ["mount '\(base)/'$'st\\xffre' '\(mount.path)'", "status $'\\xc3'", "kv put '\(mount.store)' $'\\xe9' 1"] {
                expectRefusal(try run("exec '\(binary)' \(command)"), "is not UTF-8", "\\x")
            }
            try Shell.script("mkdir $'d\\xffr'; ln -s $'d\\xffr' link", in: base)
            expectRefusal(try run("cd $'d\\xffr'; exec '\(binary)' mount store '\(mount.path)'", in: base), "is not UTF-8", "d\\xffr")
            expectRefusal(try run("exec '\(binary)' mount link/store '\(mount.path)'", in: base), "is not UTF-8", "d\\xffr")
            try Shell.script("rmdir $'d\\xffr'; ! ls -d *store*", in: base)
        }

        /// As of a disk that the kernel has stopped writing to.
        @Test(.enabled(if: Machine.canUnshare, needsNamespaces)) func aStoreThatNobodyMayWriteToCanBeChecked() throws {
            let mount = try TestMount()
            try Shell.script("seq 1000 >numbers", in: mount.path)
            try mount.unmount()
            let binary = try #require(O3FSBinary.path)
            for command in ["check", "repair"] {
                let result = try Shell.run([
                    "unshare", "-m", "--propagation", "private", "bash", "-c",
                    "mount --bind '\(mount.store)' '\(mount.path)' && mount -o remount,ro,bind '\(mount.path)' && "
                        + "! touch '\(mount.path)/x' 2>/dev/null && exec '\(binary)' \(command) '\(mount.path)'",
                ])
                #expect(result.status == 0, "\(result)")
            }
        }

        @Test(.enabled(if: Machine.canUnshare, needsNamespaces)) func sharedMemoryThatIsTooSmall() throws {
            let mount = try TestMount(mounted: false)
            let binary = try #require(O3FSBinary.path)
            let result = try Shell.run([
                "unshare", "-m", "--propagation", "private", "bash", "-c",
                "mount -t tmpfs -o size=20m none /dev/shm && exec '\(binary)' mount '\(mount.store)' '\(mount.path)' --dm-size 256M",
            ])
            expectRefusal(result, "268435456")
            // With the default size, what there is is used, or too little is said.
            let byDefault = try Shell.run([
                "unshare", "-m", "--propagation", "private", "bash", "-c",
                "mount -t tmpfs -o size=2m none /dev/shm && exec '\(binary)' mount '\(mount.store)' '\(mount.path)'",
            ])
            expectRefusal(byDefault)
        }
    }
}
