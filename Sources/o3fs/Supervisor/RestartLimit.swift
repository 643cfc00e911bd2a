/// When a daemon that dies again and again is given up: after more than so many deaths within a while, or more than so
/// many in a row before any of them had served, however long each took to die.
struct RestartLimit {
    /// Deaths that are forgiven, of either kind.
    let maximum: Int
    static let windowNanoseconds: UInt64 = 30_000_000_000
    static let standard = 5

    private var deaths: ArraySlice<UInt64> = []
    private var inVain = 0

    init(maximum: Int) { self.maximum = maximum }

    /// Counts a death; false when it was one too many.
    ///
    /// - Parameters:
    ///   - now: monotonic nanoseconds.
    ///   - wasReady: it had served the mount.
    mutating func forgives(deathAt now: UInt64, wasReady: Bool = true) -> Bool {
        inVain = wasReady ? 0 : inVain + 1
        deaths.append(now)
        while let first = deaths.first, now - min(now, first) > Self.windowNanoseconds { deaths.removeFirst() }
        return deaths.count <= maximum && inVain <= maximum
    }

    /// Why the last death was one too many.
    var reason: String {
        inVain > maximum
            ? "\(inVain) daemons in a row died before they served it"
            : "its daemon died \(deaths.count) times in \(Self.windowNanoseconds / 1_000_000_000) seconds"
    }

    /// How long to wait before the next daemon: what killed one that has not served yet may pass.
    var pauseMicroseconds: UInt32 { inVain == 0 ? 0 : min(2_000_000, 50_000 << UInt32(min(inVain, 10) - 1)) }
}
