import ArgumentParser
import O3FileSystem
import O3LSM

/// `o3fs repair`: makes the rows of a file system agree with each other again.
struct RepairCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "repair",
        abstract: "Mend the file system of an unmounted store; without --yes only say what would be done.",
        discussion: """
            Link counts, sizes and parents are made anew from what they count; what has lost its name goes to \
            /lost+found; names that lead nowhere are removed. Nothing is done to tables or logs: `o3fs check` says \
            whether those are sound. Exit status: 0 when there is nothing to do or all was done, 1 when something is \
            to be done (without --yes) or was lost, 2 when the store cannot be repaired.
            """
    )

    @Argument(help: "An unmounted store's directory.")
    var store: String

    @Flag(name: [.short, .long], help: "Do it.")
    var yes = false

    @Flag(help: "Print a JSON object.")
    var json = false

    private struct Report: Encodable {
        var store: String
        var dryRun: Bool
        var changes: [String]
        /// What could not be brought back.
        var losses: [String]
        var unlisted: Int

        enum CodingKeys: String, CodingKey {
            case store, changes, losses, unlisted
            case dryRun = "dry_run"
        }
    }

    func run() throws {
        let report: RepairReport
        let path: String
        do {
            path = try StoreLocation.unmountedStore(store)
            report = try repair(path)
        } catch {
            Console.note("Error: cannot repair \(store): \(error)")
            throw ExitCode(2)
        }
        if json {
            Console.line(
                try JSON.encode(
                    Report(
                        store: path, dryRun: !yes, changes: report.changes, losses: report.losses,
                        unlisted: report.unlisted), pretty: true))
        } else {
            for loss in report.losses { Console.line("lost: \(loss)") }
            for change in report.changes { Console.line("\(yes ? "done" : "to do"): \(change)") }
            if report.unlisted > 0 { Console.line("and \(report.unlisted) more") }
            let count = report.changes.count + report.losses.count + report.unlisted
            let verdict =
                count == 0
                ? "nothing to do" : yes ? "\(count) repairs done" : "\(count) repairs to do; nothing was changed (--yes does them)"
            Console.line("\(path): \(verdict)")
        }
        if yes ? !report.losses.isEmpty : !report.isSound { throw ExitCode(1) }
    }

    private func repair(_ path: String) throws -> RepairReport {
        try withDatabase(try yes ? Database.openExisting(path) : Database.openReadOnly(path)) { database in
            let files = try StoreFiles.openOrThrow(database)
            var bar = ProgressBar("rows")
            defer { bar.end() }
            return try files.repair(dryRun: !yes) { bar.update($0, "rows") }
        }
    }
}
