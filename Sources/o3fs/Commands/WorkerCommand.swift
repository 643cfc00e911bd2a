import ArgumentParser
import FUSE
import Glibc
import O3LSM
import Synchronization

/// `o3fs worker STORE`: executes flushes and compactions, and answers reads, for the mount of a store.
struct WorkerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "worker",
        abstract: "Flush, compact and read for the mount of a store, now or when it is mounted.",
        discussion: """
            Runs until SIGTERM or SIGINT. A worker holds no state: it may come and go, and be killed, at any time. \
            Only the owner of the store and root can run one.
            """)

    @Argument(help: "Directory of the store.")
    var store: String

    @Option(help: "What to do: \(Worker.Role.allCases.map(\.rawValue).joined(separator: ",")).")
    var roles = Worker.Role.allCases.map(\.rawValue).joined(separator: ",")

    @Option(help: "Jobs at once, 1 to 64.")
    var threads = Worker.Configuration().threads

    @Option(help: "Processors to run on, as 0,2-3. Default: all.")
    var cpus: String?

    @Option(help: "Nice level, -20 to 19.")
    var nice: Int32?

    @Option(name: dashed("io-bandwidth"), help: "Bytes a second to read and write at most.")
    var ioBandwidth: ByteSize?

    @OptionGroup(title: "Simulated distance") var distance: DistanceOptions

    /// Given by a mount to its own workers: end when the mount's process does.
    @Flag(name: .customLong("supervised"), help: .hidden)
    var isSupervised = false

    func run() throws {
        var configuration = Worker.Configuration()
        configuration.roles = try Self.parse(roles: roles)
        configuration.threads = threads
        configuration.ioBytesPerSecond = ioBandwidth.map { UInt64($0.bytes) }
        let worker = try Worker(Files.absolute(store), configuration, storage: distance.storage())
        if let cpus { try ProcessorSet(cpus).bind() }
        if let nice {
            guard (-20...19).contains(nice) else { throw CommandError("--nice must be between -20 and 19, not \(nice)") }
            guard setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, nice) == 0 else {
                throw CommandError("change the nice level", errno: errno)
            }
        }
        if isSupervised, !ParentWatch.endWithParent() { return }
        TerminationSignals.block()
        TerminationSignals.observe { _ in worker.stop() }
        try worker.run { event in
            if !isSupervised { Console.note("\(event)") }
        }
    }

    static func parse(roles text: String) throws(CommandError) -> Set<Worker.Role> {
        var roles = Set<Worker.Role>()
        for word in text.split(separator: ",") {
            guard let role = Worker.Role(rawValue: String(word)) else {
                throw CommandError(
                    "--roles takes \(Worker.Role.allCases.map(\.rawValue).joined(separator: " and ")), not \(word)")
            }
            roles.insert(role)
        }
        guard !roles.isEmpty else { throw CommandError("--roles names no role") }
        return roles
    }
}
