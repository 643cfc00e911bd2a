/// `o3fs export`: a snapshot, or what distinguishes it from an earlier one, as a stream of bytes.
public enum Export {
    /// - Parameters:
    ///   - snapshot: of a store; not open elsewhere.
    ///   - base: an earlier snapshot of the same store, of which the reader of the stream has all; nil: the stream is
    ///     to hold all of `snapshot`.
    ///   - progress: told now and then of what was written.
    ///   - sink: takes all bytes that it is given, or throws.
    /// - Throws: `.invalidArgument` when `base` is no earlier state of the same store, `.storeInUse`, `.corruption`,
    ///   `.io`, and what `sink` throws.
    public static func run(
        _ snapshot: StoreSnapshot, since base: StoreSnapshot? = nil,
        storage: any Storage = POSIXStorage(), progress: (BackupCounts) -> Void = { _ in },
        to sink: @escaping (UnsafeRawBufferPointer) throws(EngineError) -> Void
    ) throws(EngineError) -> BackupCounts {
        if let base {
            guard base.source == snapshot.source else {
                throw .invalidArgument("the snapshots \(base.name) and \(snapshot.name) are of different stores")
            }
            guard base.sequence <= snapshot.sequence, base.id != snapshot.id else {
                throw .invalidArgument("the snapshot \(base.name) is not older than \(snapshot.name)")
            }
        }
        let new = try open(snapshot, storage)
        defer { try? new.close() }
        let old = try base.map { base throws(EngineError) in try open(base, storage) }
        defer { try? old?.close() }
        let writer = try BackupWriter(BackupHeader(snapshot, base: base), sink)
        if let old {
            for range in new.core.ranges(changedSince: old.core) {
                var options = ReadOptions()
                options.fillCache = false
                options.lowerBound = range.begin
                options.upperBound = range.bound
                try write(
                    try new.makeIterator(options), unless: try old.makeIterator(options), writer, progress)
            }
        } else {
            var options = ReadOptions()
            options.fillCache = false
            let all = try new.makeIterator(options)
            try all.seekToFirst()
            while all.isValid {
                try writer.put(all.key, all.value)
                report(writer, progress)
                try all.next()
            }
        }
        try writer.finish()
        return writer.counts
    }

    /// Walks two states side by side and writes what is in `new` and not, or otherwise, in `old`, and which keys are
    /// in `old` only.
    private static func write(
        _ new: DatabaseIterator, unless old: DatabaseIterator, _ writer: BackupWriter, _ progress: (BackupCounts) -> Void
    ) throws(EngineError) {
        try new.seekToFirst()
        try old.seekToFirst()
        while new.isValid || old.isValid {
            let order = !old.isValid ? -1 : !new.isValid ? 1 : compareKeys(new.key, old.key)
            if order > 0 {
                try writer.remove(old.key)
            } else if order < 0 || !isEqual(new.value, old.value) {
                try writer.put(new.key, new.value)
            }
            report(writer, progress)
            if order <= 0 { try new.next() }
            if order >= 0 { try old.next() }
        }
    }

    private static func isEqual(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
        left.count == right.count && compareKeys(left, right) == 0
    }

    private static func report(_ writer: BackupWriter, _ progress: (BackupCounts) -> Void) {
        if (writer.counts.values + writer.counts.removals) & 0xfff == 0 { progress(writer.counts) }
    }

    private static func open(_ snapshot: StoreSnapshot, _ storage: any Storage) throws(EngineError) -> Database {
        var options = Options()
        options.createIfMissing = false
        options.readOnly = true
        options.dmSize = memoryBytes
        options.memtableSize = memoryBytes / 8
        return try Database.open(snapshot.path, options: options, storage: storage)
    }

    /// Of disaggregated memory for a store that is in tables as a whole.
    static let memoryBytes = 16 << 20
}
