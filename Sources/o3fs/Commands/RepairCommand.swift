import ArgumentParser
import Foundation
import Glibc
import O3FileSystem
import O3LSM

/// `o3fs repair`: brings back what can be read of damaged files, and makes the rows of a file system agree again.
struct RepairCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "repair",
        abstract: "Mend an unmounted store and its file system; without --yes only say what would be done.",
        discussion: """
            First the files: a damaged table gives way to what can be read of it (the damaged one is kept in \
            STORE/damaged); where no manifest can be read, or a log has a hole, all that can be read is merged into a \
            new store, which takes the old one's place (that is kept as STORE.damaged, and the disk needs room for both). \
            Then the rows: link counts, sizes and parents are made anew from what they count; what has lost its name \
            goes to /lost+found; names that lead nowhere are removed. Without --yes, rows of a store that does not open \
            are not looked at. Exit status: 0 when there is nothing to do or all was done, 1 when something is to be done \
            (without --yes), was lost, or is damaged in a snapshot, which is left as it is, 2 when the store cannot be \
            repaired.
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
        /// What is damaged and stays as it is.
        var leftAlone: [String] = []

        enum CodingKeys: String, CodingKey {
            case store, changes, losses, unlisted
            case leftAlone = "left_alone"
            case dryRun = "dry_run"
        }
    }

    func run() throws {
        var report = try Report(store: Files.absolute(store), dryRun: !yes, changes: [], losses: [], unlisted: 0)
        do {
            report.store = try path()
            try repairFiles(&report)
            try repairRows(&report)
        } catch {
            for loss in report.losses { Console.note("lost: \(loss)") }
            Console.note("Error: cannot repair \(store): \(error)")
            throw ExitCode(2)
        }
        let count = report.changes.count + report.losses.count + report.unlisted
        if json {
            Console.line(try JSON.encode(report, pretty: true))
        } else {
            for loss in report.losses { Console.line("lost: \(loss)") }
            for line in report.leftAlone { Console.line("left: \(line)") }
            for change in report.changes { Console.line("\(yes ? "done" : "to do"): \(change)") }
            if report.unlisted > 0 { Console.line("and \(report.unlisted) more") }
            let verdict =
                count == 0
                ? "nothing to do" : yes ? "\(count) repairs done" : "\(count) repairs to do; nothing was changed (--yes does them)"
            Console.line("\(report.store): \(verdict)")
        }
        if yes ? !report.losses.isEmpty : count > 0 { throw ExitCode(1) }
        if !report.leftAlone.isEmpty { throw ExitCode(1) }
    }

    /// The store's path, also when what makes a directory a store is lost.
    private func path() throws -> String {
        let absolute = try Files.absolute(store)
        guard !FileManager.default.fileExists(atPath: absolute + "/IDENTITY"), StoreRepair.isCandidate(absolute),
            !MountTable.mountedStores().contains(where: { $0.store == absolute || $0.mountpoint == absolute })
        else { return try StoreLocation.unmountedStore(store) }
        return absolute
    }

    private func repairFiles(_ report: inout Report) throws {
        var bar = ProgressBar("tables")
        defer { bar.end() }
        let found = try StoreRepair(report.store).run(dryRun: !yes) { bar.update($0, of: $1, "tables") }
        report.changes += found.changes
        report.losses += found.losses.map(Self.describe)
        report.leftAlone += found.leftAlone
    }

    private static func describe(_ loss: StoreRepairReport.Loss) -> String {
        let place = "\(loss.bytes) bytes at \(loss.offset) of \(loss.file)"
        if let note = loss.note { return loss.bytes > 0 ? "\(note), \(place)" : "\(note) (\(loss.file))" }
        let after = loss.after.map { "after " + KeyDescription.describe($0) } ?? "from the first row on"
        let before = loss.before.map { "before " + KeyDescription.describe($0) } ?? "to the last row"
        return "rows \(after), \(before): \(place)"
    }

    private func repairRows(_ report: inout Report) throws {
        let database: Database
        do { database = try yes ? Database.openExisting(report.store) : Database.openReadOnly(report.store) } catch {
            // Before its files are repaired it need not open.
            if !yes, !report.changes.isEmpty { return }
            throw error
        }
        let found = try withDatabase(database) { try repairRows(of: $0, isUnreadable: !yes && !report.changes.isEmpty) }
        report.changes += found.changes
        report.losses += found.losses
        report.unlisted += found.unlisted
    }

    /// - Parameter isUnreadable: rows are in tables that are to be replaced first: one that cannot be read is no error.
    private func repairRows(of database: Database, isUnreadable: Bool) throws -> RepairReport {
        var options = FileSystem.Options()
        options.continuesEarlierMount = true
        var bar = ProgressBar("rows")
        defer { bar.end() }
        do throws(FileSystemError) {
            let files = try FileSystem.openForRepair(database, options: options)
            return try files.repair(dryRun: !yes) { rows in bar.update(rows, "rows") }
        } catch {
            switch error {
            // A store of nothing but keys and values, or of nothing.
            case .posix(ENOENT): return RepairReport()
            case .engine(.corruption) where isUnreadable: return RepairReport()
            default: throw error
            }
        }
    }
}
