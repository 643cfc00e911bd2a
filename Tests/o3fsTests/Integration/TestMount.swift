import Foundation
import Glibc

@testable import o3fs

/// A store in a temporary directory, and a mountpoint for it. Everything goes when it is released, also
/// when the daemon is dead or hangs.
final class TestMount {
    let directory: TemporaryDirectory
    let store: String
    /// Where the store is mounted.
    let path: String
    private let options: [String]
    /// Of the daemon, in place of the program under test; and variables of its environment.
    private let program: String?
    private let environment: [String: String]
    private var daemon: pid_t?
    private var supervisor: pid_t?
    /// The store's object in /dev/shm, once it was mounted.
    private(set) var region: String?

    /// Makes the directories; mounts unless told otherwise.
    ///
    /// - Parameter dmSize: bytes of disaggregated memory; small, so that data has to leave it soon.
    init(
        dmSize: Int = 64 << 20, options: [String] = [], mounted: Bool = true, program: String? = nil,
        environment: [String: String] = [:]
    ) throws {
        directory = try TemporaryDirectory("mount")
        store = directory.path + "/store"
        path = directory.path + "/mnt"
        (self.program, self.environment) = (program, environment)
        self.options = ["--dm-size", "\(dmSize)", "--memtable-size", "\(dmSize / 8)", "--cache-size", "32M"] + options
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        if mounted { try mount() }
    }

    deinit {
        if isMounted { _ = try? O3FSBinary.run(["umount", path], timeout: 60) }
        if isMounted { _ = umount2(path, Int32(MNT_DETACH)) }
        if let supervisor { kill(supervisor, SIGKILL) }
        if let daemon { kill(daemon, SIGKILL) }
        if let region { unlink(region) }
    }

    /// A path inside the mount.
    func callAsFunction(_ name: String) -> String { path + "/" + name }

    var isMounted: Bool { MountTable.mountedStores().contains { $0.mountpoint == path } }

    /// What the command left behind.
    @discardableResult
    func mount() throws -> CommandResult {
        guard let program = program ?? O3FSBinary.path else { throw SetupError("there is no o3fs binary") }
        let result = try Shell.run([program, "mount", store, path] + options, environment: environment, timeout: 120)
        guard result.status == 0 else { throw CommandFailed(result: result) }
        let process = try daemonProcess()
        daemon = process
        supervisor = try supervisorProcess()
        region = try Self.region(mappedBy: process)
        return result
    }

    func unmount() throws {
        try O3FSBinary.succeed("umount", path)
        try waitForDaemonsEnd()
    }

    /// The daemon's process, as `status` tells it.
    func daemonProcess() throws -> pid_t {
        let status = try O3FSBinary.json("status", path, "--json")
        guard let daemon = status["daemon"] as? [String: Any], let process = daemon["pid"] as? Int else {
            throw SetupError("status names no daemon: \(status)")
        }
        return pid_t(process)
    }

    /// The process that would start another daemon; nil with `--no-survive`.
    func supervisorProcess() throws -> pid_t? {
        let status = try O3FSBinary.json("status", path, "--json")
        return ((status["supervisor"] as? [String: Any])?["pid"] as? Int).map { pid_t($0) }
    }

    /// Ends the daemon and its supervisor with SIGKILL and clears the dead mountpoint away.
    func killDaemon() throws {
        guard let daemon else { throw SetupError("nothing is mounted") }
        if let supervisor { kill(supervisor, SIGKILL) }
        kill(daemon, SIGKILL)
        try waitForDaemonsEnd()
        // What a user does: the kernel keeps the mountpoint until then.
        if isMounted { try Shell.script("fusermount3 -uz '\(path)' || umount -l '\(path)'") }
    }

    /// Kills the daemon and forgets disaggregated memory, as a power failure does.
    func losePower() throws {
        try killDaemon()
        guard let region else { throw SetupError("the store has no region") }
        guard unlink(region) == 0 else { throw SetupError("cannot delete \(region): \(errno)") }
    }

    /// What the daemon reported, and how the store is, for the message of a failed test.
    func troubles() -> String {
        let log = (try? String(contentsOfFile: store + "/o3fs.log", encoding: .utf8)) ?? "no log"
        return log.suffix(4000) + "\n" + ((try? O3FSBinary.run("status", path).output) ?? "no status")
    }

    private func waitForDaemonsEnd() throws {
        guard let daemon else { return }
        try waitFor("the daemon to end") { Self.hasEnded(daemon) }
        self.daemon = nil
    }

    /// Gone, or a zombie that nobody has asked for yet.
    static func hasEnded(_ process: pid_t) -> Bool {
        guard kill(process, 0) == 0 else { return true }
        let status = (try? String(contentsOfFile: "/proc/\(process)/stat", encoding: .utf8)) ?? ""
        return status.contains(") Z ")
    }

    private static func region(mappedBy process: pid_t) throws -> String {
        let maps = try String(contentsOfFile: "/proc/\(process)/maps", encoding: .utf8)
        for line in maps.split(separator: "\n") {
            if let start = line.range(of: "/dev/shm/o3lsm-")?.lowerBound { return String(line[start...]) }
        }
        throw SetupError("process \(process) maps no region")
    }
}

/// Waits until `condition` holds; throws after `seconds`.
func waitFor(_ what: String, seconds: Double = 60, _ condition: () throws -> Bool) throws {
    let deadline = Date().addingTimeInterval(seconds)
    while try !condition() {
        guard Date() < deadline else { throw SetupError("waited \(seconds) s for \(what)") }
        usleep(5000)
    }
}
