import ArgumentParser
import Glibc
import O3LSM

/// `o3fs scrub`: looks for damage on storage while the store is in use.
struct ScrubCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "scrub",
        abstract: "Read every table of a store from storage and check every checksum; the store stays usable.",
        discussion: """
            A mount with --scrub-rate does it every week by itself. Exit status: 0 when nothing is damaged, 1 when \
            something is, 2 when the store cannot be scrubbed.
            """)

    @Argument(help: "A store's directory, or the mountpoint of one.")
    var path: String

    @Option(help: "The most bytes to read a second, 0 for no bound.")
    var rate = ByteSize(64 << 20)

    @Flag(help: "Print a JSON object.")
    var json = false

    func run() throws {
        let report: ScrubReport
        do { report = try scrub(try StoreLocation.resolve(path)) } catch {
            Console.note("Error: cannot scrub \(path): \(error)")
            throw ExitCode(2)
        }
        if json {
            Console.line(try JSON.encode(report, pretty: true))
        } else {
            for problem in report.problems { Console.line("problem: \(problem)") }
            Console.line("\(path): \(report.sentence)")
        }
        guard report.state == .done else {
            Console.note("Error: the scrub came to no end: the daemon was unmounted")
            throw ExitCode(2)
        }
        if !report.problems.isEmpty { throw ExitCode(1) }
    }

    private func scrub(_ location: StoreLocation) throws -> ScrubReport {
        let bytes = rate.bytes == 0 ? nil : UInt64(rate.bytes)
        var bar = ProgressBar("scrub")
        defer { bar.end() }
        do {
            return try wait(&bar) { id in
                try ControlClient.request(.scrub, at: location.socket, scrub: .init(id: id, bytesPerSecond: bytes))
            }
        } catch ControlClient.Failure.nobodyListens {
            return try withDatabase(try Database.openReadOnly(location.store)) { database in
                try database.startScrub(bytesPerSecond: bytes)
                return try wait(&bar) { _ in database.scrubReport }
            }
        }
    }

    /// Asks until the scrub is over. A daemon that does not know the id, for it is another one, begins anew.
    private func wait(_ bar: inout ProgressBar, _ ask: (_ id: UInt64?) throws -> ScrubReport?) throws -> ScrubReport {
        var pause: UInt32 = 5_000
        var id: UInt64?
        while true {
            guard let report = try ask(id) else { throw CommandError("the scrub is not known") }
            id = report.id
            bar.update(report.bytes >> 20, of: report.bytesTotal >> 20, "MiB")
            if report.state != .running { return report }
            usleep(pause)
            pause = min(pause * 2, 200_000)
        }
    }
}

extension ScrubReport {
    /// For a person.
    var sentence: String {
        let found = problems.isEmpty ? "no damage" : "\(problems.count) damaged"
        switch state {
        case .running:
            let share = bytesTotal > 0 ? 100 * Double(bytes) / Double(bytesTotal) : 100
            return "running, \(fixed(share, decimals: 0)) % of \(readableBytes(bytesTotal)), \(found) so far"
        case .done, .stopped:
            let seconds = Double((ended ?? started) - min(started, ended ?? started))
            let what = state == .done ? "" : "stopped after "
            return "\(what)\(tables) tables, \(readableBytes(bytes)), \(found), \(utcTime(started)), \(duration(seconds))"
        }
    }
}
