import ArgumentParser

@main
struct O3FS: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "o3fs", abstract: "A POSIX file system on an LSM tree built for disaggregated memory.")
}
