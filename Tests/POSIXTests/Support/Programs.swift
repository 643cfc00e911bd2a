import Foundation

/// The programs that these tests drive, and what the machine allows.
enum Programs {
    static let packageRoot = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .path

    /// The file system's command: `O3FS_BINARY`, or what was built last in this package; nil when there is none.
    static let o3fs: String? = {
        if let given = ProcessInfo.processInfo.environment["O3FS_BINARY"] { return given }
        func age(_ path: String) -> Date {
            (try? FileManager.default.attributesOfItem(atPath: path)[.modificationDate] as? Date) ?? .distantPast
        }
        return ["release", "debug"].map { "\(packageRoot)/.build/\($0)/o3fs" }
            .filter { FileManager.default.isExecutableFile(atPath: $0) }
            .max { age($0) < age($1) }
    }()

    /// posixprobe, which the build leaves beside the tests.
    static let probe: String = {
        let besides = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().path + "/posixprobe"
        let candidates = [besides, "\(packageRoot)/.build/debug/posixprobe"]
        return candidates.first { FileManager.default.isExecutableFile(atPath: $0) } ?? candidates[1]
    }()

    /// Calls of several users, devices and `trusted.` attributes need root.
    static let canCompare: Bool = geteuid() == 0 && o3fs != nil && access("/dev/fuse", R_OK | W_OK) == 0

    /// Runs a program and gives what it wrote, as bytes that need not be UTF-8.
    ///
    /// - Throws: `ProgramFailed` for a status that is not 0.
    @discardableResult
    static func run(_ program: String, _ arguments: [String]) throws -> [UInt8] {
        let scratch = try ScratchDirectory()
        let path = scratch.path + "/output"
        _ = FileManager.default.createFile(atPath: path, contents: nil)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.standardInput = FileHandle.nullDevice
        // A file, not a pipe: daemons keep what they inherit, and reading a pipe to its end would wait for them.
        let output = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        process.standardOutput = output
        process.standardError = output
        try process.run()
        process.waitUntilExit()
        try output.close()
        let bytes = [UInt8](FileManager.default.contents(atPath: path) ?? Data())
        guard process.terminationReason == .exit, process.terminationStatus == 0 else {
            throw ProgramFailed(
                description: "\(program) \(arguments.joined(separator: " ")): \(process.terminationStatus)\n"
                    + String(decoding: bytes.suffix(8000), as: UTF8.self))
        }
        return bytes
    }
}

/// A program ended otherwise than it must; with what it wrote.
struct ProgramFailed: Error, CustomStringConvertible {
    let description: String
}

/// A directory that everybody may enter, removed with everything in it when the object is released.
final class ScratchDirectory {
    let path: String

    init() throws {
        let base = ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
        path = "\(base)/o3fs-posix-\(UUID().uuidString)"
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o755])
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}
