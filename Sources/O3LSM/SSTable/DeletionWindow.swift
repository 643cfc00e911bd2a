/// Finds where deletes lie closest to each other: the most of them among `length` consecutive entries.
///
/// A table may hold few deletes for its size, and yet so many in one place that every scan crawls that comes there. (The
/// idea of a window is RocksDB's, its CompactOnDeletionCollector.) A value with one owner.
struct DeletionWindow {
    /// Entries of a window, a power of two; part of the table format. A scan steps over that many deletes in less than a
    /// millisecond.
    static let length = 4096

    /// One bit for each of the last `length` entries, the next one's place going round: whether it is a delete.
    private var bits = [UInt64](repeating: 0, count: DeletionWindow.length / 64)
    private var place = 0
    private var count: UInt64 = 0
    /// The most deletes that any window has held so far.
    private(set) var most: UInt64 = 0

    /// Takes the next entry of the table.
    @inline(__always)
    mutating func add(isDelete: Bool) {
        // A window without deletes looks the same wherever it is.
        if isDelete || count > 0 { move(isDelete) }
    }

    private mutating func move(_ isDelete: Bool) {
        let bit: UInt64 = 1 << UInt64(place & 63)
        let wasDelete = bits[place >> 6] & bit != 0
        if isDelete != wasDelete {
            bits[place >> 6] ^= bit
            count = isDelete ? count + 1 : count - 1
            most = max(most, count)
        }
        place = (place + 1) & (DeletionWindow.length - 1)
    }
}
