import ArgumentParser
import FUSE
import Glibc
import O3LSM

/// `o3fs import`: makes a store of what `o3fs export` has written.
struct ImportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import",
        abstract: "Make a store of an exported stream, or bring one up to a later snapshot.",
        discussion: """
            A stream that holds what has changed since a snapshot goes to the store which that snapshot was imported \
            to, as long as nobody has written to it since (mount it with -o ro to look at it). The store changes at \
            once when the whole stream was read, or not at all. Exit status: 0, or 1 with a sentence on standard error.
            """)

    @Argument(help: "Directory of the store: for a whole stream, one that is empty or does not exist.")
    var store: String

    @Option(name: [.short, .long], help: "The file to read. Default: standard input.")
    var input: String?

    @Flag(name: .customLong("dry-run"), help: "Read and verify the stream; write nothing.")
    var dryRun = false

    @Flag(help: "Print a JSON object.")
    var json = false

    func run() throws {
        var descriptor = STDIN_FILENO
        if let input {
            descriptor = open(input, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else { throw CommandError("open \(input)", errno: errno) }
        } else if isatty(STDIN_FILENO) == 1 {
            throw CommandError("there is no stream: give --input, or a pipe")
        }
        let path = try Files.absolute(store)
        if let mount = MountTable.mountedStores().last(where: { $0.store == path }) {
            throw CommandError("\(path) is mounted at \(mount.mountpoint): unmount it first")
        }
        // The store takes its name by a rename, which no mountpoint allows.
        guard dryRun || FUSE.MountTable.entry(at: path) == nil else {
            throw CommandError("\(path) is a mountpoint: name a directory below it")
        }
        let (file, name) = (descriptor, input ?? "standard input")
        let importing = try Import(to: path, name: name) { buffer throws(EngineError) in
            while true {
                let count = read(file, buffer.baseAddress, buffer.count)
                if count >= 0 { return count }
                guard errno == EINTR else { throw .io(operation: "read", path: name, code: errno) }
            }
        }
        var bar = ProgressBar(dryRun ? "verify" : "import")
        let counts = try dryRun ? importing.verify() : importing.run { bar.update($0.bytes >> 20, "MiB") }
        bar.end()
        let report = TransferReport(counts, snapshot: importing.header.snapshot, base: importing.header.base)
        if json { return Console.line(try JSON.encode(report, pretty: true)) }
        Console.note("\(dryRun ? "verified" : "imported") \(report.sentence)")
    }
}
