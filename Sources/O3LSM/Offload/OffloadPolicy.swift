/// What becomes of a sealed memtable that lies in private memory. Pure: the same situation gives the same
/// answer.
///
/// The paper's dynamic offloading weighs local room, room in DM and the costs of both ways out; so does this.
struct OffloadPolicy {
    /// What is known when one memtable is judged.
    struct Situation {
        /// Bytes of the memtable's arenas.
        var bytes: Int
        /// Sealed memtables in private memory, this one included.
        var sealedMemtables: Int
        /// Memtables that private memory holds.
        var localCapacity: Int
        /// Whether DM has the slabs and the slot for the memtable now.
        var hasRoomInDM: Bool
        /// Share of DM's slabs in use, 0 … 1.
        var dmOccupancy: Double
        /// Bytes of memtables that wait in DM for their flush.
        var dmBacklogBytes: Int
        /// Bytes a second of a transfer, as last measured.
        var transferBytesPerSecond: Double
        /// Bytes a second of a flush, as last measured; 0 before the first one.
        var flushBytesPerSecond: Double
        /// Whether another process takes flushes off the owner's hands.
        var hasWorkers: Bool
    }

    enum Decision: Equatable, Sendable {
        /// Copy it to DM; it is flushed from there.
        case offload
        /// Flush it from where it is, by a thread of the owner.
        case flushLocally
        /// Keep it for now.
        case wait
    }

    static func decide(_ now: Situation) -> Decision {
        // Writers need one memtable to go on while the next is sealed.
        let isShort = now.sealedMemtables + 1 >= now.localCapacity
        guard now.hasRoomInDM else { return isShort ? .flushLocally : .wait }
        // What workers flush costs the owner a copy; what it flushes itself costs it compression and writes.
        if now.hasWorkers { return .offload }
        guard isShort else {
            // Nobody waits for the room, and nobody else would flush it: the copy would be for nothing.
            return .flushLocally
        }
        // A burst: the way that gives the room back sooner. A transfer is done when the copy is; a flush
        // stands behind nothing, since private memtables are flushed at once.
        let transfer = Double(now.bytes) / max(now.transferBytesPerSecond, 1)
        let flush =
            now.flushBytesPerSecond > 0 ? Double(now.bytes) / now.flushBytesPerSecond : Double.infinity
        return transfer <= flush ? .offload : .flushLocally
    }
}
