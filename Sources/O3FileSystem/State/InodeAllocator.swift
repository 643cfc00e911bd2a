import Glibc
import O3LSM
import Synchronization

/// Gives out inode numbers, ascending, never one twice.
///
/// Ranges are reserved in the superblock before any number of them is used, by a batch of its own: a
/// crash loses the rest of a range, which is nothing among 2^63.
final class InodeAllocator: Sendable {
    /// Numbers reserved at a time: one superblock write for so many creations.
    private static let rangeSize: UInt64 = 65_536

    private struct State {
        var next: InodeNumber
        var superblock: Superblock
    }

    private let state: Mutex<State>
    private let store: any KeyValueStore

    /// What a store may have given out in the time that a loss of memory takes back, and much more.
    private static let lostRange: UInt64 = 1 << 27

    /// - Parameter mayHaveLostNumbers: somebody may know files by numbers from `superblock` on: none of these is given out.
    init(_ superblock: Superblock, store: any KeyValueStore, mayHaveLostNumbers: Bool = false) {
        var superblock = superblock
        if mayHaveLostNumbers { superblock.nextInode = min(superblock.nextInode + Self.lostRange, inodeNumberEnd) }
        state = Mutex(State(next: superblock.nextInode, superblock: superblock))
        self.store = store
    }

    /// As it is stored.
    var superblock: Superblock { state.withLock { $0.superblock } }
    /// No number from here on is in use.
    var limit: InodeNumber { state.withLock { $0.superblock.nextInode } }

    /// ENOSPC when there is no number left.
    func allocate() throws(FileSystemError) -> InodeNumber {
        try state.withLock { (state) throws(FileSystemError) -> InodeNumber in
            if state.next == state.superblock.nextInode {
                guard state.next <= inodeNumberEnd - Self.rangeSize else { throw .posix(ENOSPC) }
                try Self.reserve(upTo: state.next + Self.rangeSize, &state, store)
            }
            defer { state.next += 1 }
            return state.next
        }
    }

    /// Gives back what is reserved and unused.
    func close() throws(FileSystemError) {
        try state.withLock { (state) throws(FileSystemError) in
            if state.next != state.superblock.nextInode { try Self.reserve(upTo: state.next, &state, store) }
        }
    }

    private static func reserve(
        upTo limit: InodeNumber,
        _ state: inout State,
        _ store: any KeyValueStore
    ) throws(FileSystemError) {
        var superblock = state.superblock
        superblock.nextInode = limit
        let batch = WriteBatch()
        batch.put(RowKey.superblock.bytes, superblock.encoded)
        try store.apply(batch)
        state.superblock = superblock
    }
}
