/// One cursor over a run of tables with ascending, disjoint key ranges: a level below L0.
///
/// A table is opened when the cursor reaches it, and one is open at a time. Belongs to one thread.
final class LevelIterator: InternalIterator {
    private let files: [FileMetadata]
    private let open: (FileMetadata) throws(EngineError) -> InternalIterator
    /// The file that `table` reads; outside `files.indices` when the cursor is not valid.
    @exclusivity(unchecked) private var index = -1
    @exclusivity(unchecked) private var table: InternalIterator? {
        didSet { reference = table.map(Unmanaged.passUnretained) }
    }
    /// `table`, used without counting: a step would do so several times, at a quarter of its cost.
    @exclusivity(unchecked) private var reference: Unmanaged<InternalIterator>?

    /// - Parameters:
    ///   - files: by smallest key, disjoint.
    ///   - open: gives a cursor over a file; called anew each time the cursor enters the file.
    init(files: [FileMetadata], open: @escaping (FileMetadata) throws(EngineError) -> InternalIterator) {
        self.files = files
        self.open = open
    }

    /// Reads the tables through a cache; `fillCache` and `readAhead` are as in `Table.makeIterator`.
    convenience init(files: [FileMetadata], tables: TableCache, fillCache: Bool = true, readAhead: Int = 0) {
        self.init(files: files) { (file) throws(EngineError) in
            try tables.table(file).makeIterator(fillCache: fillCache, readAhead: readAhead)
        }
    }

    override var isValid: Bool { reference?._withUnsafeGuaranteedRef { $0.isValid } ?? false }
    override var userKey: UnsafeRawBufferPointer { reference?._withUnsafeGuaranteedRef { $0.userKey } ?? super.userKey }
    override var trailer: Trailer { reference?._withUnsafeGuaranteedRef { $0.trailer } ?? super.trailer }
    override var value: UnsafeRawBufferPointer { reference?._withUnsafeGuaranteedRef { $0.value } ?? super.value }

    /// The file that the current entry is in; nil when not valid.
    var currentFile: FileMetadata? { isValid ? files[index] : nil }

    override func seekToFirst() throws(EngineError) {
        try enter(0)
        try table?.seekToFirst()
        try skipForward()
    }

    override func seekToLast() throws(EngineError) {
        try enter(files.count - 1)
        try table?.seekToLast()
        try skipBackward()
    }

    override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        try enter(
            partitionPoint(0, files.count) { place in
                Self.compare(files[place].largest, userKey, trailer) < 0
            })
        try table?.seek(userKey, trailer)
        try skipForward()
    }

    override func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        try enter(
            partitionPoint(0, files.count) { place in
                Self.compare(files[place].smallest, userKey, trailer) < 0
            } - 1)
        try table?.seekBefore(userKey, trailer)
        try skipBackward()
    }

    override func next() throws(EngineError) {
        guard let reference else { return }
        try reference.with { (table) throws(EngineError) in try table.next() }
        if !isValid { try skipForward() }
    }

    override func previous() throws(EngineError) {
        guard let reference else { return }
        try reference.with { (table) throws(EngineError) in try table.previous() }
        if !isValid { try skipBackward() }
    }

    override func skip(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        // File by file: those in between are not opened, unless they hold something newer.
        while isValid, files[index].largestSequence <= sequence, compareKeys(self.userKey, userKey) < 0 {
            guard Self.compare(files[index].largest, userKey, .first) < 0 else {
                try table?.seek(userKey, .first)
                return try skipForward()
            }
            var place = index + 1
            while place < files.count, files[place].largestSequence <= sequence,
                Self.compare(files[place].largest, userKey, .first) < 0
            {
                place += 1
            }
            try enter(place)
            if files.indices.contains(place), files[place].largestSequence <= sequence {
                try table?.seek(userKey, .first)
            } else {
                try table?.seekToFirst()
            }
            try skipForward()
        }
    }

    override func skipBack(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        while isValid, files[index].largestSequence <= sequence, compareKeys(self.userKey, userKey) >= 0 {
            guard Self.compare(files[index].smallest, userKey, .first) >= 0 else {
                try table?.seekBefore(userKey, .first)
                return try skipBackward()
            }
            var place = index - 1
            while place >= 0, files[place].largestSequence <= sequence,
                Self.compare(files[place].smallest, userKey, .first) >= 0
            {
                place -= 1
            }
            try enter(place)
            if files.indices.contains(place), files[place].largestSequence <= sequence {
                try table?.seekBefore(userKey, .first)
            } else {
                try table?.seekToLast()
            }
            try skipBackward()
        }
    }

    /// Makes `place` the current file; the cursor in it is not yet placed.
    private func enter(_ place: Int) throws(EngineError) {
        if place == index, table != nil { return }
        table = nil
        index = place
        if files.indices.contains(place) { table = try open(files[place]) }
    }

    /// To the first entry of the next file that has one (a file may hold range tombstones alone).
    private func skipForward() throws(EngineError) {
        while let table, !table.isValid {
            try enter(index + 1)
            try self.table?.seekToFirst()
        }
    }

    private func skipBackward() throws(EngineError) {
        while let table, !table.isValid {
            try enter(index - 1)
            try self.table?.seekToLast()
        }
    }

    private static func compare(_ bound: InternalKey, _ key: UnsafeRawBufferPointer, _ trailer: Trailer) -> Int {
        bound.userKey.withUnsafeBytes { compareInternal($0, bound.trailer, key, trailer) }
    }
}
