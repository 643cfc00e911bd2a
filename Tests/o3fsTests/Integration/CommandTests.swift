import Foundation
import Testing

/// The commands that need no mount, as scripts use them.
@Suite(.enabled(if: O3FSBinary.path != nil, needsBinary))
struct CommandTests {
    /// A store with three keys.
    private func smallStore() throws -> (TemporaryDirectory, String) {
        let directory = try TemporaryDirectory("kv")
        let store = directory.path + "/store"
        for (key, value) in [("a", "first"), ("b\\x00c", "line\\nend"), ("ccc", "")] {
            try O3FSBinary.succeed("kv", "put", store, key, value)
        }
        return (directory, store)
    }

    @Test(arguments: [
        [], ["mount"], ["umount"], ["status"], ["stats"], ["kv"], ["kv", "get"], ["kv", "put"], ["kv", "delete"],
        ["kv", "scan"], ["compact"], ["snapshot"], ["snapshot", "create"], ["snapshot", "list"], ["snapshot", "delete"], ["export"], ["import"], ["scrub"],
        ["check"], ["repair"], ["bench"],
    ])
    func eachCommandHelps(command: [String]) throws {
        let result = try O3FSBinary.run(command + ["--help"])
        #expect(result.status == 0)
        #expect(result.output.contains((["USAGE: o3fs"] + command).joined(separator: " ")), "\(result)")
    }

    @Test func keysAreReadAndWritten() throws {
        let (directory, store) = try smallStore()
        defer { withExtendedLifetime(directory) {} }
        #expect(try O3FSBinary.succeed("kv", "get", store, "a").output == "first")
        #expect(try O3FSBinary.succeed("kv", "get", store, "b\\x00c").output == "line\nend")
        #expect(try O3FSBinary.succeed("kv", "get", store, "--hex", "620063").output == "6c696e650a656e64\n")
        #expect(try O3FSBinary.succeed("kv", "scan", store).output == "5 B\ta\n8 B\tb\\x00c\n0 B\tccc\n")
        #expect(
            try O3FSBinary.succeed("kv", "scan", store, "--from", "b", "--to", "ccc", "--values").output
                == "8 B\tb\\x00c\tline\\x0aend\n"
        )
        #expect(try O3FSBinary.succeed("kv", "scan", store, "--limit", "1", "--hex").output == "5 B\t61\n")
        try O3FSBinary.succeed("kv", "delete", store, "a")
        let missing = try O3FSBinary.run("kv", "get", store, "a")
        #expect(missing.status == 1 && missing.output.isEmpty && missing.errors.contains("no key a"), "\(missing)")
        let lines = try O3FSBinary.succeed("kv", "scan", store, "--json").lines
        #expect(lines.count == 2)
        let first = try JSONSerialization.jsonObject(with: Data(lines[0].utf8)) as? [String: Any]
        #expect(first?["key"] as? String == "b\\x00c")
        #expect(first?["bytes"] as? Int == 8)
    }

    @Test func checkTellsByItsStatus() throws {
        let (directory, store) = try smallStore()
        #expect(try O3FSBinary.run("check", store).status == 0)
        let report = try O3FSBinary.json("check", store, "--json")
        #expect(report["clean"] as? Bool == true)
        #expect((report["problems"] as? [Any])?.isEmpty == true)
        #expect(try O3FSBinary.run("check", directory.path + "/nothing").status == 2)

        try O3FSBinary.succeed("compact", store)
        let tables = try FileManager.default.contentsOfDirectory(atPath: store + "/sst")
        let table = store + "/sst/" + (try #require(tables.first))
        try flipByte(of: table, at: try fileSize(table) / 3)
        #expect(try O3FSBinary.run("check", store).status == 1)
        let damaged = try O3FSBinary.json("check", store, "--json")
        #expect(damaged["clean"] as? Bool == false)
        #expect((damaged["problems"] as? [Any])?.isEmpty == false)
    }

    @Test func unmountedStoresHaveStatusAndStatistics() throws {
        let (directory, store) = try smallStore()
        defer { withExtendedLifetime(directory) {} }
        let status = try O3FSBinary.json("status", store, "--json")
        #expect(status["state"] as? String == "unmounted")
        #expect(status["store"] as? String == store)
        #expect(status["workers"] as? [String] == [])
        let statistics = try O3FSBinary.json("stats", store, "--json")
        for work in ["flush", "compaction"] {
            let counters = try #require(statistics[work] as? [String: Any])
            #expect(counters["local_jobs"] is Int && counters["offloaded_jobs"] is Int)
        }
        for command in ["status", "stats"] {
            #expect(try O3FSBinary.succeed(command, store).output.contains("levels"))
        }
    }

    @Test func benchPrintsOneObjectALine() throws {
        let directory = try TemporaryDirectory("bench")
        let all = [
            "fillseq", "fillrandom", "overwrite", "readrandom", "readmissing", "readseq", "seekrandom",
            "readwhilewriting", "deleterandom", "fillsync", "readreverse", "multireadrandom", "ycsbload", "ycsba",
            "ycsbb", "ycsbc", "ycsbd", "ycsbe", "ycsbf",
        ]
        let reading = Set(all).subtracting([
            "fillseq", "fillrandom", "overwrite", "deleterandom", "fillsync", "ycsbload",
        ])
        let result = try O3FSBinary.run(
            [
                "bench", directory.path + "/store", "--benchmarks", all.joined(separator: ","), "--num", "5000",
                "--value-size", "100", "--threads", "2", "--dm-size", "16M", "--memtable-size", "1M", "--json",
            ])
        #expect(result.status == 0, "\(result)")
        #expect(result.lines.count == all.count)
        for (line, name) in zip(result.lines, all) {
            let object = try #require(
                try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
            )
            #expect(object["name"] as? String == name)
            #expect(
                Set(object.keys)
                    == Set([
                        "name", "operations", "ops_per_second", "mb_per_second", "p50_us", "p99_us", "p999_us",
                        "stall_seconds", "write_amplification",
                    ])
                    .union(reading.contains(name) ? ["reads", "found"] : [])
                    .union(name == "ycsbe" ? ["entries"] : [])
                    .union(name == "readwhilewriting" ? ["background_writes"] : [])
            )
            #expect((object["ops_per_second"] as? Double ?? 0) > 0)
            let percentiles = ["p50_us", "p99_us", "p999_us"].map { object[$0] as? Double ?? -1 }
            #expect(percentiles == percentiles.sorted() && percentiles[0] >= 0)
        }
    }

    /// With a worker that serves reads, as tools/bench/delegation-cost.sh runs it.
    @Test func benchComparesDelegation() throws {
        let directory = try TemporaryDirectory("bench")
        let arguments = [
            "bench", directory.path + "/store", "--benchmarks", "fillrandom,readrandom", "--num", "20000", "--dm-size", "64M",
            "--memtable-size", "1M", "--storage-bandwidth", "10K", "--compare-delegation", "--json",
        ]
        let refused = try O3FSBinary.run(arguments)
        #expect(refused.status != 0 && refused.errors.contains("--compare-delegation needs"), "\(refused)")
        let result = try O3FSBinary.run(arguments + ["--read-delegation", "auto", "--reads", "2000000"])
        #expect(result.status == 0, "\(result)")
        let objects = try result.lines.map {
            try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
        }
        #expect(objects.count == 2 && objects[0]["delegation"] == nil)
        let found = try #require(objects[1]["delegation"] as? [String: Double])
        #expect(Set(found.keys) == ["pairs", "ratio", "margin"])
        #expect((found["ratio"] ?? 0) > 0 && (found["pairs"] ?? 0) >= 32, "\(found)")
    }

    @Test func benchDeletesNothingThatIsNotItsOwn() throws {
        let directory = try TemporaryDirectory("bench")
        try Data("precious".utf8).write(to: URL(fileURLWithPath: directory.path + "/file"))
        let refused = try O3FSBinary.run("bench", directory.path, "--num", "10", "--benchmarks", "fillseq")
        #expect(refused.status != 0 && refused.errors.contains("not made by o3fs bench"), "\(refused)")
        #expect(FileManager.default.fileExists(atPath: directory.path + "/file"))

        let (other, store) = try smallStore()
        defer { withExtendedLifetime(other) {} }
        #expect(try O3FSBinary.run("bench", store, "--num", "10", "--benchmarks", "fillseq").status != 0)
        let kept = try O3FSBinary.run(
            "bench",
            store,
            "--use-existing-db",
            "--num",
            "10",
            "--benchmarks",
            "fillseq,readrandom"
        )
        #expect(kept.status == 0, "\(kept)")
        #expect(try O3FSBinary.succeed("kv", "get", store, "a").output == "first")
    }
}
