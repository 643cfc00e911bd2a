import Synchronization

/// What it costs writers to seal the active memtable and go on in another: its boundaries are learned, and room is
/// taken for the next one. Written under the write path's switch lock, read by anybody.
final class HandOverCounter: Sendable {
    private let count = Atomic<Int>(0)
    private let total = Atomic<UInt64>(0)
    private let longest = Atomic<UInt64>(0)

    func record(_ nanoseconds: UInt64) {
        count.wrappingAdd(1, ordering: .relaxed)
        total.wrappingAdd(nanoseconds, ordering: .relaxed)
        longest.max(nanoseconds, ordering: .relaxed)
    }

    func statistics() -> Statistics.HandOver {
        Statistics.HandOver(
            count: count.load(ordering: .relaxed), seconds: Double(total.load(ordering: .relaxed)) / 1e9,
            longestSeconds: Double(longest.load(ordering: .relaxed)) / 1e9)
    }
}
