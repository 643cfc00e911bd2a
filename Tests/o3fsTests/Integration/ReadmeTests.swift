import Foundation
import Testing

extension MountTests {
    /// What README.md tells people to type works as it stands there.
    @Suite struct Readme {
        @Test(.timeLimit(.minutes(3))) func theCommandsOfTheReadmeWork() throws {
            try runCommands(of: "/README.md")
        }

        @Test(.timeLimit(.minutes(3))) func theCommandsOfTheBackupGuideWork() throws {
            try runCommands(of: "/docs/backup.md")
        }

        @Test(.timeLimit(.minutes(3))) func theCommandsOfTheRepairGuideWork() throws {
            try runCommands(of: "/docs/repair.md")
        }

        /// Runs the block of commands that is marked as tested, in a home of its own.
        private func runCommands(of document: String) throws {
            let text = try String(contentsOfFile: O3FSBinary.packageRoot + document, encoding: .utf8)
            let marked = try #require(text.range(of: "<!-- tested"))
            let start = try #require(text.range(of: "```sh\n", range: marked.upperBound..<text.endIndex))
            let end = try #require(text.range(of: "```", range: start.upperBound..<text.endIndex))
            let commands = text[start.upperBound..<end.lowerBound]
            #expect(commands.split(separator: "\n").count > 8)

            let home = try TemporaryDirectory("home")
            try Shell.script(
                "mkdir bin; ln -s '\(try #require(O3FSBinary.path))' bin/o3fs", in: home.path)
            let path = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin"
            try Shell.script(
                "trap 'umount -l ~/o3fs ~/mnt ~/old 2>/dev/null || true' EXIT\n" + commands, in: home.path,
                environment: ["HOME": home.path, "PATH": home.path + "/bin:" + path])
        }

        /// Each row of the durability table names a test that is there.
        @Test func theDurabilityTableNamesItsTests() throws {
            let root = O3FSBinary.packageRoot
            let readme = try String(contentsOfFile: root + "/README.md", encoding: .utf8)
            let tests = try String(
                contentsOfFile: root + "/Tests/o3fsTests/Integration/DurabilityContractTests.swift", encoding: .utf8)
            let rows = readme.split(separator: "\n").drop { !$0.hasPrefix("## What is promised") }
                .filter { $0.hasPrefix("| ") && $0.contains("`") }.prefix(6)
            #expect(rows.count == 6)
            for row in rows {
                let name = try #require(row.split(separator: "`").dropLast().last)
                #expect(tests.contains("func \(name)("), "no test is called \(name)")
            }
        }
    }
}
