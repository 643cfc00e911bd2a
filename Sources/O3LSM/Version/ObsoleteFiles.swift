import Synchronization

/// Tables that no version names any more, and files that a crash has left behind, on their way to being removed. They
/// arrive from wherever the last reader let go, and from the opening of the store, and are removed by the control plane,
/// so that no reader waits for a disk: a table of 8 MiB takes milliseconds. Thread-safe.
final class ObsoleteFiles: Sendable {
    private struct Due {
        var tables: [UInt64] = []
        var orphans: [String] = []
    }
    private let due = Mutex(Due())
    private let layout: StoreLayout
    private let storage: any Storage
    private let tables: TableCache

    init(layout: StoreLayout, storage: any Storage, tables: TableCache) {
        self.layout = layout
        self.storage = storage
        self.tables = tables
    }

    /// A table that was in use.
    func add(_ number: UInt64) { due.withLock { $0.tables.append(number) } }

    /// A file that nobody of this owner has had open. Its name may not be given out again.
    func add(orphan path: String) { due.withLock { $0.orphans.append(path) } }

    /// Best effort: a file that stays is removed at the next start, when no version names it.
    ///
    /// - Parameter orphanLimit: files of a crash to remove at most: there may be hundreds.
    /// - Returns: whether there are more.
    @discardableResult
    func remove(orphanLimit: Int = .max) -> Bool {
        let (numbers, orphans, isMore) = due.withLock { due in
            let orphans = due.orphans.suffix(orphanLimit)
            due.orphans.removeLast(orphans.count)
            defer { due.tables = [] }
            return (due.tables, orphans, !due.orphans.isEmpty)
        }
        for number in numbers {
            tables.evict(number: number)
            try? storage.delete(layout.table(number))
        }
        for path in orphans { try? storage.delete(path) }
        return isMore
    }
}
