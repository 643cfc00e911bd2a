/// When the log must be synced so that no operation stays un-synced for longer than the commit interval, and not
/// earlier: most of what is written becomes durable by a flush, without the log. A value with one owner, who looks at
/// the visible sequence at regular times.
///
///     |------ an operation comes after this look
///     |   |   |   |   |   |   |   |   |   looks, an eighth of the interval apart
///                             ^ is due, unless it has become durable: the rest is for the sync
struct CommitSchedule {
    /// All that lies after the mark before it and up to `sequence` became visible after `since`, in nanoseconds.
    private struct Mark {
        var since: UInt64
        var sequence: SequenceNumber
    }

    private let intervalNanoseconds: UInt64
    /// Ascending; only the last may be durable.
    private var marks: [Mark] = []
    private var lastLook: UInt64 = 0

    private static let looksPerInterval = 8
    /// Looks before the end of the interval at which an operation is due.
    private static let looksAhead: UInt64 = 2
    private static let maximumMarks = 2 * looksPerInterval

    /// - Parameter visible: from before; how old that is nobody knows.
    init(intervalNanoseconds: UInt64, now: UInt64, visible: SequenceNumber) {
        self.intervalNanoseconds = intervalNanoseconds
        looked(now, visible: visible)
    }

    /// Between two looks.
    var lookMilliseconds: Int { max(1, Int(lookNanoseconds / 1_000_000)) }
    private var lookNanoseconds: UInt64 { intervalNanoseconds / UInt64(Self.looksPerInterval) }

    /// Whether something that is not durable would be too old if it waited for another look.
    mutating func isDue(_ now: UInt64, durable: SequenceNumber) -> Bool {
        marks.removeAll { $0.sequence <= durable }
        guard let oldest = marks.first else { return false }
        return now + Self.looksAhead * lookNanoseconds >= oldest.since + intervalNanoseconds
    }

    /// Call at each look, with a time that is not after the reading of the visible sequence.
    mutating func looked(_ now: UInt64, visible: SequenceNumber) {
        defer { lastLook = now }
        guard visible > marks.last?.sequence ?? 0 else { return }
        if marks.count < Self.maximumMarks {
            marks.append(Mark(since: lastLook, sequence: visible))
        } else {
            // The log fails: what comes counts as old as what waits.
            marks[marks.count - 1].sequence = visible
        }
    }
}
