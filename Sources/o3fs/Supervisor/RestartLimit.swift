/// When a daemon that dies again and again is given up: after more than so many deaths within a while.
struct RestartLimit {
    /// Deaths that are forgiven within the while.
    let maximum: Int
    static let windowNanoseconds: UInt64 = 30_000_000_000
    static let standard = 5

    private var deaths: ArraySlice<UInt64> = []

    init(maximum: Int) { self.maximum = maximum }

    /// Counts a death; false when it was one too many. `now`: monotonic nanoseconds.
    mutating func forgives(deathAt now: UInt64) -> Bool {
        deaths.append(now)
        while let first = deaths.first, now - min(now, first) > Self.windowNanoseconds { deaths.removeFirst() }
        return deaths.count <= maximum
    }
}
