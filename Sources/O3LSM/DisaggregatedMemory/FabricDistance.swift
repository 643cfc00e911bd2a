import CSystem
import Glibc
import Synchronization

/// How far the compute node is from DM: what its accesses to memtables there would cost across a fabric. For
/// measuring on one machine what far memory does to a store. Thread-safe.
///
/// Only the owner of a store has one (`Region.fabric`); workers sit next to the memory, and private memory is near.
/// What is charged, in round trips:
///
/// - a filter probe: one;
/// - a search of a skiplist: one for the head and one for each node that is read, since the next address is known
///   only when the node is there. A node comes whole, key and links, and is not read twice in a search;
/// - an insertion: the search, and one more, since its writes need not wait for each other;
/// - an access to an entry whose place is known (`OffsetCache`): one;
/// - a step of an iterator: one when it comes to another block (a step back is a search);
/// - a piece of a transfer, of a flush by the owner, or of what the log reads: one, and its bytes at the bandwidth,
///   which all share. Recovery pays like one piece for the memtables it finds.
///
/// Not charged: reserving room, whose counters an owner would keep near, and values of single entries beyond their
/// round trip.
final class FabricDistance: Sendable {
    /// Of one round trip.
    let latencyNanoseconds: UInt64
    private let link: RateLimiter?
    private let storedTrips = Atomic<Int>(0)
    private let storedBytes = Atomic<Int>(0)

    /// What one round trip brings of entries that lie side by side.
    static let blockBytes = 4096

    /// Up to here a wait spins, and longer ones spin at their end: the kernel wakes sleepers about this late.
    private static let spinNanoseconds: UInt64 = 60_000

    /// nil when memory is to be as near as it is.
    ///
    /// - Parameters:
    ///   - latencyNanoseconds: of one round trip; 0 for none.
    ///   - bytesPerSecond: of all transfers together; nil: unbounded.
    init?(latencyNanoseconds: Int, bytesPerSecond: Int?) {
        guard latencyNanoseconds > 0 || bytesPerSecond != nil else { return nil }
        self.latencyNanoseconds = UInt64(max(0, latencyNanoseconds))
        link = bytesPerSecond.map { RateLimiter(bytesPerSecond: UInt64(max(1, $0))) }
    }

    /// Round trips paid for so far by accesses, transfers left aside.
    var paidRoundTrips: Int { storedTrips.load(ordering: .relaxed) }
    /// Bytes of bulk data paid for so far.
    var paidBytes: Int { storedBytes.load(ordering: .relaxed) }

    /// Waits for round trips of which each needs the one before it.
    ///
    /// - Parameter start: when the first one began (`monotonicNanoseconds`); what has passed since counts.
    func roundTrips(_ count: Int, since start: UInt64 = monotonicNanoseconds()) {
        storedTrips.wrappingAdd(max(0, count), ordering: .relaxed)
        wait(count, since: start)
    }

    private func wait(_ count: Int, since start: UInt64) {
        let end = start + UInt64(max(0, count)) * latencyNanoseconds
        var now = monotonicNanoseconds()
        while now < end {
            if end - now > FabricDistance.spinNanoseconds {
                let left = end - now - FabricDistance.spinNanoseconds
                var time = timespec(tv_sec: Int(left / 1_000_000_000), tv_nsec: Int(left % 1_000_000_000))
                nanosleep(&time, nil)
            } else {
                o3_cpu_relax()
            }
            now = monotonicNanoseconds()
        }
    }

    /// Waits for a piece of bulk data to have passed.
    func transfer(_ bytes: Int) {
        storedBytes.wrappingAdd(max(0, bytes), ordering: .relaxed)
        wait(1, since: monotonicNanoseconds())
        link?.acquire(UInt64(max(0, bytes)))
    }
}
