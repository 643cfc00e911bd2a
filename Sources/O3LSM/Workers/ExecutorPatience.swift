/// How long a node that answers may keep a job while writers wait for it: its heartbeat comes from another thread, and
/// says nothing of the one that is at the job. One for each attempt.
struct ExecutorPatience {
    private static let leastSeconds = 10.0
    /// Times as long as the job would take at the usual speed.
    private static let factor = 8.0
    /// Before anything is known of the speed, in bytes a second.
    private static let slowestBytesPerSecond = 2e6

    /// When the claim was first seen.
    private var claimedAt: UInt64?

    /// To be asked whenever the job is found claimed.
    ///
    /// - Parameters:
    ///   - bytes: of the job's inputs.
    ///   - bytesPerSecond: at which such jobs were done lately; 0 before the first.
    mutating func isOver(_ now: UInt64, bytes: UInt64, bytesPerSecond: Double) -> Bool {
        let start = claimedAt ?? now
        claimedAt = start
        let speed = bytesPerSecond > 0 ? bytesPerSecond : Self.slowestBytesPerSecond
        return Double(now - start) / 1e9 > Self.leastSeconds + Self.factor * Double(bytes) / speed
    }
}
