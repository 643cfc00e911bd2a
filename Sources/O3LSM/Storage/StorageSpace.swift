/// How much room there is where a store lives, as far as anybody has to mind.
enum StorageSpace: Equatable, Sendable {
    case ample
    /// Free bytes: no work that needs more is begun, and what is deleted is given back without waiting for its turn.
    case low(UInt64)
    /// Free bytes: writers may take no more. Storage must be able to take what DM holds, and leave room for the
    /// compactions that give space back; writers are told before it is too late.
    case scarce(UInt64)

    /// - Parameters:
    ///   - free, total: bytes of storage.
    ///   - unflushed: bytes of memtables.
    init(free: UInt64, total: UInt64, unflushed: UInt64) {
        let least = unflushed + Self.reserveBytes(ofStorage: total)
        self = free < least ? .scarce(free) : free < least + total / Self.lowPart ? .low(free) : .ample
    }

    /// The part of storage, 1/8, that counts as little room when no more is left beside the reserve.
    private static let lowPart: UInt64 = 8

    /// Bytes of storage that writers may not fill.
    static func reserveBytes(ofStorage total: UInt64) -> UInt64 { min(256 << 20, total / 32) }

    /// nil: enough.
    var freeBytes: UInt64? {
        switch self {
        case .ample: nil
        case .low(let free), .scarce(let free): free
        }
    }

    var isScarce: Bool { if case .scarce = self { true } else { false } }
}
