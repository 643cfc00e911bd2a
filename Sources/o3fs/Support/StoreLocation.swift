import Glibc
import O3LSM

/// What a STORE|MOUNTPOINT argument means: a store directory, and where it is mounted.
struct StoreLocation: Equatable {
    /// Absolute path of the store's directory.
    var store: String
    /// Where it is mounted; nil when it is not.
    var mountpoint: String?

    /// The daemon's control socket.
    var socket: String { ControlSocket.path(store: store) }

    /// Throws when the path is neither a store nor the mountpoint of one.
    static func resolve(_ path: String) throws(CommandError) -> StoreLocation {
        let absolute = try Files.absolute(path)
        let mounts = MountTable.mountedStores()
        // The newest mount hides older ones at the same place. Looked up before the path is touched: the
        // mountpoint of a dead daemon answers every access with an error.
        if let mount = mounts.last(where: { $0.mountpoint == absolute }) {
            guard mount.namesStore else {
                throw CommandError(
                    "\(path) was mounted as \"\(mount.store)\" (fsname=), which does not say where its store is: give the store's "
                        + "directory")
            }
            return StoreLocation(store: mount.store, mountpoint: mount.mountpoint)
        }
        guard isStore(absolute) else {
            guard access(absolute, F_OK) == 0 else { throw CommandError("open \(path)", errno: errno) }
            throw CommandError("\(path) is neither an O3FS store nor the mountpoint of one")
        }
        return StoreLocation(store: absolute, mountpoint: mounts.last { $0.store == absolute }?.mountpoint)
    }

    /// The store behind a STORE argument of a command that needs it unmounted.
    static func unmountedStore(_ path: String) throws(CommandError) -> String {
        let location = try resolve(path)
        if let mountpoint = location.mountpoint {
            throw CommandError("\(location.store) is mounted at \(mountpoint): unmount it first")
        }
        return location.store
    }

    private static func isStore(_ path: String) -> Bool { access(path + "/IDENTITY", F_OK) == 0 }
}

extension Database {
    /// Opens an existing store so that nothing in it changes.
    static func openReadOnly(_ path: String) throws(EngineError) -> Database {
        var options = Options()
        options.createIfMissing = false
        options.readOnly = true
        // What the log holds is read into memory, where it stays: nothing is flushed from a store that is
        // only read. An entry takes at most about three times as much there as in the log.
        options.dmSize = max(leastMemoryBytes, 3 * logBytes(path))
        options.memtableSize = leastMemoryBytes / 4
        return try open(path, options: options)
    }

    /// Opens an existing store to change it.
    static func openExisting(_ path: String) throws(EngineError) -> Database {
        var options = Options()
        options.createIfMissing = false
        return try open(path, options: options.forOneCommand)
    }

    /// A command writes little: reserving gigabytes for it would take longer than its work.
    static let leastMemoryBytes = 64 << 20

    private static func logBytes(_ store: String) -> Int {
        let directory = store + "/wal"
        let names = (try? Files.list(directory)) ?? []
        return names.reduce(0) { $0 + Files.size(directory + "/" + $1) }
    }
}

extension Options {
    /// With little disaggregated memory, for a command that is over soon.
    var forOneCommand: Options {
        var options = self
        options.dmSize = Database.leastMemoryBytes
        options.memtableSize = Database.leastMemoryBytes / 4
        return options
    }
}

/// Runs `body` on an open database and closes it, also when `body` throws.
func withDatabase<R>(_ database: Database, _ body: (Database) throws -> R) throws -> R {
    let result: R
    do { result = try body(database) } catch {
        try? database.close()
        throw error
    }
    try database.close()
    return result
}
