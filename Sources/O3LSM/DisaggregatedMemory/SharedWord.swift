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

    /// Returns when the bell has rung since `ticket` was taken, or now and then without a reason.
    func wait(since ticket: UInt32) {
        _ = o3_futex_wait(UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), ticket, nil)
    }
}

/// A doorbell for the threads of this process, in memory of its own.
final class PrivateDoorbell: @unchecked Sendable {
    // @unchecked: the word is atomic.
    private let word: UnsafeMutablePointer<Atomic<UInt32>>
    private let bell: Doorbell

    init() {
        word = .allocate(capacity: 1)
        word.initialize(to: Atomic(0))
        bell = Doorbell(word)
    }

    deinit { word.deallocate() }

    /// As those of `Doorbell`.
    var ticket: UInt32 { bell.ticket }
    func ring() { bell.ring() }
    func wait(since ticket: UInt32, milliseconds: Int) { bell.wait(since: ticket, milliseconds: milliseconds) }
    func wait(since ticket: UInt32) { bell.wait(since: ticket) }
}

/// CLOCK_MONOTONIC in nanoseconds.
func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
