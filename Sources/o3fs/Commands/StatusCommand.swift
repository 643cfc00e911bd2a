import ArgumentParser
import O3LSM

/// `o3fs status`: whether a store is mounted and well, and how full it is.
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show whether a store is mounted, who works for it at what, and how full its memory and levels are."
    )

    @Argument(help: "A store's directory, or the mountpoint of one.")
    var path: String

    @Flag(help: "Print a JSON object.")
    var json = false

    func run() throws {
        let report = try StoreQuestion.status(try StoreLocation.resolve(path))
        if json {
            Console.line(try JSON.encode(report, pretty: true))
        } else {
            for line in Self.text(report) { Console.line(line) }
        }
    }

    private static func text(_ report: StatusReport) -> [String] {
        var facts = TextTable()
        facts.addFact("state", report.state)
        for trouble in report.troubles {
            facts.addFact("trouble", trouble.what + (trouble.count.map { $0 > 1 ? " (\($0) times)" : "" } ?? ""))
            facts.addFact("  way out", trouble.wayOut)
        }
        facts.addFact("version", report.version)
        facts.addFact("store", report.store)
        if let mountpoint = report.mountpoint { facts.addFact("mountpoint", mountpoint) }
        if let daemon = report.daemon {
            facts.addFact("daemon", "process \(daemon.pid), up \(duration(daemon.uptimeSeconds))")
            facts.addFact("supervisor", supervisor(report.supervisor))
            if report.workers.isEmpty { facts.addFact("workers", "none: the daemon flushes and compacts itself") }
        }
        facts.addFact(
            "opened from",
            "\(report.recovery.source) in \(fixed(report.recovery.seconds * 1000, decimals: 1)) ms"
        )
        if let note = report.recovery.note { facts.addFact("", note) }
        if let scrub = report.scrub { facts.addFact("scrub", scrub.sentence) }
        var lines = facts.leftAlignedLines()
        if report.daemon != nil {
            lines += ["", "nodes"] + ReportTables.nodes(report.owner, report.workers)
            lines += ["", "jobs in flight"] + ReportTables.jobs(report.jobs)
            lines += ["", "work by executor"] + ReportTables.executors(report.executors)
            lines += ["", "stalls of writers"] + ReportTables.stalls(report.stalls)
        }
        return lines + ["", "disaggregated memory"] + ReportTables.memory(report.dm) + ["", "levels"]
            + levels(report.levels)
    }

    private static func supervisor(_ supervisor: StatusReport.Supervisor?) -> String {
        guard let supervisor else { return "none: the mount ends with its daemon" }
        var text = "process \(supervisor.pid), \(supervisor.restarts) restarts, \(supervisor.deaths) of them after a death"
        if let cause = supervisor.lastCause, let pause = supervisor.lastPauseSeconds {
            text += " (the last by \(cause), a pause of \(fixed(pause * 1000, decimals: 0)) ms)"
        }
        if let resends = supervisor.resends, resends.received > 0 {
            text += "; \(resends.received) requests came again, \(resends.alreadyDone) of them were done"
        }
        return text
    }

    static func levels(_ levels: [Statistics.Level]) -> [String] {
        var table = TextTable()
        table.add(["level", "tables", "bytes"])
        for level in levels where level.files > 0 {
            table.add(["\(level.level)", "\(level.files)", readableBytes(level.bytes)])
        }
        table.add(["all", "\(levels.reduce(0) { $0 + $1.files })", readableBytes(levels.reduce(0) { $0 + $1.bytes })])
        return table.lines(indent: "  ")
    }
}

extension TextTable {
    /// A name and what it is, for `leftAlignedLines`.
    mutating func addFact(_ name: String, _ value: String) { add([name, value]) }
}

/// `3 d 4 h`, `2 h 5 min`, `12 s`: the two largest units.
func duration(_ seconds: Double) -> String {
    let whole = seconds.isFinite ? Int(max(0, min(seconds, 1e12))) : 0
    switch whole {
    case 86_400...: return "\(whole / 86_400) d \(whole % 86_400 / 3600) h"
    case 3600...: return "\(whole / 3600) h \(whole % 3600 / 60) min"
    case 60...: return "\(whole / 60) min \(whole % 60) s"
    default: return "\(whole) s"
    }
}
