import ArgumentParser
import Glibc
import O3LSM

/// `o3fs snapshot`: states of a store that are kept under names.
struct SnapshotCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "snapshot",
        abstract: "Keep the state of a store under a name, list what is kept, delete it.",
        discussion: """
            A snapshot shares its tables with the store: it takes space only for what is overwritten or deleted later. \
            Mount one with o3fs mount --snapshot NAME STORE MOUNTPOINT.
            """,
        subcommands: [Create.self, List.self, Delete.self])

    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Keep what a store holds now. A mounted store stays usable meanwhile.")

        @Argument(help: "A store's directory, or the mountpoint of one.")
        var path: String

        @Argument(help: "Name of the snapshot: letters, digits, '-', '_' and '.'.")
        var name: String

        func run() throws {
            try SnapshotDirectory.check(name)
            let location = try StoreLocation.resolve(path)
            do {
                try ask(location)
            } catch ControlClient.Failure.nobodyListens {
                if let mountpoint = location.mountpoint {
                    throw CommandError(
                        "the daemon of \(location.store) is dead: run o3fs umount \(mountpoint), then mount it again")
                }
                _ = try withDatabase(try Database.openExisting(location.store)) { try $0.createSnapshot(name) }
            }
        }

        /// Has the daemon make it. One that dies over it may have made it, or not: only the latter is tried again.
        private func ask(_ location: StoreLocation) throws {
            let directory = SnapshotDirectory(store: location.store)
            let existed = (try? directory.find(name)) != nil
            for attempt in 1... {
                do {
                    let _: ControlDone = try ControlClient.request(.snapshot, at: location.socket, name: name)
                    return
                } catch ControlClient.Failure.noAnswer(let socket) {
                    if !existed, (try? directory.find(name)) != nil { return }
                    guard attempt < 5 else { throw ControlClient.Failure.noAnswer(socket: socket) }
                }
            }
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the snapshots of a store, the oldest first.")

        @Argument(help: "A store's directory, or the mountpoint of one.")
        var path: String

        @Flag(help: "Print a JSON array.")
        var json = false

        private struct Entry: Encodable {
            var name: String
            var id: String
            /// Seconds since 1970.
            var created: UInt64
            var sequence: UInt64
            var tables: Int
            var bytes: UInt64
            /// Of these, what nothing else has: it is free once the snapshot is deleted.
            var ownBytes: UInt64

            enum CodingKeys: String, CodingKey {
                case name, id, created, sequence, tables, bytes
                case ownBytes = "own_bytes"
            }
        }

        func run() throws {
            let directory = SnapshotDirectory(store: try StoreLocation.resolve(path).store)
            var damaged: [(name: String, error: EngineError)] = []
            let snapshots = try directory.list { name, error in damaged.append((name, error)) }
            let entries = snapshots.map {
                Entry(
                    name: $0.name, id: $0.id, created: $0.created, sequence: $0.sequence, tables: $0.tables,
                    bytes: $0.bytes, ownBytes: directory.ownBytes($0))
            }
            if json { Console.line(try JSON.encode(entries, pretty: true)) } else { show(entries) }
            for (name, error) in damaged {
                Console.note("Error: snapshot \(name) cannot be read (o3fs snapshot delete removes it): \(error)")
            }
            if !damaged.isEmpty { throw ExitCode.failure }
        }

        private func show(_ entries: [Entry]) {
            var table = TextTable()
            table.add(["snapshot", "made", "tables", "bytes", "its own"])
            for entry in entries {
                table.add([
                    entry.name, utcTime(entry.created), "\(entry.tables)", readableBytes(entry.bytes),
                    readableBytes(entry.ownBytes),
                ])
            }
            for line in table.lines() { Console.line(line) }
        }
    }

    struct Delete: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Delete a snapshot that is not mounted; space that only it took is free then.")

        @Argument(help: "A store's directory, or the mountpoint of one.")
        var path: String

        @Argument(help: "Name of the snapshot.")
        var name: String

        func run() throws {
            try SnapshotDirectory(store: try StoreLocation.resolve(path).store).delete(name)
        }
    }
}

/// `2026-11-24 02:03:04 UTC`.
func utcTime(_ seconds: UInt64) -> String {
    var time = time_t(clamping: seconds)
    var parts = tm()
    gmtime_r(&time, &parts)
    var text = [CChar](repeating: 0, count: 64)
    let length = strftime(&text, text.count, "%Y-%m-%d %H:%M:%S UTC", &parts)
    return String(decoding: text[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
