import Foundation
import Testing

extension MountTests {
    /// Mounts as users make them: the program itself, run as they run it.
    @Suite(.serialized, .enabled(if: Mount.isPossible)) struct MountLifecycleTests {
        @Test func whatIsWrittenIsThereAfterRemounting() throws {
            let mount = try Mount()
            #expect(try mount.start().error.contains("made a new store"))
            try "hello".write(toFile: mount["file"], atomically: true, encoding: .utf8)
            try FileManager.default.createDirectory(atPath: mount["dir"], withIntermediateDirectories: false)
            #expect(try mount.end().status == 0)
            #expect(!FileManager.default.fileExists(atPath: mount["file"]))
            let again = try mount.start()
            #expect(again.status == 0 && again.error.isEmpty)
            #expect(again.output == "\(mount.store) is mounted at \(mount.point)\n")
            #expect(try String(contentsOfFile: mount["file"], encoding: .utf8) == "hello")
            #expect(try FileManager.default.contentsOfDirectory(atPath: mount.point).sorted() == ["dir", "file"])
        }

        @Test func whatWasWrittenSurvivesTheDaemonsDeath() throws {
            let mount = try Mount()
            _ = try mount.start(["--no-survive"])
            for number in 0..<200 {
                try Data("number \(number)".utf8).write(to: URL(fileURLWithPath: mount["file-\(number)"]))
            }
            kill(try mount.daemon(), SIGKILL)
            // The kernel notices when the last descriptor of the dead process is closed.
            for _ in 0..<1000 where access(mount.point, F_OK) == 0 { usleep(5000) }
            #expect(try mount.start().error.contains("daemon is dead"))
            #expect(try mount.end().status == 0)
            #expect(try mount.start().status == 0)
            for number in 0..<200 {
                #expect(try String(contentsOfFile: mount["file-\(number)"], encoding: .utf8) == "number \(number)")
            }
        }

        @Test func aSignalUnmountsAndClosesTheStore() throws {
            let mount = try Mount()
            _ = try mount.start()
            try "x".write(toFile: mount["file"], atomically: false, encoding: .utf8)
            let daemon = try mount.daemon()
            kill(daemon, SIGTERM)
            for _ in 0..<2000 where kill(daemon, 0) == 0 { usleep(5000) }
            #expect(kill(daemon, 0) != 0)
            #expect(try mount.start().status == 0)
            #expect(try String(contentsOfFile: mount["file"], encoding: .utf8) == "x")
        }

        @Test func failuresAreOneSentence() throws {
            let mount = try Mount()
            _ = try mount.start()
            let second = try Mount.run(["mount", mount.store, mount.directory.path + "/other"])
            #expect(second.status != 0 && second.error.contains("other"))
            try FileManager.default.createDirectory(
                atPath: mount.directory.path + "/other", withIntermediateDirectories: false)
            let inUse = try Mount.run(["mount", mount.store, mount.directory.path + "/other"])
            #expect(inUse.status != 0 && inUse.error.contains("in use") && inUse.output.isEmpty)
            let descriptor = open(mount.point, O_RDONLY | O_CLOEXEC | O_DIRECTORY)
            let busy = try mount.end()
            #expect(busy.status != 0 && busy.error.contains("busy"))
            close(descriptor)
            #expect(try mount.end().status == 0)
            let twice = try mount.end()
            #expect(twice.status != 0 && twice.error.contains("not the mountpoint"))
            for failure in [second, inUse, busy, twice] { #expect(failure.error.split(separator: "\n").count == 1) }
        }

        @Test func aReadOnlyMountRefusesWrites() throws {
            let mount = try Mount()
            _ = try mount.start()
            try "x".write(toFile: mount["file"], atomically: false, encoding: .utf8)
            _ = try mount.end()
            #expect(try mount.start(["-o", "ro"]).status == 0)
            #expect(try String(contentsOfFile: mount["file"], encoding: .utf8) == "x")
            #expect(open(mount["new"], O_CREAT | O_WRONLY, 0o600) == -1 && errno == EROFS)
        }

        @Test(.enabled(if: geteuid() == 0)) func whatTheKernelAloneSeesToCanBeChanged() throws {
            let mount = try Mount()
            _ = try mount.start()
            let refused = try mount.start(["-o", "remount,ro"])
            #expect(refused.status != 0 && refused.error.contains("unmount it"))
            #expect(try Mount.run(["-i", "-o", "remount,ro", mount.point], of: "/bin/mount").status == 0)
            #expect(open(mount["new"], O_CREAT | O_WRONLY, 0o600) == -1 && errno == EROFS)
            #expect(try Mount.run(["-i", "-o", "remount,rw", mount.point], of: "/bin/mount").status == 0)
            try "x".write(toFile: mount["new"], atomically: false, encoding: .utf8)
            #expect(try mount.end().status == 0)
        }
    }
}

/// A store and a mountpoint in a temporary directory.
private final class Mount {
    struct Outcome {
        var status: Int32
        var output: String
        var error: String
    }

    let directory: TemporaryDirectory
    let store: String
    let point: String

    /// The program beside the tests, or the one the environment names.
    static let program: String = {
        if let named = ProcessInfo.processInfo.environment["O3FS_BINARY"] { return named }
        let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return (tests as NSString).deletingLastPathComponent + "/o3fs"
    }()

    static let isPossible: Bool = {
        if access("/dev/fuse", R_OK | W_OK) == 0, access(program, X_OK) == 0 { return true }
        print("skipped: /dev/fuse or \(program) is not usable here")
        return false
    }()

    init() throws {
        directory = try TemporaryDirectory("mount")
        store = directory.path + "/store"
        point = directory.path + "/mnt"
        try FileManager.default.createDirectory(atPath: point, withIntermediateDirectories: false)
    }

    deinit { _ = try? Self.run(["umount", "--force", point]) }

    subscript(name: String) -> String { point + "/" + name }

    func start(_ options: [String] = []) throws -> Outcome {
        try Self.run(["mount", store, point, "--dm-size", "32M", "--memtable-size", "4M"] + options)
    }

    func end() throws -> Outcome { try Self.run(["umount", point]) }

    /// The process that serves the mount.
    func daemon() throws -> Int32 {
        let text = try String(contentsOfFile: store + "/LOCK", encoding: .utf8)
        return try #require(Int32(text.trimmingCharacters(in: .whitespacesAndNewlines)))
    }

    static func run(_ arguments: [String], of program: String = program) throws -> Outcome {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        // Files, not pipes: a daemon that kept one open would be waited for.
        let files = try TemporaryDirectory("output")
        for name in ["out", "err"] { _ = FileManager.default.createFile(atPath: files.path + "/" + name, contents: nil) }
        process.standardOutput = FileHandle(forWritingAtPath: files.path + "/out")
        process.standardError = FileHandle(forWritingAtPath: files.path + "/err")
        try process.run()
        process.waitUntilExit()
        return Outcome(
            status: process.terminationStatus,
            output: try String(contentsOfFile: files.path + "/out", encoding: .utf8),
            error: try String(contentsOfFile: files.path + "/err", encoding: .utf8))
    }
}
