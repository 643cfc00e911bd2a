/// Whether jobs should be kept from workers for a while: they have failed again and again where the owner of
/// the store may do better (a worker's own quota, a bad build, a sick processor).
struct WorkerDistrust {
    private static let failuresInARow = 2
    private static let nanoseconds: UInt64 = 30_000_000_000

    private var failures = 0
    private var until: UInt64 = 0

    mutating func failed(isOwn: Bool, _ now: UInt64) {
        guard !isOwn else { return }
        failures += 1
        guard failures >= WorkerDistrust.failuresInARow else { return }
        failures = 0
        until = now + WorkerDistrust.nanoseconds
    }

    mutating func succeeded(isOwn: Bool) { if !isOwn { failures = 0 } }

    func isActive(_ now: UInt64) -> Bool { now < until }
}
