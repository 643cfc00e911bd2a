import ArgumentParser
import Glibc

/// `o3fs upgrade`: another program goes on with a mount.
struct UpgradeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "upgrade",
        abstract: "Have a newer program go on with a mount, without unmounting it.",
        discussion: """
            The daemon answers what it has taken, makes it survive power loss, and ends; the supervisor starts the new \
            program in its place, which finds the store's memory as it was left. Programs that use the mount see a pause. If \
            the new program cannot go on, the old one does.
            """)

    @Argument(help: "A mountpoint, or the store that is mounted.")
    var path: String

    @Option(help: "The new program. Default: the one that runs this command.")
    var program: String?

    @Option(help: "Seconds to wait for the new program to serve the mount.")
    var timeout: UInt32 = 600

    /// nil when no daemon answered.
    private func status(_ location: StoreLocation) throws(ControlClient.Failure) -> StatusReport? {
        do throws(ControlClient.Failure) {
            return try ControlClient.request(
                .status, at: location.socket, answerWithinSeconds: Self.answerSeconds, as: StatusReport.self)
        } catch {
            switch error {
            case .noAnswer, .nobodyListens: return nil
            case .notPermitted, .refused, .system: throw error
            }
        }
    }

    /// A daemon that is busy with its end, or its beginning, is asked again.
    private static let answerSeconds = 5

    func run() throws {
        let location = try StoreLocation.resolve(path)
        guard let mountpoint = location.mountpoint else { throw CommandError("\(location.store) is not mounted") }
        let before: StatusReport = try ControlClient.request(.status, at: location.socket)
        let program = try Files.absolute(program ?? "/proc/self/exe")
        let _: ControlDone = try ControlClient.request(.upgrade, at: location.socket, program: program)
        let deadline = monotonicNanoseconds() + UInt64(timeout) * 1_000_000_000
        while monotonicNanoseconds() < deadline {
            usleep(20_000)
            // The daemon that ends may close the connection before it has answered.
            guard let report = try status(location) else {
                if let reason = GivenUpNote(store: location.store).read() {
                    throw CommandError("the mount was given up: \(reason). Run o3fs umount \(mountpoint), then mount it again")
                }
                continue
            }
            guard let supervisor = report.supervisor, let old = before.supervisor else {
                throw CommandError("\(mountpoint) is not supervised any more")
            }
            guard supervisor.restarts > old.restarts, let daemon = report.daemon else { continue }
            guard supervisor.deaths == old.deaths else {
                throw CommandError(
                    "\(mountpoint) was not upgraded: the new program does not go on with it, the old one does "
                        + "(\(supervisor.lastCause ?? "cause unknown")); see \(location.store)/o3fs.log")
            }
            let pause = fixed((supervisor.lastPauseSeconds ?? 0) * 1000, decimals: 0)
            return Console.line("\(mountpoint) is served by version \(report.version), process \(daemon.pid), after \(pause) ms")
        }
        throw CommandError(
            "no daemon has gone on with \(mountpoint) for \(timeout) seconds: its supervisor still tries, see o3fs status and "
                + "\(location.store)/o3fs.log")
    }
}
