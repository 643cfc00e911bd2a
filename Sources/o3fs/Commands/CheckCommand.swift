import ArgumentParser
import Glibc
import O3FileSystem
import O3LSM

/// `o3fs check`: reads everything, believes nothing.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Verify every checksum of an unmounted store and every row of its file system.",
        discussion: """
            With --memory, of a mounted store: whether slabs, memtable slots or job slots are taken that nobody will \
            give back. Nothing is changed. Exit status: 0 when the store is sound, 1 when problems were found, 2 when it \
            cannot be checked (it is no store, it is in use, it cannot be read).
            """
    )

    @Argument(help: "An unmounted store's directory; with --memory a mounted one's, or its mountpoint.")
    var store: String

    @Flag(help: "Check the memory of a mounted store.")
    var memory = false

    @Flag(help: "Print a JSON object.")
    var json = false

    private struct Report: Encodable {
        var store: String
        var clean: Bool
        var tables: UInt64
        var rows: UInt64
        /// False when the store holds no file system, which is not a problem.
        var hasFileSystem: Bool
        var problems: [String]
        /// Worth knowing, and no problem.
        var notes: [String] = []
        /// Whether the store is mounted, so that tables and rows were not looked at.
        var isMemoryOnly = false

        enum CodingKeys: String, CodingKey {
            case store, clean, tables, rows, problems, notes
            case hasFileSystem = "has_file_system"
            case isMemoryOnly = "memory_only"
        }
    }

    private static let problemsFound = ExitCode(1)
    private static let cannotCheck = ExitCode(2)

    func run() throws {
        let report: Report
        do {
            report =
                memory
                ? try checkMemory(try StoreLocation.resolve(store)) : try check(try StoreLocation.unmountedStore(store))
        } catch {
            Console.note("Error: cannot check \(store): \(error)")
            throw Self.cannotCheck
        }
        if json {
            Console.line(try JSON.encode(report, pretty: true))
        } else {
            for problem in report.problems { Console.line("problem: \(problem)") }
            for note in report.notes { Console.line("note: \(note)") }
            let what = report.isMemoryOnly ? "its memory while mounted" : report.hasFileSystem ? "\(report.rows) rows" : "no file system"
            let verdict = report.clean ? "no problems" : "\(report.problems.count) problems"
            let tables = report.isMemoryOnly ? "" : "\(report.tables) tables, "
            Console.line("\(report.store): \(tables)\(what), \(verdict)")
        }
        if !report.clean { throw Self.problemsFound }
    }

    private func checkMemory(_ location: StoreLocation) throws -> Report {
        let answer = try ControlClient.request(.check, at: location.socket, as: ControlProblems.self)
        return Report(
            store: location.store, clean: answer.problems.isEmpty, tables: 0, rows: 0, hasFileSystem: true,
            problems: answer.problems, isMemoryOnly: true)
    }

    private func check(_ path: String) throws -> Report {
        var report = Report(store: path, clean: false, tables: 0, rows: 0, hasFileSystem: false, problems: [])
        let database: Database
        do { database = try Database.openReadOnly(path) } catch EngineError.corruption(
            let file,
            let at,
            let want,
            let found
        ) {
            report.problems.append(
                "\(EngineError.corruption(file: file, offset: at, expected: want, found: found))"
            )
            return report
        }
        try withDatabase(database) { database in
            try checkTables(database, &report)
            try checkRows(database, &report)
        }
        report.clean = report.problems.isEmpty
        return report
    }

    private func checkTables(_ database: Database, _ report: inout Report) throws {
        var bar = ProgressBar("tables")
        var tables: UInt64 = 0
        let problems = try database.verify { done, total in
            tables = total
            bar.update(done, of: total, "tables")
        }
        bar.end()
        report.tables = tables
        report.problems += problems.map(\.description)
    }

    private func checkRows(_ database: Database, _ report: inout Report) throws {
        guard let files = openFiles(database, &report) else { return }
        report.hasFileSystem = true
        var bar = ProgressBar("rows")
        var rows: UInt64 = 0
        do {
            let found = try files.inspect { done in
                rows = done
                bar.update(done, "rows")
            }
            report.problems += found.problems
            report.notes += found.notes
        } catch {
            // A damaged table stops the walk over rows; the check of tables has said where.
            report.problems.append("the check of rows stopped: \(error)")
        }
        bar.end()
        report.rows = rows
    }

    /// nil when there is no file system, or one that cannot be opened, which is a problem.
    private func openFiles(_ database: Database, _ report: inout Report) -> FileSystem? {
        do { return try StoreFiles.openOrThrow(database) } catch {
            if error != .posix(ENOENT) {
                report.problems.append("\(error)")
            } else if (try? FileSystem.isSuperblockLost(database)) != false {
                report.hasFileSystem = true
                report.problems.append("the superblock is gone: o3fs repair can make another one")
            }
            return nil
        }
    }
}
