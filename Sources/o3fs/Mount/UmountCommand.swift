import ArgumentParser
import FUSE
import Glibc

/// `o3fs umount MOUNTPOINT`.
struct UmountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "umount",
        abstract: "Unmount a store and wait until its daemon has closed it.",
        aliases: ["unmount"])

    @Argument(help: "Where the store is mounted.")
    var mountpoint: String

    @Flag(name: .shortAndLong, help: "Also when files are open: their users get errors from then on.")
    var force = false

    @Option(help: "Seconds to wait for the daemon to close the store; 0 for as long as it takes.")
    var timeout = 0.0

    func run() throws {
        let path = try Files.absolute(mountpoint)
        guard let mount = MountTable.mountedStores().last(where: { $0.mountpoint == path }) else {
            throw CommandError("\(mountpoint) is not the mountpoint of an O3FS store")
        }
        if let error = FUSE.MountTable.unmount(path) {
            guard force || error.code == ENOTCONN else {
                if error.code == EBUSY {
                    throw CommandError("\(mountpoint) is busy: files in it are open, or it is somebody's directory")
                }
                throw CommandError("unmount \(mountpoint)", errno: error.code)
            }
            if let error = FUSE.MountTable.detach(path) {
                throw CommandError("unmount \(mountpoint)", errno: error.code)
            }
        }
        guard mount.namesStore else {
            return Console.note(
                "\(mountpoint) is unmounted; its daemon is not waited for, as the mount was called \"\(mount.store)\" (fsname=)")
        }
        let isFree = StoreLock.waitUntilFree(store: mount.store, timeout: timeout) {
            Console.note(
                "\(mountpoint) is unmounted; its daemon has yet to write what it holds, or the store is mounted elsewhere: "
                    + "waiting for it to close \(mount.store)")
        }
        guard isFree else {
            throw CommandError(
                "\(mountpoint) is unmounted, but its daemon has not closed \(mount.store) after \(timeout) seconds")
        }
    }
}

/// The lock a daemon holds on its store, seen from outside.
enum StoreLock {
    /// Seconds after which a user may ask what is waited for.
    private static let longWaitSeconds = 2.0

    /// Waits until nobody holds it; false when `timeout` seconds (0: no limit) have passed.
    ///
    /// - Parameter takesLong: called once in a wait of more than two seconds.
    static func waitUntilFree(store: String, timeout: Double, takesLong: () -> Void = {}) -> Bool {
        let descriptor = open(store + "/LOCK", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return true }
        defer { close(descriptor) }
        var waited = 0.0
        var isTold = false
        while flock(descriptor, LOCK_SH | LOCK_NB) != 0 {
            guard errno == EWOULDBLOCK || errno == EINTR, timeout == 0 || waited < timeout else { return false }
            usleep(5000)
            waited += 0.005
            if waited > longWaitSeconds, !isTold {
                isTold = true
                takesLong()
            }
        }
        return true
    }
}
