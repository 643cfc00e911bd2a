import O3LSM

/// The tables that `o3fs status` and `o3fs stats` share. Lines are indented by two columns.
enum ReportTables {
    /// Processes that flush and compact.
    ///
    /// - Parameter owner: the daemon; nil when there is none.
    static func nodes(_ owner: Statistics.Node?, _ workers: [Statistics.Node]) -> [String] {
        let all = (owner.map { [("daemon", $0)] } ?? []) + workers.map { ("worker", $0) }
        guard !all.isEmpty else { return ["  none"] }
        var table = TextTable()
        table.add(["node", "process", "jobs", "of", "busy lately", "done", "last sign of life", "kinds"])
        for (name, node) in all {
            table.add([
                name, "\(node.pid)", "\(node.load)", "\(node.capacity)",
                "\(fixed(node.busyShare * 100, decimals: 0)) %", "\(node.finishedJobs)",
                "\(fixed(node.heartbeatAgeSeconds, decimals: 1)) s", node.roles.joined(separator: ", "),
            ])
        }
        return table.lines(indent: "  ")
    }

    /// Jobs in the job table.
    static func jobs(_ jobs: [Statistics.Job]) -> [String] {
        guard !jobs.isEmpty else { return ["  none"] }
        var table = TextTable()
        table.add(["job", "state", "executor", "age", "bytes", "inputs"])
        for job in jobs.sorted(by: { $0.ageSeconds > $1.ageSeconds }) {
            table.add([
                job.kind, job.state, job.executor.map { "\($0)" } ?? "-", "\(fixed(job.ageSeconds, decimals: 2)) s",
                readableBytes(job.inputs.reduce(0) { $0 + $1.bytes }), inputs(job),
            ])
        }
        return table.lines(indent: "  ")
    }

    private static func inputs(_ job: Statistics.Job) -> String {
        let inputs = job.inputs.map { input in
            if let memtable = input.memtable, let shard = input.shard { return "memtable \(memtable), shard \(shard)" }
            return "\(input.tables?.count ?? 0) of L\(input.level ?? 0)"
        }
        return inputs.joined(separator: " + ") + (job.outputLevel.map { " -> L\($0)" } ?? "")
    }

    /// Flushes and compactions by who executed them.
    static func executors(_ executors: [Statistics.Executor]) -> [String] {
        guard !executors.isEmpty else { return ["  none"] }
        var table = TextTable()
        table.add([
            "executor", "process", "flushes", "failed", "read", "written", "compactions", "failed", "read", "written",
        ])
        for executor in executors {
            var row = [executor.role, executor.pid == 0 ? "former" : "\(executor.pid)"]
            for share in [executor.flush, executor.compaction] {
                row += [
                    "\(share.jobs)", "\(share.failedJobs)", readableBytes(share.bytesRead),
                    readableBytes(share.bytesWritten),
                ]
            }
            table.add(row)
        }
        return table.lines(indent: "  ")
    }

    /// Waits of writers, causes that never were left out.
    static func stalls(_ stalls: [String: Statistics.Stall]) -> [String] {
        let causes = stalls.filter { $0.value.count > 0 }.sorted { $0.key < $1.key }
        guard !causes.isEmpty else { return ["  none"] }
        var table = TextTable()
        table.add(["cause", "count", "seconds", "waiting now"])
        for (cause, stall) in causes {
            table.add([
                cause, "\(stall.count)", fixed(stall.seconds, decimals: 3),
                stall.waiting > 0 ? "\(stall.waiting), for \(duration(stall.longestWaitSeconds))" : "0",
            ])
        }
        return table.lines(indent: "  ")
    }

    /// Reads of sealed memtables by kind, class and way.
    static func delegation(_ classes: [Statistics.DelegationClass]) -> [String] {
        var table = TextTable()
        table.add([
            "kind", "distance", "memtables", "way now", "direct", "cached", "delegated", "trials", "direct ns", "cached ns",
            "delegated ns",
        ])
        for row in classes {
            table.add([
                row.kind, row.distance, row.memtables, row.preference, "\(row.direct)", "\(row.cached)", "\(row.delegated)",
                "\(row.trials)", "\(row.directNanoseconds)", "\(row.cachedNanoseconds)", "\(row.delegatedNanoseconds)",
            ])
        }
        return table.lines(indent: "  ")
    }

    /// Memtables and their shards.
    static func memory(_ dm: Statistics.DisaggregatedMemory) -> [String] {
        guard dm.regionBytes > 0 else { return ["  none: the store is not open"] }
        var lines = [
            "  region of \(readableBytes(UInt64(dm.regionBytes))), \(dm.slabs - dm.freeSlabs) of \(dm.slabs) slabs in use"
                + (dm.slabsOnTheWay > 0 ? ", \(dm.slabsOnTheWay) of them for copies on their way" : "")
        ]
        var table = TextTable()
        table.add(["memtable", "shard", "state", "place", "slabs", "bytes", "entries"])
        for memtable in dm.memtables {
            table.add([
                "\(memtable.id)", "", memtable.isRead ? memtable.state : "held by readers", memtable.place,
                "\(memtable.slabs)", readableBytes(UInt64(max(0, memtable.bytes))), "\(memtable.entries)",
            ])
            for shard in memtable.shards where shard.slabs > 0 {
                table.add([
                    "", "\(shard.index)", shard.state, "", "\(shard.slabs)",
                    readableBytes(UInt64(max(0, shard.bytes))), "\(shard.entries)",
                ])
            }
        }
        lines += table.lines(indent: "  ")
        return lines
    }
}
