import Synchronization

/// A reference to an object that is set at most once and then read without counting references: what reads it holds
/// whatever holds this. Thread-safe.
struct OnceReference<Object: AnyObject & Sendable>: ~Copyable, Sendable {
    /// The object's address, which this owns; 0: none.
    private let address = Atomic<UInt>(0)

    init() {}

    /// The object, for as long as this value lives; nil before one was set.
    @inline(__always)
    var unmanaged: Unmanaged<Object>? {
        UnsafeRawPointer(bitPattern: address.load(ordering: .acquiring)).map { Unmanaged.fromOpaque($0) }
    }

    /// Sets the object unless one is set. Answers whether it did.
    func set(_ object: Object) -> Bool {
        let retained = Unmanaged.passRetained(object)
        let (exchanged, _) = address.compareExchange(
            expected: 0, desired: UInt(bitPattern: retained.toOpaque()), ordering: .acquiringAndReleasing)
        if !exchanged { retained.release() }
        return exchanged
    }

    deinit { unmanaged?.release() }
}
