import FUSE
import Glibc
import O3FileSystem
import O3LSM

/// What is to be mounted where and how, checked as far as it can be without touching the store.
struct MountPlan {
    /// Absolute paths without symbolic links.
    let store: String
    let mountpoint: String
    var engine = O3LSM.Options()
    /// Bytes of a data block when the store is made; nil: the file system's default.
    var fileBlockSize: Int?
    /// Limits that the store is to have; nil leaves those it has, 0 is none.
    var maximumBytes: UInt64?
    var maximumInodes: UInt64?
    var shownOwner = FileSystemAdapter.ShownOwner()
    /// When reading sets access times.
    var accessTimes = AccessTimePolicy.relative
    var directoryAccessTimes = true
    var timeouts = FileSystemAdapter.Timeouts()
    var session = SessionOptions()
    /// Processes of the mount's own that flush and compact for it.
    var workers = 0
    var workerArguments: [String] = []
    /// At which rate all tables are read every week; nil: they are not.
    var scrubBytesPerSecond: UInt64?
    /// How far away storage is to seem.
    var distance = DistanceOptions()

    init(store: String, mountpoint: String) {
        self.store = store
        self.mountpoint = mountpoint
    }

    /// Where the background daemon reports trouble when the user does not say.
    var logFile: String { store + "/o3fs.log" }

    /// The absolute path of a directory that can be mounted on.
    static func check(mountpoint: String) throws(CommandError) -> String {
        var info = stat()
        guard stat(mountpoint, &info) == 0 else {
            let code = errno
            if code == ENOTCONN || code == ECONNABORTED {
                throw CommandError(
                    "\(mountpoint) is the mountpoint of a file system whose daemon is dead: run o3fs umount "
                        + "\(mountpoint)")
            }
            throw CommandError("use the mountpoint \(mountpoint)", errno: code)
        }
        guard info.st_mode & S_IFMT == S_IFDIR else {
            throw CommandError("the mountpoint \(mountpoint) is not a directory")
        }
        return try Files.absolute(mountpoint)
    }

    /// A store under its own mountpoint would be hidden by it, and its daemon would wait for itself.
    ///
    /// - Parameter logFile: absolute and without symbolic links; the daemon would wait for it, too.
    func checkNesting(logFile: String? = nil) throws(CommandError) {
        if let logFile, logFile.hasPrefix(mountpoint + "/") {
            throw CommandError("the log file \(logFile) lies under the mountpoint \(mountpoint)")
        }
        if (store + "/").hasPrefix(mountpoint + "/") || mountpoint == "/" {
            throw CommandError("the store \(store) lies under its own mountpoint \(mountpoint)")
        }
        if (mountpoint + "/").hasPrefix(store + "/") {
            throw CommandError("the mountpoint \(mountpoint) lies inside the store \(store)")
        }
    }
}
