import Synchronization

/// What the manifest knows of one table. Immutable but for flags and the open table; shared by every version
/// that holds the table, and the table's file may be removed only when the last of them is gone.
final class FileMetadata: Sendable {
    /// The file's number in `sst/`, unique in a store for ever.
    let number: UInt64
    /// Bytes of the file.
    let size: UInt64
    /// Bounds of every entry *and* range tombstone of the table. The end of a tombstone is exclusive:
    /// when it bounds the table, `largest` is (end, `Trailer.first`), which sorts before all entries of
    /// the key `end`.
    let smallest: InternalKey
    let largest: InternalKey
    let smallestSequence: SequenceNumber
    let largestSequence: SequenceNumber
    /// Point entries (puts and deletes).
    let entryCount: UInt64
    /// Point deletes among them.
    let deletionCount: UInt64
    let rangeTombstoneCount: UInt64
    /// The most point deletes among `DeletionWindow.length` consecutive entries; 0 also when that is not known.
    let densestDeletions: UInt64

    /// Set while a compaction job has the table among its inputs. Guarded by the version set's lock.
    let isBeingCompacted = Atomic<Bool>(false)
    /// Set when an edit has removed the table from the newest version: the file goes when the object does.
    let isObsolete = Atomic<Bool>(false)
    /// The open table, when it stays open as long as the metadata is in use. Set by the table cache.
    let table = OnceReference<Table>()
    /// Called once at the end of the object's life if `isObsolete`; removes the file.
    private let reclaim: Mutex<(@Sendable (UInt64) -> Void)?> = Mutex(nil)

    init(
        number: UInt64,
        size: UInt64,
        smallest: InternalKey,
        largest: InternalKey,
        smallestSequence: SequenceNumber,
        largestSequence: SequenceNumber,
        entryCount: UInt64,
        deletionCount: UInt64,
        rangeTombstoneCount: UInt64,
        densestDeletions: UInt64 = 0
    ) {
        self.number = number
        self.size = size
        self.smallest = smallest
        self.largest = largest
        self.smallestSequence = smallestSequence
        self.largestSequence = largestSequence
        self.entryCount = entryCount
        self.deletionCount = deletionCount
        self.rangeTombstoneCount = rangeTombstoneCount
        self.densestDeletions = densestDeletions
    }

    /// The same table as another store has it: its file there lives as long as that store says.
    func copy() -> FileMetadata {
        FileMetadata(
            number: number,
            size: size,
            smallest: smallest,
            largest: largest,
            smallestSequence: smallestSequence,
            largestSequence: largestSequence,
            entryCount: entryCount,
            deletionCount: deletionCount,
            rangeTombstoneCount: rangeTombstoneCount,
            densestDeletions: densestDeletions
        )
    }

    /// Whether two stores of one origin, where numbers are not used twice, have the same table.
    func isSame(as other: FileMetadata) -> Bool {
        number == other.number && size == other.size && smallest == other.smallest && largest == other.largest
            && largestSequence == other.largestSequence
    }

    /// Whether all that the two say of their tables is the same.
    func describesSameTable(as other: FileMetadata) -> Bool {
        isSame(as: other) && smallestSequence == other.smallestSequence && entryCount == other.entryCount
            && deletionCount == other.deletionCount && rangeTombstoneCount == other.rangeTombstoneCount
            && densestDeletions == other.densestDeletions
    }

    /// Whether any key of the table lies in `begin ... end` (both inclusive; nil: unbounded).
    func overlaps(_ begin: [UInt8]?, _ end: [UInt8]?) -> Bool {
        if let end, compareKeys(smallest.userKey, end) > 0 { return false }
        if let begin {
            let order = compareKeys(largest.userKey, begin)
            if order < 0 || (order == 0 && largest.trailer == .first) { return false }
        }
        return true
    }

    /// Installs what removes the file; called by the version set when it adds the table.
    func onReclaim(_ action: @escaping @Sendable (UInt64) -> Void) { reclaim.withLock { $0 = action } }

    deinit {
        guard isObsolete.load(ordering: .relaxed) else { return }
        let action = reclaim.withLock { $0 }
        action?(number)
    }
}
