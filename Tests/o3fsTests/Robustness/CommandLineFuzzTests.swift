import ArgumentParser
import Foundation
import Testing

@testable import o3fs

/// Command lines of words that the program knows and words that nobody does: each is understood or refused with a
/// sentence; nothing is run.
///
/// O3LSM_FUZZ_SECONDS and O3LSM_FUZZ_SEED as in FuzzTests.
@Suite struct CommandLineFuzzTests {
    private static func environment(_ name: String) -> UInt64? {
        ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
    }

    private static let programs = ["o3fs", "/sbin/mount.o3fs", "mount.fuse.o3fs", "", "/"]
    private static let commands = O3FS.configuration.subcommands.map { $0._commandName }
    private static let flags = [
        "--help", "--version", "--json", "--dm-size", "--memtable-size", "--workers", "--survive", "--no-survive", "--threads",
        "--read-delegation", "--offset-cache", "--max-size", "--max-inodes", "--dm-latency", "--storage-latency",
        "--storage-bandwidth", "--dry-run", "--since", "--role", "--num", "--benchmarks", "--value-size", "--compression", "-o", "-f",
        "-s", "-t", "--", "-", "---", "--=", "--dm-size=", "-oro", "-o,", "create", "list", "delete",
    ]
    private static let values = [
        "0", "1", "-1", "64M", "1G", "999999999999999999999999", "1e400", "nan", "inf", "-0", "0x10", "", " ", "/", "/store", "/mnt",
        "relative", "a,b", "ro,dm-size=64M", "uid=", "uid=-1", "uid=4294967296", "dm-size=", "=", ",,,", "\\", "\\,", "ü", "\u{0}", "%s%n",
        "off", "on", "auto", "lz4", "none", "fillrandom,readrandom", String(repeating: "x", count: 3000),
    ]

    /// Tried even if a busy machine gives the time to others.
    private static let leastExecutions = 50

    /// Lines that are understood as they are, so that what is nearly right is tried too.
    private static let understood = [
        ["o3fs", "mount", "/store", "/mnt", "--dm-size", "64M", "--workers", "2"],
        ["/sbin/mount.o3fs", "/store", "/mnt", "-o", "ro,dm-size=64M"],
        ["o3fs", "status", "/store", "--json"],
        ["o3fs", "check", "/store"],
        ["o3fs", "repair", "/store", "--json"],
        ["o3fs", "snapshot", "create", "/store", "name"],
        ["o3fs", "bench", "--benchmarks", "fillrandom,readrandom", "--num", "1"],
    ]

    /// What the program makes of `words`: true if it understands them, false if it refuses them.
    private static func parse(_ words: [String], _ seed: UInt64) -> Bool {
        do {
            var command = try O3FS.parseAsRoot(MountArguments.rewrite(words))
            withUnsafePointer(to: &command) { _ in }
            return true
        } catch {
            #expect(!O3FS.fullMessage(for: error).isEmpty || O3FS.exitCode(for: error) == .success, "seed \(seed): \(words)")
            return false
        }
    }

    @Test(arguments: understood) func aLineOfTheCorpusIsUnderstood(words: [String]) {
        #expect(Self.parse(words, 0))
    }

    @Test func commandLines() {
        let seconds = Self.environment("O3LSM_FUZZ_SECONDS") ?? 1
        let seed = Self.environment("O3LSM_FUZZ_SEED") ?? .random(in: 1...1_000_000)
        var state = seed
        func below(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % bound
        }
        let end = Date().addingTimeInterval(Double(seconds))
        var (executions, refused) = (0, 0)
        while Date() < end || executions < Self.leastExecutions {
            var words: [String]
            if below(2) == 0 {
                words = Self.understood[below(Self.understood.count)]
            } else {
                words = [Self.programs[below(2) == 0 ? 0 : below(Self.programs.count)]]
                if below(8) > 0 { words.append(Self.commands[below(Self.commands.count)]) }
            }
            for _ in 0..<below(8) {
                let word = below(2) == 0 ? Self.flags[below(Self.flags.count)] : Self.values[below(Self.values.count)]
                switch below(4) {
                case 0: words[below(words.count)] = word
                case 1: words.insert(word, at: 1 + below(words.count))
                default: words.append(word)
                }
            }
            executions += 1
            if !Self.parse(words, seed) { refused += 1 }
            // What of it are mount options.
            _ = try? MountOptions(words, store: "/s")
        }
        print("FuzzTests: command lines, seed \(seed): \(executions) executions, \(refused) refused")
        #expect(refused > 0 && refused < executions)
    }
}
