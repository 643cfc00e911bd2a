/// How far a scrub is, or how the last one went. Keys in JSON are stable.
public struct ScrubReport: Codable, Equatable, Sendable {
    public enum State: String, Codable, Sendable {
        case running
        case done
        /// By the end of the process that did it.
        case stopped
    }

    /// Of this scrub, among those of one process.
    public var id: UInt64
    public var state: State
    public var tables = 0
    public var tablesTotal = 0
    /// Of tables that were read.
    public var bytes: UInt64 = 0
    public var bytesTotal: UInt64 = 0
    /// The most that is read; nil: no bound.
    public var bytesPerSecond: UInt64?
    /// Seconds since 1970; `ended` only when it is over.
    public var started: UInt64
    public var ended: UInt64?
    /// One sentence for each damaged file.
    public var problems: [String] = []

    enum CodingKeys: String, CodingKey {
        case id, state, tables, bytes, started, ended, problems
        case tablesTotal = "tables_total"
        case bytesTotal = "bytes_total"
        case bytesPerSecond = "bytes_per_second"
    }
}
