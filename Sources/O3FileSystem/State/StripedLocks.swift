import Glibc
import O3LSM
import Synchronization

/// One lock for each of many groups of inodes, with a version that tells readers whether anything
/// changed while they looked.
///
/// A change of an inode's rows is made with its stripe locked; several stripes are locked in ascending
/// order, so that no two operations can wait for each other. The version is odd while the stripe is
/// locked and grows with each change, so that a reader needs no lock: what it read between two equal
/// even versions is one state (a sequence lock; the rows themselves are atomic).
///
/// Each stripe owns a write batch, which the holder of the lock may use: no operation allocates one.
final class StripedLocks: @unchecked Sendable {
    // @unchecked: the memory is only used as locks and atomics; a batch only by its lock's holder.
    static let count = 1024
    private static let strideBytes = 64
    private static let versionOffset = 48

    private let memory: UnsafeMutableRawPointer
    private let batches: [WriteBatch]

    init() {
        precondition(MemoryLayout<pthread_mutex_t>.size <= Self.versionOffset)
        memory = .allocate(byteCount: Self.count * Self.strideBytes, alignment: Self.strideBytes)
        batches = (0..<Self.count).map { _ in WriteBatch() }
        for stripe in 0..<Self.count {
            mutex(stripe).initialize(to: pthread_mutex_t())
            pthread_mutex_init(mutex(stripe), nil)
            versionPointer(stripe).initialize(to: Atomic<UInt64>(0))
        }
    }

    deinit {
        for stripe in 0..<Self.count {
            pthread_mutex_destroy(mutex(stripe))
            versionPointer(stripe).deinitialize(count: 1)
        }
        memory.deallocate()
    }

    @inline(__always)
    func stripe(of inode: InodeNumber) -> Int { Int(truncatingIfNeeded: (inode &* 0x9e37_79b9_7f4a_7c15) >> 54) }

    /// The stripe's version; odd: somebody holds the lock.
    @inline(__always)
    func version(_ stripe: Int) -> UInt64 { versionPointer(stripe).pointee.load(ordering: .acquiring) }

    /// Whether nothing changed since `version`, an even one, was read.
    @inline(__always)
    func isUnchanged(_ stripe: Int, since version: UInt64) -> Bool {
        guard version & 1 == 0 else { return false }
        atomicMemoryFence(ordering: .acquiring)
        return versionPointer(stripe).pointee.load(ordering: .acquiring) == version
    }

    /// For the holder of the lock: whether nobody else held it since `version` was read.
    @inline(__always)
    func isOnlyLocked(_ stripe: Int, since version: UInt64) -> Bool {
        version & 1 == 0 && self.version(stripe) == version + 1
    }

    func lock(_ stripe: Int) {
        pthread_mutex_lock(mutex(stripe))
        versionPointer(stripe).pointee.wrappingAdd(1, ordering: .sequentiallyConsistent)
    }

    /// As `lock`, or false when others held it for so many milliseconds.
    func lock(_ stripe: Int, within milliseconds: Int) -> Bool {
        var waited = 0
        while pthread_mutex_trylock(mutex(stripe)) != 0 {
            guard waited < milliseconds else { return false }
            usleep(1000)
            waited += 1
        }
        versionPointer(stripe).pointee.wrappingAdd(1, ordering: .sequentiallyConsistent)
        return true
    }

    func unlock(_ stripe: Int) {
        versionPointer(stripe).pointee.wrappingAdd(1, ordering: .sequentiallyConsistent)
        pthread_mutex_unlock(mutex(stripe))
    }

    func lock(_ set: StripeSet) {
        for index in 0..<set.count { lock(set.stripes[index]) }
    }

    func unlock(_ set: StripeSet) {
        for index in 0..<set.count { unlock(set.stripes[index]) }
    }

    /// An empty batch for the holder of the stripe's lock.
    func batch(_ stripe: Int) -> WriteBatch {
        batches[stripe].clear()
        return batches[stripe]
    }

    func batch(_ set: StripeSet) -> WriteBatch { batch(set.stripes[0]) }

    private func mutex(_ stripe: Int) -> UnsafeMutablePointer<pthread_mutex_t> {
        (memory + stripe * Self.strideBytes).assumingMemoryBound(to: pthread_mutex_t.self)
    }

    @inline(__always)
    private func versionPointer(_ stripe: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
        (memory + stripe * Self.strideBytes + Self.versionOffset).assumingMemoryBound(to: Atomic<UInt64>.self)
    }
}

/// Up to four stripes, ascending and each once: the order in which they are locked.
struct StripeSet {
    private(set) var stripes = InlineArray<4, Int>(repeating: 0)
    private(set) var count = 0

    /// The fifth different stripe is ignored: no operation changes more than four inodes.
    mutating func insert(_ stripe: Int) {
        var place = 0
        while place < count, stripes[place] < stripe { place += 1 }
        if place < count, stripes[place] == stripe { return }
        guard count < 4 else { return }
        var index = count
        while index > place {
            stripes[index] = stripes[index - 1]
            index -= 1
        }
        stripes[place] = stripe
        count += 1
    }
}
