import ArgumentParser
import O3LSM

/// `o3fs stats`: everything that is counted.
struct StatsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stats",
        abstract: "Show what the engine and the mount have done.",
        discussion: "Counters begin when the store is mounted; an unmounted store has only its levels to show."
    )

    @Argument(help: "A store's directory, or the mountpoint of one.")
    var path: String

    @Flag(help: "Print a JSON object.")
    var json = false

    func run() throws {
        let report = try StoreQuestion.statistics(try StoreLocation.resolve(path))
        if json {
            Console.line(try JSON.encode(report, pretty: true))
        } else {
            for line in Self.text(report) { Console.line(line) }
        }
    }

    private static func text(_ report: StatisticsReport) -> [String] {
        let engine = report.engine
        var lines = general(engine)
        lines += ["", "background work"] + work(engine)
        lines += ["", "work by executor"] + ReportTables.executors(engine.executors)
        lines += ["", "nodes"] + ReportTables.nodes(engine.owner, engine.workers)
        lines += ["", "jobs in flight"] + ReportTables.jobs(engine.jobs)
        lines += ["", "stalls of writers"] + ReportTables.stalls(engine.stalls)
        lines += ["", "disaggregated memory"] + ReportTables.memory(engine.dm)
        if !engine.delegation.classes.isEmpty {
            lines += ["", "reads of sealed memtables"] + ReportTables.delegation(engine.delegation.classes)
        }
        lines += ["", "levels"] + StatusCommand.levels(engine.levels)
        if let fuse = report.fuse { lines += ["", "operations of the mount"] + operations(fuse) }
        if let resends = report.resends, resends.received > 0 {
            lines.append("  \(resends.received) requests came again after a restart, \(resends.alreadyDone) of them were done already")
        }
        return lines
    }

    private static func general(_ engine: Statistics) -> [String] {
        let lookups = engine.cache.hits + engine.cache.misses
        let share = lookups > 0 ? fixed(Double(engine.cache.hits) / Double(lookups) * 100, decimals: 1) : "-"
        var facts = TextTable()
        facts.addFact("writes", "\(engine.writes) batches, \(readableBytes(engine.bytesWritten))")
        let handOver = engine.handOver
        if handOver.count > 0 {
            facts.addFact(
                "memtable switches",
                "\(handOver.count), mean \(fixed(handOver.seconds / Double(handOver.count) * 1e6, decimals: 0)) us, "
                    + "longest \(fixed(handOver.longestSeconds * 1e6, decimals: 0)) us")
        }
        facts.addFact("reads", "\(engine.reads)")
        facts.addFact(
            "sequence",
            "\(engine.visibleSequence) visible, \(engine.flushedSequence) in tables, "
                + "\(engine.wal.syncedSequence) synced"
        )
        facts.addFact("snapshots", "\(engine.snapshots)")
        facts.addFact(
            "log",
            "\(readableBytes(engine.wal.bytesWritten)), \(engine.wal.syncs) syncs for "
                + "\(engine.wal.syncRequests) requests"
        )
        facts.addFact(
            "block cache",
            "\(share) % of \(lookups) lookups hit, \(readableBytes(UInt64(max(0, engine.cache.usedBytes)))) of "
                + "\(readableBytes(UInt64(max(0, engine.cache.capacityBytes))))"
        )
        let offsets = engine.offsetCache
        if offsets.capacityBytes > 0 {
            let walks = offsets.hits + offsets.misses
            let share = walks > 0 ? fixed(Double(offsets.hits) / Double(walks) * 100, decimals: 1) : "-"
            facts.addFact(
                "offset cache",
                "\(share) % of \(walks) lookups in sealed memtables hit, \(readableBytes(UInt64(offsets.capacityBytes)))")
        }
        let reads = engine.delegation
        if reads.mode != "off" {
            facts.addFact(
                "read delegation",
                "\(reads.mode), \(reads.servers) servers, \(reads.answered) of \(reads.keys) keys answered, "
                    + "\(reads.ranges) ranges, \(reads.timeouts) late, \(reads.damaged) damaged, \(reads.busy) busy")
            facts.addFact(
                "reads by way",
                "\(reads.directReads) direct, \(reads.cachedReads) cached, \(reads.delegatedReads) delegated, "
                    + "\(reads.trials) of them trials")
        }
        if engine.dm.paidRoundTrips > 0 || engine.dm.paidBytes > 0 {
            facts.addFact(
                "distance to memory",
                "\(engine.dm.paidRoundTrips) round trips and \(readableBytes(UInt64(engine.dm.paidBytes))) paid for")
        }
        facts.addFact("write amplification", fixed(engine.writeAmplification, decimals: 2))
        if let error = engine.writeError { facts.addFact("error", error) }
        return facts.leftAlignedLines()
    }

    private static func work(_ engine: Statistics) -> [String] {
        var table = TextTable()
        table.add([
            "", "local jobs", "offloaded", "failed", "moves", "drops", "read", "written", "entries", "dropped", "seconds",
        ])
        for (name, work) in [("flush", engine.flush), ("compaction", engine.compaction)] {
            table.add([
                name, "\(work.localJobs)", "\(work.offloadedJobs)", "\(work.failedJobs)", "\(work.trivialMoves)",
                "\(work.droppedTables)",
                readableBytes(work.bytesRead), readableBytes(work.bytesWritten), "\(work.entriesIn)",
                "\(work.entriesDropped)", fixed(work.seconds, decimals: 1),
            ])
        }
        return table.lines(indent: "  ")
    }

    private static func operations(_ fuse: [String: OperationCounter]) -> [String] {
        let counters = fuse.filter { $0.value.count > 0 }.sorted { $0.value.count > $1.value.count }
        guard !counters.isEmpty else { return ["  none"] }
        var table = TextTable()
        table.add(["operation", "count", "errors", "mean us"])
        for (name, counter) in counters {
            let mean = counter.seconds * 1e6 / Double(max(counter.count, 1))
            table.add([name, "\(counter.count)", "\(counter.errors)", fixed(mean, decimals: 1)])
        }
        return table.lines(indent: "  ")
    }
}
