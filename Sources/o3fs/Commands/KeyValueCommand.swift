import ArgumentParser
import O3FileSystem
import O3LSM

/// `o3fs kv`: the rows of an unmounted store.
struct KeyValueCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kv",
        abstract: "Read and write the keys of an unmounted store.",
        discussion: """
            A key is written as the file system describes it (superblock, inode 5, dentry 1/"etc", \
            xattr 5/"user.note", data 5/block 0), or as its bytes: printable characters as they are, \
            \\\\ for a backslash, \\xNN for any other byte; with --hex, bytes are written in hexadecimal.
            """,
        subcommands: [KeyValueGet.self, KeyValuePut.self, KeyValueDelete.self, KeyValueScan.self]
    )
}

/// How keys and values are written on the command line and in what is printed.
struct KeyNotation: ParsableArguments {
    @Flag(help: "Keys and values in hexadecimal.")
    var hex = false

    @Flag(help: "Take keys as bytes, never as the file system's description of a row.")
    var raw = false

    /// The bytes of a key as typed.
    func key(_ text: String, in database: Database) throws(CommandError) -> [UInt8] {
        if !raw, let row = StoreFiles.open(database)?.key(describedBy: text) { return row }
        let bytes = try bytes(text)
        guard !bytes.isEmpty else { throw CommandError("a key has at least one byte") }
        return bytes
    }

    /// The bytes of a value as typed.
    func bytes(_ text: String) throws(CommandError) -> [UInt8] {
        if hex {
            guard let bytes = EscapedBytes.parseHex(text) else {
                throw CommandError("\(text) is not an even number of hexadecimal digits")
            }
            return bytes
        }
        guard let bytes = EscapedBytes.parse(text) else {
            throw CommandError("\(text) has a backslash that begins no escape: write \\\\ for one, \\xNN for a byte")
        }
        return bytes
    }
}

/// The file system in a store, for looking at rows.
enum StoreFiles {
    /// nil when the store holds no file system, or one whose superblock is damaged.
    static func open(_ database: Database) -> FileSystem? { try? openOrThrow(database) }

    /// Changes nothing in the store: it is not formatted, and orphans stay.
    static func openOrThrow(_ database: Database) throws(FileSystemError) -> FileSystem {
        var options = FileSystem.Options()
        options.formatIfEmpty = false
        options.continuesEarlierMount = true
        return try FileSystem(database, options: options)
    }
}

/// One row as `--json` prints it. `key` and `value` are escaped text, or hexadecimal with `--hex`.
struct RowReport: Encodable {
    var row: String?
    var key: String
    var bytes: Int
    var value: String

    init(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, hasFileSystem: Bool, hex: Bool) {
        row = hasFileSystem ? KeyDescription.describe(key) : nil
        self.key = hex ? EscapedBytes.hex(key) : EscapedBytes.text(key)
        bytes = value.count
        self.value = hex ? EscapedBytes.hex(value) : EscapedBytes.text(value)
    }
}

struct KeyValueGet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get",
        abstract: "Write the value of a key to standard output, byte for byte.",
        discussion: "With --hex or --json it is written as text. Exit status 1 when there is no such key."
    )

    @Argument(help: "An unmounted store's directory.") var store: String
    @Argument(help: "The key.") var key: String
    @OptionGroup var notation: KeyNotation
    @Flag(help: "Print a JSON object.") var json = false

    func run() throws {
        try withDatabase(try Database.openReadOnly(try StoreLocation.unmountedStore(store))) { database in
            let bytes = try notation.key(key, in: database)
            guard let value = try database.get(bytes) else {
                throw CommandError("there is no key \(key) in \(store)")
            }
            if json {
                let hasFiles = StoreFiles.open(database) != nil
                let report = bytes.withUnsafeBytes { key in
                    value.withUnsafeBytes { RowReport(key, $0, hasFileSystem: hasFiles, hex: notation.hex) }
                }
                Console.line(try JSON.encode(report, pretty: true))
            } else if notation.hex {
                Console.line(EscapedBytes.hex(value))
            } else {
                value.withUnsafeBytes { Console.write($0) }
                if Console.outputIsTerminal { Console.line() }
            }
        }
    }
}

struct KeyValuePut: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "put",
        abstract: "Set the value of a key.",
        discussion: "Nothing stops this command from damaging the file system in a store."
    )

    @Argument(help: "An unmounted store's directory; it is made if there is none.") var store: String
    @Argument(help: "The key.") var key: String
    @Argument(help: "The value, escaped as keys are.") var value: String
    @OptionGroup var notation: KeyNotation

    func run() throws {
        let database: Database
        if Files.isMissingOrEmptyDirectory(store) {
            database = try Database.open(Files.absolute(store), options: Options().forOneCommand)
        } else {
            database = try Database.openExisting(try StoreLocation.unmountedStore(store))
        }
        try withDatabase(database) { database in
            let batch = WriteBatch()
            batch.put(try notation.key(key, in: database), try notation.bytes(value))
            try database.write(batch, sync: true)
        }
    }
}

struct KeyValueDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete",
        abstract: "Delete a key; one that is not there is not an error.",
        discussion: "Nothing stops this command from damaging the file system in a store."
    )

    @Argument(help: "An unmounted store's directory.") var store: String
    @Argument(help: "The key.") var key: String
    @OptionGroup var notation: KeyNotation

    func run() throws {
        try withDatabase(try Database.openExisting(try StoreLocation.unmountedStore(store))) { database in
            let batch = WriteBatch()
            batch.delete(try notation.key(key, in: database))
            try database.write(batch, sync: true)
        }
    }
}
