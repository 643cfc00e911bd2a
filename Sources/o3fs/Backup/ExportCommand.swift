import ArgumentParser
import Glibc
import O3LSM

/// `o3fs export`: what a store holds, as a stream of bytes.
struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Write a snapshot of a store, or what has changed since another one, to a file or a pipe.",
        discussion: """
            The stream is compressed and carries checksums; o3fs import makes a store of it. Without --snapshot the \
            store's present state is written, through a snapshot that is deleted afterwards.
            """)

    @Argument(help: "A store's directory, or the mountpoint of one.")
    var path: String

    @Option(help: "The snapshot to write.")
    var snapshot: String?

    @Option(help: "An older snapshot: write only what has changed since.")
    var since: String?

    @Option(name: [.short, .long], help: "The file to write, which must not exist. Default: standard output.")
    var output: String?

    @Flag(help: "Print a JSON object about it (with --output).")
    var json = false

    func validate() throws {
        if json, output == nil { throw ValidationError("--json needs --output: standard output is the stream") }
        if since != nil, snapshot == nil {
            throw ValidationError("--since needs --snapshot: a state that is not kept cannot be built upon")
        }
    }

    func run() throws {
        let location = try StoreLocation.resolve(path)
        let directory = SnapshotDirectory(store: location.store)
        let base = try since.map { try directory.find($0) }
        if output == nil, Console.outputIsTerminal {
            throw CommandError("the stream is not for a terminal: send it to a file or a pipe")
        }
        // A snapshot and half a stream are not to be left behind.
        Interruption.keep()
        defer { Interruption.end() }
        if let snapshot {
            try export(try directory.find(snapshot), base)
        } else {
            let name = "export-\(getpid())-\(monotonicNanoseconds())"
            var create = SnapshotCommand.Create()
            create.path = path
            create.name = name
            try create.run()
            defer { try? directory.delete(name) }
            try export(try directory.find(name), nil)
        }
    }

    private func export(_ snapshot: StoreSnapshot, _ base: StoreSnapshot?) throws {
        var descriptor = STDOUT_FILENO
        if let output {
            descriptor = open(output, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
            guard descriptor >= 0 else { throw CommandError("create \(output)", errno: errno) }
        }
        let name = output ?? "standard output"
        let file = descriptor
        do {
            var bar = ProgressBar("export")
            let counts = try Export.run(snapshot, since: base, progress: { bar.update($0.bytes >> 20, "MiB") }) {
                bytes throws(EngineError) in try Self.write(bytes, to: file, name)
            }
            bar.end()
            if output != nil {
                guard fsync(file) == 0, close(file) == 0 else { throw CommandError("write \(name)", errno: errno) }
            }
            try report(counts, snapshot, base)
        } catch {
            // Half a stream is of no use to anybody.
            if let output { unlink(output) }
            throw error
        }
    }

    private static func write(_ bytes: UnsafeRawBufferPointer, to file: Int32, _ name: String) throws(EngineError) {
        var written = 0
        while written < bytes.count {
            if Interruption.isPending { throw .io(operation: "write", path: name, code: EINTR) }
            let count = Glibc.write(file, bytes.baseAddress.map { $0 + written }, bytes.count - written)
            if count < 0 {
                // A signal of interest is seen above.
                if errno == EINTR { continue }
                throw .io(operation: "write", path: name, code: errno)
            }
            written += count
        }
    }

    private func report(_ counts: BackupCounts, _ snapshot: StoreSnapshot, _ base: StoreSnapshot?) throws {
        let report = TransferReport(counts, snapshot: snapshot.id, base: base?.id)
        if json { return Console.line(try JSON.encode(report, pretty: true)) }
        Console.note("exported \(report.sentence)")
    }
}

/// What passed through a stream.
struct TransferReport: Encodable {
    var snapshot: String
    var base: String?
    var values: UInt64
    var removals: UInt64
    var bytes: UInt64
    var streamBytes: UInt64

    enum CodingKeys: String, CodingKey {
        case snapshot, base, values, removals, bytes
        case streamBytes = "stream_bytes"
    }

    init(_ counts: BackupCounts, snapshot: String, base: String?) {
        self.snapshot = snapshot
        self.base = base
        values = counts.values
        removals = counts.removals
        bytes = counts.bytes
        streamBytes = counts.streamBytes
    }

    var sentence: String {
        "\(values) values and \(removals) removals, \(readableBytes(bytes)), in a stream of \(readableBytes(streamBytes))"
    }
}
