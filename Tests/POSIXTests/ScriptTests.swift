import Foundation
import Testing

/// Scripts of system calls, which O3FS must answer as the machine's own file system does: the same results and errors,
/// in the same order, with the same effects on modes, owners, link counts, sizes, times and contents.
@Suite(.serialized, .enabled(if: Programs.canCompare, "needs root, /dev/fuse and an o3fs binary"))
struct ScriptTests {
    static let scripts: [String] = {
        let directory = Programs.packageRoot + "/Tests/POSIXTests/Scripts"
        let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        return names.filter { $0.hasSuffix(".txt") }.sorted().map { directory + "/" + $0 }
    }()

    @Test(arguments: scripts) func isAnsweredAsByTheOracle(script: String) throws {
        let mount = try ComparedMount()
        let (subject, oracle) = try mount.printouts(of: script)
        let expected = try Self.differences(of: script)
        #expect(subject.count == oracle.count)
        #expect(subject.count > 10)
        for (mine, theirs) in zip(subject, oracle) where mine != theirs {
            let step = Int(mine.prefix { $0.isNumber }) ?? 0
            #expect(expected.contains(step), "o3fs:   \(mine)\noracle: \(theirs)")
        }
    }

    /// What random sequences of calls find; a sequence that differs is reduced and printed by the tool.
    @Test(arguments: [1, 2, 3]) func randomCallsAreAnsweredAsByTheOracle(seed: Int) throws {
        let mount = try ComparedMount()
        let operations = ProcessInfo.processInfo.environment["O3FS_POSIX_OPERATIONS"] ?? "1000"
        try Programs.run(
            "/usr/bin/env",
            ["python3", Programs.packageRoot + "/tools/soak/posix.py", Programs.probe, mount.subject, mount.oracle,
             "--operations", operations, "--seed", "\(seed * 1000)"])
    }

    /// The same while the daemon is killed again and again.
    @Test func randomCallsSurviveTheDaemon() throws {
        let mount = try ComparedMount(survives: true)
        try Programs.run(
            "/usr/bin/env",
            ["python3", Programs.packageRoot + "/tools/soak/posix.py", Programs.probe, mount.subject, mount.oracle,
             "--operations", "4000", "--jobs", "5", "--seed", "9000", "--kill", try #require(Programs.o3fs)])
    }

    /// Lines after `#differs: REASON`: their answers may differ, for a reason that docs/posix.md gives.
    private static func differences(of script: String) throws -> Set<Int> {
        let lines = try String(decoding: Data(contentsOf: URL(fileURLWithPath: script)), as: UTF8.self)
            .split(separator: "\n", omittingEmptySubsequences: false)
        return Set(lines.indices.filter { $0 > 0 && lines[$0 - 1].hasPrefix("#differs:") }.map { $0 + 1 })
    }
}
