import CSystem
import Glibc
import Synchronization

/// Atomic access to words of shared memory. The standard library's atomics are laid out as the bare
/// integer, so a word of the region can be used as one in place.
@inline(__always)
func sharedWord32(_ address: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Atomic<UInt32>> {
    address.assumingMemoryBound(to: Atomic<UInt32>.self)
}

@inline(__always)
func sharedWord64(_ address: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Atomic<UInt64>> {
    address.assumingMemoryBound(to: Atomic<UInt64>.self)
}

/// A futex word of the region: waiting costs no processor time, ringing an unattended bell is cheap.
struct Doorbell: @unchecked Sendable {
    // @unchecked: all access is atomic.
    private let word: UnsafeMutablePointer<Atomic<UInt32>>

    init(_ address: UnsafeMutableRawPointer) { word = sharedWord32(address) }

    /// The count to pass to `wait`: read it before checking for work.
    var ticket: UInt32 { word.pointee.load(ordering: .acquiring) }

    func ring() {
        _ = word.pointee.wrappingAdd(1, ordering: .releasing)
        _ = o3_futex_wake(UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), Int32.max)
    }

    /// Returns when the bell has rung since `ticket` was taken, or after `milliseconds`.
    func wait(since ticket: UInt32, milliseconds: Int) {
        var timeout = timespec(tv_sec: milliseconds / 1000, tv_nsec: (milliseconds % 1000) * 1_000_000)
        _ = o3_futex_wait(UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), ticket, &timeout)
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
