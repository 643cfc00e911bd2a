import Synchronization

/// Everything a read needs, frozen: the memtables, newest first, and the version of the tables. Holding it
/// keeps slabs and files from being reused.
final class ReadState: Sendable {
    /// Newest first; the first one is active.
    let memtables: [Memtable]
    let version: Version
    /// Of a read that meets all memtables in DM but the active one; nil: there are none. A hint: what a read may leave to
    /// others it finds out by itself.
    let readClass: ReadClass?

    init(memtables: [Memtable], version: Version) {
        self.memtables = memtables
        self.version = version
        let sealed = memtables.dropFirst().filter(\.isInDM)
        readClass = sealed.first.map { ReadClass(isFar: $0.fabric != nil, memtables: sealed.count) }
    }
}

/// Publishes the newest `ReadState`. Thread-safe.
final class ReadStateHolder: Sendable {
    private let state: Mutex<ReadState>

    init(_ initial: ReadState) { state = Mutex(initial) }

    /// The newest state. Take it before the sequence to read at.
    @inline(__always)
    var current: ReadState { state.withLock { $0 } }

    func update(_ change: (ReadState) -> ReadState) {
        // The old state may be the last to hold slabs and files: it is released outside the lock.
        let old = state.withLock { state in
            let old = state
            state = change(state)
            return old
        }
        withExtendedLifetime(old) {}
    }
}

/// The snapshots that are held, for those who drop old versions of entries. Thread-safe.
final class SnapshotList: Sendable {
    private let counts = Mutex<[SequenceNumber: Int]>([:])

    /// Registers the sequence that `read` answers while no other snapshot can come or go.
    func take(_ read: () -> SequenceNumber) -> SequenceNumber {
        counts.withLock { counts in
            let sequence = read()
            counts[sequence, default: 0] += 1
            return sequence
        }
    }

    func release(_ sequence: SequenceNumber) {
        counts.withLock { counts in
            guard let count = counts[sequence] else { return }
            counts[sequence] = count == 1 ? nil : count - 1
        }
    }

    /// Ascending.
    var sequences: [SequenceNumber] { counts.withLock { $0.keys.sorted() } }
}
