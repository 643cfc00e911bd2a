import Synchronization

/// A state of the database that stays readable until the object is released.
public final class Snapshot: Sendable {
    /// Reads through the snapshot see entries up to this one.
    public let sequence: SequenceNumber
    private let release: @Sendable (SequenceNumber) -> Void

    init(sequence: SequenceNumber, release: @escaping @Sendable (SequenceNumber) -> Void) {
        self.sequence = sequence
        self.release = release
    }

    deinit { release(sequence) }
}
