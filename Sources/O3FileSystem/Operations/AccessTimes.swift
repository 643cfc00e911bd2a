import Glibc
import O3LSM

/// When reading a file, a directory or a symbolic link sets its access time: as mount(8) names it.
public enum AccessTimePolicy: Sendable {
    /// `noatime`
    case never
    /// `relatime`: when the file was modified or changed since it was last read, or a day has passed.
    case relative
    /// `strictatime`
    case always
}

extension FileSystem {
    private static let daySeconds: Int64 = 86_400
    /// Reads within a tick of the clock of other file systems set the time once.
    private static let tickNanoseconds: Int64 = 4_000_000

    /// How long a reader waits for those that change the file: they may be waiting for memory, and the reader holds some.
    private static let patienceMilliseconds = 10

    /// Sets the access time of a file that was read, if it is to be. One that cannot be set at once (the store or memory is
    /// full, say) stays what it is: that is no reason for a read to fail, or to wait.
    public func noteAccess(_ inode: InodeNumber) {
        guard options.accessTimes != .never, let row = try? loadInode(inode) else { return }
        if row.isDirectory, !options.directoryAccessTimes { return }
        let now = options.clock()
        guard isDue(row, now) else { return }
        let stripe = locks.stripe(of: inode)
        guard locks.lock(stripe, within: Self.patienceMilliseconds) else { return }
        defer { locks.unlock(stripe) }
        // Others have read it, too.
        guard let found = try? lockedInode(inode), isDue(found, now) else { return }
        var changed = found
        changed.accessTime = now
        let batch = locks.batch(stripe)
        batch.put(.inode(inode), changed)
        // Usage does not change with a time.
        do throws(EngineError) {
            if try store.writeWithoutWaiting(batch) { settle(inode, changed) }
        } catch {
            cache.remove(inode)
        }
    }

    @inline(__always)
    private func isDue(_ row: Inode, _ now: Timestamp) -> Bool {
        let last = row.accessTime
        if options.accessTimes == .relative, last > row.modificationTime, last > row.changeTime,
            now.seconds.subtractingReportingOverflow(last.seconds).partialValue < Self.daySeconds
        { return false }
        // A time in the future is replaced, as by other file systems.
        let (seconds, overflow) = now.seconds.subtractingReportingOverflow(last.seconds)
        guard !overflow, (0...1).contains(seconds) else { return true }
        return seconds * 1_000_000_000 + Int64(now.nanoseconds) - Int64(last.nanoseconds) >= Self.tickNanoseconds
    }
}
