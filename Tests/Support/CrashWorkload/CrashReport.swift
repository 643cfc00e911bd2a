import Glibc
import Synchronization

/// A small file that parent and child map: what survives of a child's knowledge when it is killed.
///
/// For each thread: operations begun, operations that returned, operations covered by a sync that returned.
public final class CrashReport: @unchecked Sendable {
    // @unchecked: the mapping is immutable, its words are atomic.
    private let base: UnsafeMutableRawPointer
    private static let bytes = 4096

    /// Maps the file, creating it; nil when that fails.
    public init?(path: String) {
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        guard ftruncate(descriptor, off_t(CrashReport.bytes)) == 0,
            let base = mmap(nil, CrashReport.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0),
            base != MAP_FAILED
        else { return nil }
        self.base = base
    }

    deinit { munmap(base, CrashReport.bytes) }

    /// 1 once the child's store is open.
    public var isReady: Bool {
        get { word(0).pointee.load(ordering: .acquiring) == 1 }
        set { word(0).pointee.store(newValue ? 1 : 0, ordering: .releasing) }
    }
    public func begun(_ thread: Int) -> UnsafeMutablePointer<Atomic<UInt64>> { word(8 + thread * 8) }
    public func returned(_ thread: Int) -> UnsafeMutablePointer<Atomic<UInt64>> { word(9 + thread * 8) }
    public func synced(_ thread: Int) -> UnsafeMutablePointer<Atomic<UInt64>> { word(10 + thread * 8) }

    /// Operations of every thread that have returned.
    public func allReturned() -> [UInt64] {
        (0..<CrashModel.threads).map { returned($0).pointee.load(ordering: .acquiring) }
    }

    private func word(_ index: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
        (base + index * 8).assumingMemoryBound(to: Atomic<UInt64>.self)
    }
}
