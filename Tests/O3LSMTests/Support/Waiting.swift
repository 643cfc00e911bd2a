import Glibc

@testable import O3LSM

/// Looks every millisecond until `condition` holds, for `seconds` at most: other threads may be slow on a busy machine.
///
/// - Returns: whether it holds.
@discardableResult
func waitUntil(seconds: UInt64 = 20, _ condition: () throws -> Bool) rethrows -> Bool {
    let deadline = monotonicNanoseconds() + seconds * 1_000_000_000
    while try !condition() {
        if monotonicNanoseconds() > deadline { return false }
        usleep(1000)
    }
    return true
}
