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
        while Date() < end {
            var words = [Self.programs[below(2) == 0 ? 0 : below(Self.programs.count)]]
            if below(8) > 0 { words.append(Self.commands[below(Self.commands.count)]) }
            for _ in 0..<below(8) {
                words.append(below(2) == 0 ? Self.flags[below(Self.flags.count)] : Self.values[below(Self.values.count)])
            }
            executions += 1
            do {
                var command = try O3FS.parseAsRoot(MountArguments.rewrite(words))
                _ = withUnsafePointer(to: &command) { $0 }
            } catch {
                refused += 1
                #expect(!O3FS.fullMessage(for: error).isEmpty || O3FS.exitCode(for: error) == .success, "seed \(seed): \(words)")
            }
            // What of it are mount options.
            _ = try? MountOptions(words, store: "/s")
        }
        print("FuzzTests: command lines, seed \(seed): \(executions) executions, \(refused) refused")
        #expect(refused > 0 && refused < executions)
    }
}
