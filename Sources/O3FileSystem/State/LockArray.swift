import Glibc

/// Many short locks side by side. Thread-safe.
final class LockArray: @unchecked Sendable {
    // @unchecked: the memory is used only as locks.
    private let locks: UnsafeMutablePointer<pthread_mutex_t>
    let count: Int

    init(count: Int) {
        self.count = count
        locks = .allocate(capacity: count)
        for index in 0..<count {
            (locks + index).initialize(to: pthread_mutex_t())
            pthread_mutex_init(locks + index, nil)
        }
    }

    deinit {
        for index in 0..<count { pthread_mutex_destroy(locks + index) }
        locks.deallocate()
    }

    @inline(__always) func lock(_ index: Int) { pthread_mutex_lock(locks + index) }
    @inline(__always) func unlock(_ index: Int) { pthread_mutex_unlock(locks + index) }
}
