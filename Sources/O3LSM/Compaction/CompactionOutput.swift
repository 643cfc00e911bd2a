/// Cuts a compaction's stream of entries and range tombstones into tables.
///
/// A cut lies before a user key, never within one, and range tombstones that reach over it are cut there
/// too: neighbouring tables have no key in common, and each table's tombstones lie within its bounds. So
/// a reader who looks at the tables whose bounds hold a key has seen all tombstones of the key.
///
/// One thread; used once. `removeFiles` after any throw.
final class CompactionOutput {
    private let descriptor: CompactionDescriptor
    private let storage: any Storage
    private let layout: StoreLayout
    /// What the tables' names carry; nil: they get their own names.
    private let attempt: UInt64?

    @exclusivity(unchecked) private var tombstones = FragmentedTombstones.empty
    @exclusivity(unchecked) private var nextFragment = 0
    /// The fragment that the last key lies in or after, and what of it has not been written yet.
    @exclusivity(unchecked) private var openFragment: (index: Int, begin: [UInt8])?

    private var file: (any WritableFile)?
    @exclusivity(unchecked) private var builder: TableBuilder?
    private var paths: [String] = []
    @exclusivity(unchecked) private var nextCutKey = 0
    /// Finished tables, by key.
    private(set) var files: [FileMetadata] = []

    /// A cut for the sake of the next level's overlap is not worth a table smaller than this part of the
    /// wanted size.
    private static let smallestPart: UInt64 = 8

    init(_ descriptor: CompactionDescriptor, storage: any Storage, layout: StoreLayout, attempt: UInt64? = nil) {
        self.attempt = attempt
        self.descriptor = descriptor
        self.storage = storage
        self.layout = layout
    }

    /// What to write besides the entries; before the first key. Those of them that hide nothing are left out.
    func setTombstones(_ tombstones: FragmentedTombstones) { self.tombstones = tombstones }

    /// Goes on to a user key, greater than all before; before the first entry of it is added.
    func beginKey(_ key: UnsafeRawBufferPointer) throws(EngineError) {
        if nextFragment < tombstones.count || openFragment != nil { try writeTombstones(upTo: key) }
        try cutIfWanted(before: key)
    }

    /// Appends an entry of the current key.
    func add(
        _ key: UnsafeRawBufferPointer, _ trailer: Trailer, _ value: UnsafeRawBufferPointer
    ) throws(EngineError) {
        guard trailer.kind == .put || trailer.kind == .delete else {
            throw .corruption(
                file: layout.table(descriptor.inputs.first?.files.first?.number ?? 0), offset: 0,
                expected: "an entry that is a put or a delete", found: "kind \(trailer.rawValue & 0xff)")
        }
        try currentBuilder().add(key, trailer, value)
    }

    /// Writes what is left, and makes all tables durable; so are their names, when they are their own.
    func finish() throws(EngineError) {
        try writeTombstones(upTo: nil)
        try finishFile()
        if !paths.isEmpty, attempt == nil { try storage.syncDirectory(layout.tableDirectory) }
    }

    /// Removes every table, as far as the storage lets it; recovery removes the rest.
    func removeFiles() {
        builder = nil
        try? file?.close()
        file = nil
        for path in paths { try? storage.delete(path) }
        paths = []
        files = []
    }

    // MARK: - Range tombstones

    /// Writes the tombstones that begin at or before `key` (nil: all) up to where they end, but for one
    /// that reaches over the key, which stays open.
    private func writeTombstones(upTo key: UnsafeRawBufferPointer?) throws(EngineError) {
        while nextFragment < tombstones.count {
            let begin = tombstones.begin(ofFragment: nextFragment)
            if let key, compareKeys(begin, key) > 0 { break }
            try closeFragment()
            try cutIfWanted(before: begin)
            openFragment = (nextFragment, [UInt8](begin))
            nextFragment += 1
        }
        if let open = openFragment {
            if let key, compareKeys(tombstones.end(ofFragment: open.index), key) > 0 { return }
            try closeFragment()
        }
    }

    private func closeFragment() throws(EngineError) {
        guard let open = openFragment else { return }
        openFragment = nil
        try write(open.index, from: open.begin, to: [UInt8](tombstones.end(ofFragment: open.index)))
    }

    private func write(_ fragment: Int, from begin: [UInt8], to end: [UInt8]) throws(EngineError) {
        guard compareKeys(begin, end) < 0 else { return }
        var sequence = tombstones.newest(ofFragment: fragment, upTo: maximumSequenceNumber)
        while sequence > 0 {
            if !isDroppable(sequence, begin, end) {
                try currentBuilder().addRangeTombstone(RangeTombstone(begin: begin, end: end, sequence: sequence))
            }
            sequence = tombstones.newest(ofFragment: fragment, upTo: sequence - 1)
        }
    }

    /// Entries that the tombstone covers have been dropped from the inputs if they are of its stratum. In
    /// the oldest stratum those are all; what is left to hide could only lie deeper.
    private func isDroppable(_ sequence: SequenceNumber, _ begin: [UInt8], _ end: [UInt8]) -> Bool {
        if let oldest = descriptor.snapshots.first, sequence > oldest { return false }
        let range = KeyRange(begin: begin, end: end, isEndInclusive: false)
        let ranges = descriptor.deeperRanges
        let place = partitionPoint(0, ranges.count) { ranges[$0].isBefore(range) }
        return place == ranges.count || range.isBefore(ranges[place])
    }

    // MARK: - Files

    private func cutIfWanted(before key: UnsafeRawBufferPointer) throws(EngineError) {
        var isWanted = false
        while nextCutKey < descriptor.cutKeys.count,
            descriptor.cutKeys[nextCutKey].withUnsafeBytes({ compareKeys($0, key) <= 0 })
        {
            isWanted = true
            nextCutKey += 1
        }
        guard let builder, files.count + 1 < descriptor.outputNumberCount else { return }
        let size = builder.estimatedSize
        guard size >= descriptor.outputFileSize || (isWanted && size >= descriptor.outputFileSize / Self.smallestPart)
        else { return }
        if let open = openFragment {
            let cut = [UInt8](key)
            try write(open.index, from: open.begin, to: cut)
            openFragment = (open.index, cut)
        }
        try finishFile()
    }

    private func currentBuilder() throws(EngineError) -> TableBuilder {
        if let builder { return builder }
        let number = descriptor.firstOutputNumber + UInt64(files.count)
        let path = layout.table(number, attempt: attempt)
        paths.append(path)
        let created = try storage.create(path)
        let fresh = TableBuilder(file: created, number: number, options: descriptor.tableOptions)
        file = created
        builder = fresh
        return fresh
    }

    private func finishFile() throws(EngineError) {
        guard let builder, let file else { return }
        if let metadata = try builder.finish() { files.append(metadata) }
        self.builder = nil
        self.file = nil
        try file.close()
    }
}
