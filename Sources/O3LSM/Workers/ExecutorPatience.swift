/// How long a node that answers may keep a job while writers wait for it: its heartbeat comes from another thread, and
/// says nothing of the one that is at the job.
enum ExecutorPatience {
    private static let leastSeconds = 10.0
    /// Times as long as the job would take at the usual speed.
    private static let factor = 8.0
    /// Before anything is known of the speed, in bytes a second.
    private static let slowestBytesPerSecond = 2e6

    /// - Parameters:
    ///   - nanoseconds: since the job was claimed.
    ///   - bytes: of the job's inputs.
    ///   - bytesPerSecond: at which such jobs were done lately; 0 before the first.
    static func isOver(_ nanoseconds: UInt64, bytes: UInt64, bytesPerSecond: Double) -> Bool {
        let speed = bytesPerSecond > 0 ? bytesPerSecond : slowestBytesPerSecond
        return Double(nanoseconds) / 1e9 > leastSeconds + factor * Double(bytes) / speed
    }
}
