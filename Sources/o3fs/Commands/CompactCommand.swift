import ArgumentParser
import O3LSM

/// `o3fs compact`: gives the space of deleted and overwritten data back.
struct CompactCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compact",
        abstract: "Rewrite a store so that deleted and overwritten data gives its space back.",
        discussion: "A mounted store stays usable meanwhile. The command returns when everything is done."
    )

    @Argument(help: "A store's directory, or the mountpoint of one.")
    var path: String

    @Flag(help: "Print a JSON object.")
    var json = false

    private struct Report: Encodable {
        var bytesBefore: UInt64
        var bytesAfter: UInt64
        var tablesBefore: Int
        var tablesAfter: Int
        var seconds: Double

        enum CodingKeys: String, CodingKey {
            case bytesBefore = "bytes_before"
            case bytesAfter = "bytes_after"
            case tablesBefore = "tables_before"
            case tablesAfter = "tables_after"
            case seconds
        }

        init(_ before: [Statistics.Level], _ after: [Statistics.Level], seconds: Double) {
            bytesBefore = before.reduce(0) { $0 + $1.bytes }
            bytesAfter = after.reduce(0) { $0 + $1.bytes }
            tablesBefore = before.reduce(0) { $0 + $1.files }
            tablesAfter = after.reduce(0) { $0 + $1.files }
            self.seconds = seconds
        }
    }

    func run() throws {
        let location = try StoreLocation.resolve(path)
        let start = monotonicNanoseconds()
        let (before, after) = try compact(location)
        let report = Report(before, after, seconds: Double(monotonicNanoseconds() - start) / 1e9)
        if json { return Console.line(try JSON.encode(report, pretty: true)) }
        Console.line(
            "\(readableBytes(report.bytesBefore)) in \(report.tablesBefore) tables became "
                + "\(readableBytes(report.bytesAfter)) in \(report.tablesAfter), in "
                + "\(fixed(report.seconds, decimals: 1)) s"
        )
    }

    /// The levels before and after.
    private func compact(_ location: StoreLocation) throws -> ([Statistics.Level], [Statistics.Level]) {
        do {
            return try compactMounted(location.socket)
        } catch ControlClient.Failure.nobodyListens {
            return try withDatabase(try Database.openExisting(location.store)) { database in
                let before = database.statistics().levels
                try database.compact()
                return (before, database.statistics().levels)
            }
        }
    }

    private func compactMounted(_ socket: String) throws -> ([Statistics.Level], [Statistics.Level]) {
        let before: StatusReport = try ControlClient.request(.status, at: socket)
        let _: ControlDone = try ControlClient.request(.compact, at: socket)
        let after: StatusReport = try ControlClient.request(.status, at: socket)
        return (before.levels, after.levels)
    }
}
