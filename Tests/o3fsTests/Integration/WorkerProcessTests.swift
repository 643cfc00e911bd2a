import Foundation
import Glibc
import Testing

extension MountTests {
    /// Processes that flush and compact for a mount, and what becomes of it when they die.
    @Suite struct WorkerProcesses {
        private static func workers(_ mount: TestMount) throws -> [Int32] {
            let status = try O3FSBinary.json("status", mount.store, "--json")
            let workers = try #require(status["workers"] as? [[String: Any]])
            return workers.compactMap { ($0["pid"] as? Int).map(Int32.init) }
        }

        private static func jobs(_ mount: TestMount, _ kind: String, _ field: String) throws -> Int {
            let work = try O3FSBinary.json("stats", mount.store, "--json")[kind] as? [String: Any]
            return try #require(work?[field] as? Int)
        }

        private static func waitForWorkers(_ mount: TestMount, _ count: Int) throws {
            try waitFor("\(count) workers", seconds: 20) { try workers(mount).count == count }
        }

        /// A file of pseudo-random bytes, and its checksum.
        private static func write(_ name: String, megabytes: Int, _ mount: TestMount) throws -> String {
            let result = try Shell.script(
                "head -c \(megabytes)M /dev/urandom | tee \(name) | sha256sum | cut -d' ' -f1", in: mount.path)
            return String(result.lines[0])
        }

        private static func expect(_ name: String, _ sum: String, _ mount: TestMount) throws {
            #expect(try Shell.script("sha256sum <\(name) | cut -d' ' -f1", in: mount.path).lines[0] == sum)
        }

        /// Both reports tell who did what, and what memory holds; the sums are right.
        private static func expectAccounts(_ mount: TestMount, workers: [Int32]) throws {
            // Nothing moves: two looks at it are the same.
            try waitFor("the jobs to end", seconds: 30) {
                let status = try O3FSBinary.json("status", mount.store, "--json")
                let again = try O3FSBinary.json("stats", mount.store, "--json")
                return (status["jobs"] as? [Any])?.isEmpty == true && (again["jobs"] as? [Any])?.isEmpty == true
            }
            let report = try O3FSBinary.json("stats", mount.store, "--json")
            let executors = try #require(report["executors"] as? [[String: Any]])
            for kind in ["flush", "compaction"] {
                let work = try #require(report[kind] as? [String: Any])
                func sum(_ field: String) -> Int {
                    executors.reduce(0) { $0 + (($1[kind] as? [String: Any])?[field] as? Int ?? 0) }
                }
                let local = try #require(work["local_jobs"] as? Int)
                let offloaded = try #require(work["offloaded_jobs"] as? Int)
                #expect(sum("jobs") == local + offloaded)
                for field in ["bytes_read", "bytes_written"] { #expect(sum(field) == work[field] as? Int, "\(field)") }
            }
            let pids = executors.filter { $0["role"] as? String == "worker" }.compactMap { $0["pid"] as? Int }
            #expect(!pids.isEmpty && Set(pids).isSubset(of: Set(workers.map(Int.init))))

            let memory = try #require(report["dm"] as? [String: Any])
            let memtables = try #require(memory["memtables"] as? [[String: Any]])
            var slabs = memory["slabs_on_the_way"] as? Int ?? 0
            for memtable in memtables where memtable["place"] as? String == "dm" {
                let shards = try #require(memtable["shards"] as? [[String: Any]])
                let inShards = shards.reduce(0) { $0 + ($1["slabs"] as? Int ?? 0) }
                #expect(memtable["slabs"] as? Int == inShards + (memtable["filter_slabs"] as? Int ?? 0))
                #expect(memtable["entries"] as? Int == shards.reduce(0) { $0 + ($1["entries"] as? Int ?? 0) })
                slabs += memtable["slabs"] as? Int ?? 0
            }
            #expect(slabs == (memory["slabs"] as? Int ?? 0) - (memory["free_slabs"] as? Int ?? 0))

            let status = try O3FSBinary.json("status", mount.store, "--json")
            #expect((status["executors"] as? [Any])?.count == executors.count)
            #expect((status["stalls"] as? [String: Any])?["dm_full"] != nil)
            #expect((status["owner"] as? [String: Any])?["busy_share"] is Double)
            for command in ["status", "stats"] {
                let text = try O3FSBinary.succeed(command, mount.store).output
                for title in ["nodes", "jobs in flight", "work by executor", "stalls of writers", "disaggregated memory"] {
                    #expect(text.contains("\n\(title)\n"), "\(title) in \(command)")
                }
                for pid in workers { #expect(text.contains("\(pid)")) }
            }
        }

        @Test(.timeLimit(.minutes(3))) func workersDoTheWorkAndGoWithTheMount() throws {
            let mount = try TestMount(options: ["--workers", "2"])
            try Self.waitForWorkers(mount, 2)
            let sum = try Self.write("data", megabytes: 150, mount)
            #expect(try Self.jobs(mount, "flush", "offloaded_jobs") > 0)
            #expect(try Self.jobs(mount, "flush", "local_jobs") == 0)
            let pids = try Self.workers(mount)
            try Self.expectAccounts(mount, workers: pids)
            try Self.expect("data", sum, mount)
            try mount.unmount()
            for pid in pids { #expect(TestMount.hasEnded(pid), "worker \(pid) outlived its mount") }
        }

        /// What `o3fs status` says of a trouble.
        private static func trouble(_ words: String, _ mount: TestMount) throws -> [String: Any]? {
            let troubles = try O3FSBinary.json("status", mount.path, "--json")["troubles"] as? [[String: Any]]
            return troubles?.first { "\($0["what"] ?? "")".contains(words) }
        }

        @Test(.timeLimit(.minutes(3))) func aWorkerThatDiesIsReplacedAndNothingIsLost() throws {
            let mount = try TestMount(options: ["--workers", "1"])
            try Self.waitForWorkers(mount, 1)
            var sums: [String] = []
            for round in 0..<4 {
                let victim = try #require(try Self.workers(mount).first)
                let killer = Thread {
                    usleep(150_000)
                    kill(victim, SIGKILL)
                }
                killer.start()
                sums.append(try Self.write("data\(round)", megabytes: 40, mount))
                try waitFor("another worker", seconds: 20) {
                    try Self.workers(mount).first.map { $0 != victim } ?? false
                }
            }
            for (round, sum) in sums.enumerated() { try Self.expect("data\(round)", sum, mount) }
            let trouble = try #require(try Self.trouble("died", mount))
            #expect(trouble["count"] as? Int == 4)
            #expect("\(trouble["what"] ?? "")".contains("signal 9; 1 of 1 run now"))
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        @Test(.timeLimit(.minutes(3))) func aWorkerThatHangsLosesItsLease() throws {
            let mount = try TestMount(options: ["--workers", "1"])
            try Self.waitForWorkers(mount, 1)
            let victim = try #require(try Self.workers(mount).first)
            kill(victim, SIGSTOP)
            defer { kill(victim, SIGCONT) }
            // More than the region holds: writers cannot go on unless somebody else flushes.
            let sum = try Self.write("data", megabytes: 120, mount)
            #expect(try Self.jobs(mount, "flush", "local_jobs") > 0)
            try waitFor("a word of the worker's silence", seconds: 20) {
                try Self.trouble("worker \(victim) has given no sign of life", mount) != nil
            }
            kill(victim, SIGCONT)
            try waitFor("its sign of life", seconds: 20) { try Self.trouble("no sign of life", mount) == nil }
            try Self.expect("data", sum, mount)
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        @Test(.timeLimit(.minutes(3))) func theDaemonsDeathTakesItsWorkersAlong() throws {
            let mount = try TestMount(options: ["--workers", "2"])
            try Self.waitForWorkers(mount, 2)
            let pids = try Self.workers(mount)
            let sum = try Self.write("data", megabytes: 100, mount)
            try mount.killDaemon()
            try waitFor("the workers to go", seconds: 20) { pids.allSatisfy(TestMount.hasEnded) }
            try mount.mount()
            try Self.expect("data", sum, mount)
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        /// A stopped process hears no signal but one.
        @Test(.timeLimit(.minutes(2)), arguments: [true, false])
        func aStoppedWorkerGoesWithItsMount(inOrder: Bool) throws {
            let mount = try TestMount(options: ["--workers", "2"])
            try Self.waitForWorkers(mount, 2)
            let pids = try Self.workers(mount)
            kill(pids[0], SIGSTOP)
            defer { kill(pids[0], SIGCONT) }
            let sum = try Self.write("data", megabytes: 20, mount)
            if inOrder { try mount.unmount() } else { try mount.killDaemon() }
            try waitFor("the workers to go", seconds: 20) { pids.allSatisfy(TestMount.hasEnded) }
            try mount.mount()
            try Self.expect("data", sum, mount)
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        /// A worker that was started by hand, before there was a mount, serves one mount after the other.
        @Test(.timeLimit(.minutes(3))) func aWorkerByHandServesEveryMount() throws {
            let mount = try TestMount(options: ["--workers", "0"])
            let worker = Process()
            worker.executableURL = URL(fileURLWithPath: try #require(O3FSBinary.path))
            worker.arguments = ["worker", mount.store, "--threads", "2", "--nice", "5"]
            try worker.run()
            defer { worker.terminate() }
            for life in 0..<2 {
                try waitFor("the worker", seconds: 20) { try Self.workers(mount) == [worker.processIdentifier] }
                usleep(300_000)
                let sum = try Self.write("data\(life)", megabytes: 60, mount)
                #expect(try Self.jobs(mount, "flush", "offloaded_jobs") > 0)
                try Self.expect("data\(life)", sum, mount)
                try mount.unmount()
                try mount.mount()
            }
            try mount.unmount()
            worker.terminate()
            worker.waitUntilExit()
            #expect(worker.terminationStatus == 0)
        }

        @Test func badOptionsAreOneSentence() throws {
            let mount = try TestMount()
            for arguments in [
                ["worker", "/nowhere"], ["worker", mount.store, "--roles", "sleep"], ["worker", mount.store, "--threads", "0"],
                ["worker", mount.store, "--cpus", "x"], ["worker", mount.store, "--nice", "99"],
            ] {
                let result = try O3FSBinary.run(arguments)
                #expect(result.status != 0 && !result.errors.isEmpty, "\(arguments): \(result)")
            }
        }
    }
}
