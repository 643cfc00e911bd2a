import ArgumentParser
import Glibc

/// `o3fs upgrade`: another program goes on with a mount.
struct UpgradeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "upgrade",
        abstract: "Have a newer program go on with a mount, without unmounting it.",
        discussion: """
            The daemon answers what it has taken, closes the store and ends; the supervisor starts the new program in \
            its place. Programs that use the mount see a pause. If the new program cannot go on, the old one does.
            """)

    @Argument(help: "A mountpoint, or the store that is mounted.")
    var path: String

    @Option(help: "The new program. Default: the one that runs this command.")
    var program: String?

    /// nil when the daemon ended before it answered.
    private func status(_ location: StoreLocation) throws -> StatusReport? {
        do {
            return try ControlClient.request(.status, at: location.socket, as: StatusReport.self)
        } catch ControlClient.Failure.noAnswer {
            return nil
        }
    }

    func run() throws {
        let location = try StoreLocation.resolve(path)
        guard let mountpoint = location.mountpoint else { throw CommandError("\(location.store) is not mounted") }
        let before: StatusReport = try ControlClient.request(.status, at: location.socket)
        let program = Files.absolute(program ?? "/proc/self/exe")
        let _: ControlDone = try ControlClient.request(.upgrade, at: location.socket, program: program)
        while true {
            usleep(20_000)
            // The daemon that ends may close the connection before it has answered.
            guard let report = try status(location) else { continue }
            guard let supervisor = report.supervisor, let old = before.supervisor else {
                throw CommandError("\(mountpoint) is not supervised any more")
            }
            guard supervisor.restarts > old.restarts, let daemon = report.daemon else { continue }
            guard supervisor.deaths == old.deaths else {
                throw CommandError(
                    "the new program could not go on with \(mountpoint), and the old one does: see "
                        + "\(location.store)/o3fs.log")
            }
            let pause = fixed((supervisor.lastPauseSeconds ?? 0) * 1000, decimals: 0)
            return Console.line("\(mountpoint) is served by version \(report.version), process \(daemon.pid), after \(pause) ms")
        }
    }
}
