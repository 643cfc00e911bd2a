import Foundation
import Testing

extension MountTests {
    /// What the commands say of a store that is mounted.
    @Suite struct Commands {
        @Test func statusAndStatisticsAnswerWhileMounted() throws {
            let mount = try TestMount()
            try Shell.script("cp -r /usr/include/linux .; ls -lR linux >/dev/null", in: mount.path)
            for argument in [mount.path, mount.store] {
                let status = try O3FSBinary.json("status", argument, "--json")
                #expect(status["state"] as? String == "mounted")
                #expect(status["store"] as? String == mount.store)
                #expect(status["mountpoint"] as? String == mount.path)
                #expect((status["daemon"] as? [String: Any])?["pid"] is Int)
                #expect(status["workers"] is [Any])
                let statistics = try O3FSBinary.json("stats", argument, "--json")
                #expect(statistics["writes"] as? Int ?? 0 > 100)
                let fuse = try #require(statistics["fuse"] as? [String: [String: Any]])
                #expect(fuse.values.contains { $0["count"] as? Int ?? 0 > 100 }, "\(fuse)")
            }
            #expect(try O3FSBinary.succeed("status", mount.path).output.contains(mount.store))
            #expect(try O3FSBinary.succeed("stats", mount.path).output.contains("operations of the mount"))
        }

        @Test(.timeLimit(.minutes(3))) func compactionGivesSpaceBack() throws {
            let mount = try TestMount()
            try Shell.script(
                "head -c 40M /dev/urandom >big; rm big; head -c 40M /dev/urandom >big; rm big; echo kept >kept",
                in: mount.path
            )
            try O3FSBinary.succeed("compact", mount.path)
            // Files are deleted once their last reader is gone.
            try waitFor("tables to be deleted", seconds: 20) {
                let size = try Shell.script("du -sm '\(mount.store)/sst' | cut -f1")
                return Int(size.lines.first ?? "") ?? 99 < 8
            }
            #expect(try String(contentsOfFile: mount("kept"), encoding: .utf8) == "kept\n")
        }

        @Test func filesShowAsKeys() throws {
            let mount = try TestMount()
            try Shell.script(
                "mkdir -p a; seq 3000 >a/b; setfattr -n user.note -v hello a/b; ln -s b a/link",
                in: mount.path
            )
            try mount.unmount()
            let rows = try O3FSBinary.succeed("kv", "scan", mount.store, "--path", "/a/b").output
            for word in ["dentry", "\"b\"", "inode", "xattr", "user.note", "data", "block 0"] {
                #expect(rows.contains(word), "no \(word) in \(rows)")
            }
            #expect(try O3FSBinary.succeed("kv", "scan", mount.store, "--path", "/a").output.contains("\"link\""))
            let all = try O3FSBinary.succeed("kv", "scan", mount.store).lines
            #expect(all.contains { $0.hasPrefix("superblock") })
            // What scan prints, get takes.
            let key = try #require(all.first { $0.hasPrefix("inode 2\t") }).split(separator: "\t")
            let described = try O3FSBinary.succeed("kv", "get", mount.store, String(key[0]), "--hex").output
            let raw = try O3FSBinary.succeed("kv", "get", mount.store, "--raw", String(key[2])).output
            #expect(!described.isEmpty && !raw.isEmpty)
            let nothing = try O3FSBinary.run("kv", "scan", mount.store, "--path", "/a/nothing")
            #expect(nothing.status == 1 && nothing.errors.contains("/a/nothing"), "\(nothing)")
            #expect(try O3FSBinary.run("check", mount.store).status == 0)
            try mount.mount()
            #expect(try Shell.script("cat a/b", in: mount.path).lines.count == 3000)
        }

        @Test func aDeadDaemonIsSaidToBeDead() throws {
            let mount = try TestMount(options: ["--no-survive"])
            let daemon = try mount.daemonProcess()
            try Shell.script("kill -9 \(daemon); sleep 0.5")
            for command in ["status", "stats"] {
                let result = try O3FSBinary.run(command, mount.path)
                if result.status == 0 {
                    #expect(!result.output.contains("\(daemon)"), "\(result)")
                } else {
                    #expect(result.errors.contains("dead"), "\(result)")
                }
            }
            try mount.killDaemon()
            try mount.mount()
            #expect(mount.isMounted)
        }
    }
}
