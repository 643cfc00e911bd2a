/// Decides which entries a compaction keeps.
///
/// Snapshots cut the sequences into *strata*: (0, s₁], (s₁, s₂], …, (sₙ, ∞). No reader can tell two
/// entries of a key in one stratum apart but by the newest, so that one is kept, unless a range tombstone
/// of the same stratum covers it. A delete that has no older entry below it, neither in the inputs nor
/// deeper, is dropped.
///
/// Entries come in internal-key order. Allocates nothing once `heldDeletes` has grown.
struct CompactionFilter {
    enum Verdict {
        case kept
        /// A newer entry of the key in the same stratum hides it.
        case shadowed
        /// A range tombstone of the same stratum hides it.
        case covered
        /// A delete which is needed only if an older entry of the key is kept.
        case held
    }

    private let strata: SnapshotStrata
    private let tombstones: FragmentedTombstones
    private let deeperRanges: [KeyRange]
    private var tombstoneHint = 0
    /// The first deeper range that does not end before the current key.
    private var deeperIndex = 0
    private var mayLieDeeper = false
    /// The stratum of the key's last entry; -1 before its first.
    private var stratum = -1
    /// Trailers of the current key's deletes that were held, newest first. Whoever is told `.kept` writes
    /// them first and empties the list.
    var heldDeletes: [Trailer] = []

    init(_ descriptor: CompactionDescriptor, _ tombstones: FragmentedTombstones) {
        strata = SnapshotStrata(descriptor.snapshots)
        deeperRanges = descriptor.deeperRanges
        self.tombstones = tombstones
    }

    /// Goes on to the next user key; keys ascend.
    ///
    /// - Returns: how many deletes of the previous key were held to the end, and so are dropped.
    mutating func beginKey(_ key: UnsafeRawBufferPointer) -> Int {
        let dropped = heldDeletes.count
        heldDeletes.removeAll(keepingCapacity: true)
        stratum = -1
        mayLieDeeper = false
        while deeperIndex < deeperRanges.count {
            let position = deeperRanges[deeperIndex].position(of: key)
            if position <= 0 {
                mayLieDeeper = position == 0
                break
            }
            deeperIndex += 1
        }
        return dropped
    }

    mutating func judge(_ key: UnsafeRawBufferPointer, _ trailer: Trailer) -> Verdict {
        let sequence = trailer.sequence
        let own = strata.stratum(of: sequence)
        if own == stratum { return .shadowed }
        stratum = own
        if !tombstones.isEmpty {
            let covering = tombstones.newestCovering(key, upTo: strata.upperEnd(of: own), hint: &tombstoneHint)
            if covering > sequence { return .covered }
        }
        if trailer.kind == .delete, !mayLieDeeper {
            heldDeletes.append(trailer)
            return .held
        }
        return .kept
    }
}
