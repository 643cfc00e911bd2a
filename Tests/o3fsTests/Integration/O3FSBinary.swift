import Foundation
import Testing

/// The program under test, as users run it.
enum O3FSBinary {
    static let packageRoot: String = {
        var url = URL(fileURLWithPath: #filePath)
        for _ in 0..<4 { url.deleteLastPathComponent() }
        return url.path
    }()

    /// `O3FS_BINARY`, or what was built last in this package; nil when there is none.
    static let path: String? = {
        if let given = ProcessInfo.processInfo.environment["O3FS_BINARY"] { return given }
        return ["release", "debug"].map { "\(packageRoot)/.build/\($0)/o3fs" }
            .filter { FileManager.default.isExecutableFile(atPath: $0) }
            .max { modificationTime($0) < modificationTime($1) }
    }()

    /// A program with the fault points of the tests (`FaultPoint`): `O3FS_FAULT_BINARY`, or the debug build in this package.
    static let withFaultPoints: String? = {
        let path = ProcessInfo.processInfo.environment["O3FS_FAULT_BINARY"] ?? "\(packageRoot)/.build/debug/o3fs"
        return FileManager.default.isExecutableFile(atPath: path) ? path : nil
    }()

    private static func modificationTime(_ path: String) -> Date {
        (try? FileManager.default.attributesOfItem(atPath: path)[.modificationDate] as? Date) ?? .distantPast
    }

    /// Runs `o3fs ARGUMENTS`. Does not throw for a status other than 0.
    static func run(_ arguments: [String], timeout: Double = 300) throws -> CommandResult {
        guard let path else { throw SetupError("there is no o3fs binary: build one, or set O3FS_BINARY") }
        return try Shell.run([path] + arguments, timeout: timeout)
    }

    static func run(_ arguments: String...) throws -> CommandResult { try run(arguments) }

    /// As `run`, and throws unless it ends with 0.
    @discardableResult
    static func succeed(_ arguments: String...) throws -> CommandResult {
        let result = try run(arguments)
        guard result.status == 0 else { throw CommandFailed(result: result) }
        return result
    }

    /// The JSON object that a command prints, whatever its status.
    static func json(_ arguments: String...) throws -> [String: Any] {
        let result = try run(arguments)
        guard let object = try? JSONSerialization.jsonObject(with: Data(result.output.utf8)) as? [String: Any]
        else { throw CommandFailed(result: result) }
        return object
    }
}

/// What the machine allows.
enum Machine {
    static let isRoot = geteuid() == 0

    static let canMount: Bool = {
        guard O3FSBinary.path != nil else { return false }
        let file = open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard file >= 0 else { return false }
        close(file)
        return true
    }()

    /// Whether a daemon can be made to die at a point of its work.
    static let hasFaultPoints = canMount && O3FSBinary.withFaultPoints != nil

    /// The version of the running kernel: 6.18.44 is (6, 18).
    static let kernel: (Int, Int) = {
        var name = utsname()
        uname(&name)
        let release = withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let numbers = release.split(separator: ".").compactMap { Int($0.prefix(while: \.isNumber)) }
        return numbers.count > 1 ? (numbers[0], numbers[1]) : (0, 0)
    }()

    /// Whether a private mount namespace can be made, with file systems of our own in it.
    static let canUnshare: Bool = isRoot && ((try? Shell.run(["unshare", "-m", "true"]).status) == 0)
}

// The lines that say why a test is skipped.
let needsFUSE: Comment = "/dev/fuse is missing or cannot be opened, or there is no o3fs binary"
let needsFaultPoints: Comment = "needs /dev/fuse and a debug build of o3fs, or O3FS_FAULT_BINARY"
let needsBinary: Comment = "there is no o3fs binary"
let needsNamespaces: Comment = "needs /dev/fuse, root and unshare(1), for a small disk or shared memory of its own"
