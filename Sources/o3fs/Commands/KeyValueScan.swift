import ArgumentParser
import O3FileSystem
import O3LSM

/// `o3fs kv scan`: rows in key order, or those behind one path.
struct KeyValueScan: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "scan",
        abstract: "List keys in order, or the rows behind a path.",
        discussion: """
            Each line has the row as the file system describes it, the size of the value, and the key's \
            bytes; with --values, the value's bytes too. With --json each line is an object with row, key, \
            bytes and value.
            """
    )

    @Argument(help: "An unmounted store's directory.") var store: String
    @Option(help: "Only the rows of the file or directory at this path of the file system.") var path: String?
    @Option(help: "First key.") var from: String?
    @Option(help: "First key that is not listed any more.") var to: String?
    @Option(help: "Rows to list at most.") var limit: Int?
    @OptionGroup var notation: KeyNotation
    @Flag(help: "Print values as well, all of their bytes.") var values = false
    @Flag(help: "Print a JSON object a line.") var json = false

    func validate() throws {
        if path != nil, from != nil || to != nil {
            throw ValidationError("--path excludes --from and --to.")
        }
        if let path, !path.hasPrefix("/") {
            throw ValidationError("--path begins at the root of the file system: /\(path).")
        }
        if let limit, limit < 1 { throw ValidationError("--limit must be at least 1.") }
    }

    func run() throws {
        try withDatabase(try Database.openReadOnly(try StoreLocation.unmountedStore(store))) { database in
            if let path {
                try listRows(of: path, in: database)
            } else {
                try listRange(in: database)
            }
        }
    }

    private func listRows(of path: String, in database: Database) throws {
        for key in try keys(of: path, in: database) {
            // A row that vanished between two reads cannot be: nobody else has the store.
            guard let value = try database.get(key) else { continue }
            try key.withUnsafeBytes { key in
                try value.withUnsafeBytes { try printRow(key, $0, hasFileSystem: true) }
            }
        }
    }

    private func keys(of path: String, in database: Database) throws(CommandError) -> [[UInt8]] {
        guard let files = StoreFiles.open(database) else {
            throw CommandError("there is no file system in \(store), or its superblock is damaged")
        }
        do { return try files.rows(forPath: path, limit: limit ?? .max) } catch {
            throw CommandError("cannot find \(path) in \(store): \(error)")
        }
    }

    private func listRange(in database: Database) throws {
        var options = ReadOptions()
        options.fillCache = false
        if let from { options.lowerBound = try notation.key(from, in: database) }
        if let to { options.upperBound = try notation.key(to, in: database) }
        let hasFiles = StoreFiles.open(database) != nil
        let iterator = try database.makeIterator(options)
        try iterator.seekToFirst()
        var left = limit ?? .max
        while iterator.isValid, left > 0 {
            try printRow(iterator.key, iterator.value, hasFileSystem: hasFiles)
            try iterator.next()
            left -= 1
        }
    }

    private func printRow(
        _ key: UnsafeRawBufferPointer,
        _ value: UnsafeRawBufferPointer,
        hasFileSystem: Bool
    ) throws {
        if json {
            let row = RowReport(key, value, hasFileSystem: hasFileSystem, hex: notation.hex)
            return Console.line(try JSON.encode(row))
        }
        let escaped = notation.hex ? EscapedBytes.hex(key) : EscapedBytes.text(key)
        var line = hasFileSystem ? KeyDescription.describe(key) + "\t" : ""
        line += "\(value.count) B\t\(escaped)"
        if values { line += "\t" + (notation.hex ? EscapedBytes.hex(value) : EscapedBytes.text(value)) }
        Console.line(line)
    }
}
