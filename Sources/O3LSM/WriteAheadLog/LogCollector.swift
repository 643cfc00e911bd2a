import Synchronization

/// Reads the published entries of the memtables in sequence order, straight from the arenas.
///
/// Each shard holds its entries in arrival order, which is the order of their sequence numbers; merging the
/// shards by "whose next entry is the next number" gives the history back without the write path having to
/// keep a queue of it, and works the same after a restart. Belongs to whoever holds the log's lock.
struct LogCollector {
    private let holder: ReadStateHolder
    private let region: Region
    /// Everything up to this sequence has been handed out, or is durable without the log.
    private(set) var position: SequenceNumber
    private var memtable: Memtable?
    private var cursors: [Cursor] = []
    private var hint = 0

    private struct Cursor {
        var shard: Shard
        var scan: ShardScan
        var head: EntryView?
    }

    init(holder: ReadStateHolder, region: Region, position: SequenceNumber) {
        self.holder = holder
        self.region = region
        self.position = position
    }

    /// Everything up to `sequence` is durable by other means (a flush): the log need not hold it, nor the memtable it is in.
    mutating func skip(to sequence: SequenceNumber) {
        let isAtEnd = memtable.map { $0.lastSequence != 0 && $0.lastSequence <= position } ?? false
        guard sequence > position || isAtEnd else { return }
        position = max(position, sequence)
        memtable = nil
        cursors = []
    }

    /// Goes back to hand out again what lies after `sequence`, which must still be in DM.
    mutating func rewind(to sequence: SequenceNumber) {
        position = sequence
        memtable = nil
        cursors = []
    }

    /// Appends whole batches to `record` until it holds at least `targetBytes` or everything up to `end` is
    /// in it, or until numbers are missing that a flush has made durable: a record's numbers are consecutive.
    ///
    /// - Returns: whether anything was appended.
    /// - Throws: `.corruption` when the arenas do not hold the sequence that must come next.
    mutating func collect(into record: inout LogRecordBuilder, upTo end: SequenceNumber, targetBytes: Int)
        throws(EngineError) -> Bool
    {
        var appended = false
        var farBytes = 0
        defer { if farBytes > 0 { region.fabric?.transfer(farBytes) } }
        while position < end {
            // It may have been sealed since its last entry was handed out.
            if let memtable, memtable.lastSequence != 0, memtable.lastSequence <= position { self.memtable = nil }
            if memtable == nil {
                let before = position
                try enterMemtable()
                // A record says only where its numbers begin: what a flush has made durable meanwhile ends it.
                if position != before, record.entries > 0 { break }
            }
            // A flush may have made more durable meanwhile than was visible when `end` was taken: what follows
            // may not be written yet.
            guard let memtable, position < end else { break }
            let next = position + 1
            guard let index = try cursor(for: next), let entry = cursors[index].head else {
                throw .corruption(
                    file: "DM region \(region.name), memtable \(memtable.id)", offset: 0,
                    expected: "an entry with sequence \(next)", found: "none")
            }
            guard entry.isIntact(room: Int(entry.allocation)) else {
                throw .corruption(
                    file: "DM region \(region.name), memtable \(memtable.id)", offset: 0,
                    expected: "an entry with sequence \(next) and an intact checksum", found: "other bytes")
            }
            record.append(entry)
            if memtable.fabric != nil { farBytes += Int(entry.allocation) }
            appended = true
            position = next
            cursors[index].head = try cursors[index].scan.next() ? cursors[index].scan.current : nil
            if entry.isLastOfBatch, record.count >= targetBytes { break }
        }
        return appended
    }

    /// The cursor whose next entry has this sequence; the one that served last is tried first.
    private mutating func cursor(for sequence: SequenceNumber) throws(EngineError) -> Int? {
        if hint < cursors.count, cursors[hint].head?.sequence == sequence { return hint }
        for attempt in 0..<2 {
            for index in cursors.indices {
                if cursors[index].head == nil, try cursors[index].scan.next() {
                    cursors[index].head = cursors[index].scan.current
                }
                // Below the position lies only what is durable: by a flush, or in a log of the last owner.
                while let head = cursors[index].head, head.sequence <= position {
                    cursors[index].head = try cursors[index].scan.next() ? cursors[index].scan.current : nil
                }
                if cursors[index].head?.sequence == sequence {
                    hint = index
                    return index
                }
            }
            if attempt == 0 { addNewShards() }
        }
        return nil
    }

    private mutating func enterMemtable() throws(EngineError) {
        let next = position + 1
        let state = holder.current
        cursors = []
        hint = 0
        memtable = state.memtables.first { $0.firstSequence <= next && ($0.state == .active || $0.lastSequence >= next) }
        if memtable == nil {
            // What is not in DM any more has been flushed; the oldest memtable goes on from there.
            guard let oldest = state.memtables.last, oldest.firstSequence > next else { return }
            position = oldest.firstSequence - 1
            memtable = oldest
        }
        addNewShards()
    }

    private mutating func addNewShards() {
        guard let memtable else { return }
        for shard in memtable.map.shards where !cursors.contains(where: { $0.shard === shard }) {
            cursors.append(Cursor(shard: shard, scan: ShardScan(shard), head: nil))
        }
    }
}
