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

        /// A damaged block is named by scrub and by status, with a way out; what lies elsewhere can still be read.
        @Test func damageIsToldWithAWayOut() throws {
            let mount = try TestMount()
            try Shell.script("head -c 20M /dev/urandom >damaged; echo fine >fine; sync fine", in: mount.path)
            try O3FSBinary.succeed("compact", mount.path)
            #expect((try O3FSBinary.json("status", mount.path, "--json")["troubles"] as? [Any])?.isEmpty == true)
            let sound = try O3FSBinary.json("scrub", mount.path, "--rate", "0", "--json")
            #expect((sound["problems"] as? [Any])?.isEmpty == true && sound["state"] as? String == "done")
            let table = try Shell.script("ls -S '\(mount.store)/sst' | head -1").lines[0]
            try flipByte(of: "\(mount.store)/sst/\(table)", at: 100_000)
            let found = try O3FSBinary.run("scrub", mount.path)
            #expect(found.status == 1 && found.output.contains(table), "\(found)")
            try Shell.script("echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true")
            let read = try Shell.run(["cat", mount("damaged")])
            #expect(read.status != 0 && read.errors.contains("Input/output error"), "\(read.errors)")
            #expect(try String(contentsOfFile: mount("fine"), encoding: .utf8) == "fine\n")
            let status = try O3FSBinary.json("status", mount.path, "--json")
            let troubles = try #require(status["troubles"] as? [[String: Any]])
            #expect(troubles.contains { ($0["what"] as? String ?? "").contains(table) }, "\(troubles)")
            #expect(troubles.allSatisfy { ($0["way_out"] as? String ?? "").count > 10 })
            let text = try O3FSBinary.succeed("status", mount.path).output
            #expect(text.contains("way out") && text.contains("scrub"))
            try mount.unmount()
            let offline = try O3FSBinary.run("scrub", mount.store)
            #expect(offline.status == 1 && offline.output.contains(table), "\(offline)")
        }

        /// With --scrub-rate a mount scrubs by itself.
        @Test func aMountScrubsItself() throws {
            let mount = try TestMount(options: ["--scrub-rate", "100M"])
            try waitFor("a scrub") {
                (try O3FSBinary.json("status", mount.path, "--json")["scrub"] as? [String: Any])?["state"] as? String == "done"
            }
        }

        /// A full store says so, and what to do.
        @Test func aFullStoreSaysSo() throws {
            let mount = try TestMount(options: ["--max-size", "1M", "--max-inodes", "3"])
            _ = try Shell.run(["bash", "-c", "cd '\(mount.path)'; head -c 2M /dev/zero | tr '\\0' x >big; touch a; touch b"])
            let troubles = try #require(try O3FSBinary.json("status", mount.path, "--json")["troubles"] as? [[String: Any]])
            let sentences = troubles.compactMap { $0["what"] as? String }
            #expect(sentences.contains("there is no space left for data"), "\(sentences)")
            #expect(sentences.contains { $0.contains("--max-inodes") }, "\(sentences)")
        }

        @Test(.timeLimit(.minutes(3))) func compactionGivesSpaceBack() throws {
            let mount = try TestMount()
            try Shell.script(
                "head -c 40M /dev/urandom >big; rm big; head -c 40M /dev/urandom >big; rm big; echo kept >kept",
                in: mount.path
            )
            try O3FSBinary.succeed("compact", mount.path)
            // Files are deleted once their last reader is gone, and under the eyes of du, which then ends with status 1.
            try waitFor("tables to be deleted", seconds: 20) {
                let size = try Shell.script("{ du -sm '\(mount.store)/sst' || true; } | cut -f1")
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
