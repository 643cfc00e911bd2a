import ArgumentParser
import CSystem
import O3LSM

@main
struct O3FS: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "o3fs",
        abstract: "A POSIX file system on an LSM tree built for disaggregated memory.",
        version: o3fsVersion,
        subcommands: [
            MountCommand.self,
            UmountCommand.self,
            UpgradeCommand.self,
            WorkerCommand.self,
            StatusCommand.self,
            StatsCommand.self,
            KeyValueCommand.self,
            CompactCommand.self,
            SnapshotCommand.self,
            ExportCommand.self,
            ImportCommand.self,
            CheckCommand.self,
            ScrubCommand.self,
            RepairCommand.self,
            BenchCommand.self,
        ])

    static func main() {
        o3_tune_allocator()
        DescriptorLimit.raise()
        // Text would garble it.
        let arguments = CommandLine.unsafeArgv
        for index in 1..<max(1, Int(CommandLine.argc)) {
            guard let argument = arguments[index].flatMap({ EscapedBytes.textIfNotUTF8($0) }) else { continue }
            exit(withError: ValidationError("the argument \(argument) is not UTF-8: use names and paths that are"))
        }
        main(MountArguments.rewrite(CommandLine.arguments))
    }
}

/// The version of this build, as `o3fs --version` prints it.
let o3fsVersion = "0.1.0"
