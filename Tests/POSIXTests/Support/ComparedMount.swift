import Foundation

/// A mount of O3FS, and a directory of the machine's own file system to compare it with.
final class ComparedMount {
    private let scratch: ScratchDirectory
    /// Where the store is mounted.
    let subject: String
    /// A directory of the file system that temporary files live on: ext4, or tmpfs.
    let oracle: String

    /// Mounts a new store, with devices and set-ID bits in force as they are on the oracle.
    ///
    /// - Parameter survives: the mount goes on when its daemon is killed.
    init(survives: Bool = false) throws {
        scratch = try ScratchDirectory()
        subject = scratch.path + "/subject"
        oracle = scratch.path + "/oracle"
        for path in [subject, oracle] {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
            chmod(path, 0o755)
        }
        try Programs.run(
            Programs.o3fs ?? "o3fs",
            ["mount", scratch.path + "/store", subject, "--dm-size", "64M", "--memtable-size", "8M", "--cache-size", "32M",
             "-o", "suid,dev,allow_other"] + (survives ? ["--max-restarts", "1000000"] : ["--no-survive"]))
        chmod(subject, 0o755)
    }

    deinit { _ = try? Programs.run(Programs.o3fs ?? "o3fs", ["umount", subject]) }

    /// Runs a script of the probe on both sides, in a new directory each.
    ///
    /// - Returns: what the probe printed, line by line, of O3FS and of the oracle.
    func printouts(of script: String) throws -> (subject: [String], oracle: [String]) {
        (try Self.printout(of: script, in: subject), try Self.printout(of: script, in: oracle))
    }

    private static func printout(of script: String, in place: String) throws -> [String] {
        let directory = place + "/" + URL(fileURLWithPath: script).lastPathComponent
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        chmod(directory, 0o755)
        let bytes = try Programs.run(Programs.probe, [script, directory])
        return bytes.split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
    }
}
