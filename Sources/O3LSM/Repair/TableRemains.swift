import Glibc

/// Copies what can be read of a damaged table into a new one: every block whose checksum holds, also where the index,
/// the footer or the header is lost. Confined to one thread, used once.
struct TableRemains {
    private let file: any ReadableFile
    /// Data blocks that the index names, by where they begin.
    private var sizes: [UInt64: UInt64] = [:]
    /// Ascending: where blocks are known to begin.
    private var starts: [UInt64] = []
    /// Where data ends; nil: not known, the file says nothing of it.
    private var dataEnd: UInt64?
    /// Range tombstones; nil: they could not be read, or it is not known whether there are any.
    private var tombstones: [RangeTombstone]?
    /// How many there should be, where that is known.
    private var tombstoneCount: UInt64?

    init(_ file: any ReadableFile) throws(EngineError) {
        self.file = file
        // What cannot be read is found out piece by piece; only storage that fails ends the attempt.
        guard let opener = try readable({ () throws(EngineError) in try TableOpener(file) }) else { return }
        if let properties = try readable({ () throws(EngineError) in try opener.properties() }) {
            dataEnd = properties.dataEnd
            tombstoneCount = properties.rangeTombstoneCount
        } else {
            let footer = opener.footer
            dataEnd = [footer.filter, footer.tombstones, footer.index, footer.properties].filter { !$0.isNone }
                .map(\.offset).min()
        }
        tombstones = try readable { () throws(EngineError) in try opener.tombstones() }
        if let end = dataEnd { try readIndex(opener, end) }
    }

    /// Appends what is left to `builder`.
    ///
    /// - Parameters:
    ///   - bounds: entries outside of them are not the table's; nil: not known.
    ///   - lost: told of each stretch that cannot be read.
    func copy(
        to builder: TableBuilder, bounds: (smallest: [UInt8], largest: [UInt8])?,
        lost: (StoreRepairReport.Loss) -> Void
    ) throws(EngineError) {
        var writer = Writer(builder: builder, bounds: bounds)
        var found = tombstones
        var gap: (from: UInt64, to: UInt64, after: [UInt8]?)?
        func closeGap(_ before: [UInt8]?) {
            guard let open = gap else { return }
            lost(.init(file: file.path, offset: open.from, bytes: open.to - open.from, after: open.after, before: before))
            gap = nil
        }
        var offset = UInt64(TableFormat.headerBytes)
        let end = dataEnd ?? file.size
        while offset < end {
            let next = nextStart(after: offset) ?? end
            guard let handle = try block(at: offset, before: next) else {
                gap = (gap?.from ?? offset, next, gap == nil ? writer.lastKey : gap?.after)
                offset = next
                continue
            }
            switch try writer.add(handle, of: file, isKnown: sizes[offset] != nil) {
            case .entries(let first):
                closeGap(first)
            case .tombstones(let read):
                if found == nil { found = read }
            case .foreign: break
            case .damaged:
                gap = (gap?.from ?? offset, handle.end, gap == nil ? writer.lastKey : gap?.after)
            }
            offset = max(offset, handle.end)
        }
        // Of a file that was read block by block nothing is missing but the footer, which is not a block.
        let missing = gap.map { file.size - $0.from } ?? 0
        let isWhole = dataEnd == nil && writer.isPastData && missing <= UInt64(TableFormat.footerBytes)
        if dataEnd != nil || !writer.isPastData { closeGap(nil) }
        for tombstone in found ?? [] { try builder.addRangeTombstone(tombstone) }
        if found == nil, tombstoneCount != 0, !isWhole {
            let count = tombstoneCount.map { "the \($0)" } ?? "any"
            lost(
                .init(
                    file: file.path, offset: 0, bytes: 0,
                    note: "\(count) deletions of whole ranges in it: what they deleted may be there again"))
        }
    }

    private func block(at offset: UInt64, before next: UInt64) throws(EngineError) -> BlockHandle? {
        if let size = sizes[offset] { return BlockHandle(offset: offset, size: size) }
        let file = file
        return try readable { () throws(EngineError) in try BlockScan.block(at: offset, before: next, in: file) } ?? nil
    }

    /// The blocks that the index names, as far as it can be read.
    private mutating func readIndex(_ opener: TableOpener, _ end: UInt64) throws(EngineError) {
        let footer = opener.footer
        guard !footer.index.isNone else { return }
        var found: [BlockHandle] = []
        for handle in try handles(footer.index, within: file.size) {
            if footer.indexLevels == 2 { found += try handles(handle, within: end) } else { found.append(handle) }
        }
        for handle in found where handle.isWithin(end) { sizes[handle.offset] = handle.size }
        starts = sizes.keys.sorted()
    }

    /// What an index block names; nothing when it cannot be read.
    private func handles(_ place: BlockHandle, within end: UInt64) throws(EngineError) -> [BlockHandle] {
        guard place.isWithin(file.size) else { return [] }
        let file = file
        return try readable { () throws(EngineError) in
            var cursor = BlockCursor()
            cursor.reset(try BlockDecoder.read(place, kind: .entries, from: file))
            var result: [BlockHandle] = []
            try cursor.seekToFirst()
            while cursor.isValid {
                if let handle = BlockHandle.decode(cursor.value) { result.append(handle) }
                try cursor.next()
            }
            return result
        } ?? []
    }

    private func nextStart(after offset: UInt64) -> UInt64? {
        var (low, high) = (0, starts.count)
        while low < high {
            let middle = (low + high) / 2
            if starts[middle] <= offset { low = middle + 1 } else { high = middle }
        }
        return low < starts.count ? starts[low] : nil
    }
}

/// nil when what `body` reads is damaged, or on a part of a disk that cannot be read.
///
/// - Throws: everything else.
func readable<Value>(_ body: () throws(EngineError) -> Value) throws(EngineError) -> Value? {
    do throws(EngineError) { return try body() } catch {
        switch error {
        case .corruption, .io(_, _, EIO): return nil
        default: throw error
        }
    }
}

extension TableRemains {
    /// Takes blocks in the order of the file and appends what they hold to a table.
    private struct Writer {
        let builder: TableBuilder
        let bounds: (smallest: [UInt8], largest: [UInt8])?
        private var last: InternalKey?
        /// Whether a block has been seen that cannot be data.
        private(set) var isPastData = false

        init(builder: TableBuilder, bounds: (smallest: [UInt8], largest: [UInt8])?) {
            self.builder = builder
            self.bounds = bounds
        }

        enum Outcome {
            /// The first of them.
            case entries(first: [UInt8]?)
            case tombstones([RangeTombstone])
            /// A sound block that holds something else.
            case foreign
            case damaged
        }

        var lastKey: [UInt8]? { last?.userKey }

        /// - Parameter isKnown: whether the index says that it is a data block.
        mutating func add(
            _ handle: BlockHandle, of file: any ReadableFile, isKnown: Bool
        ) throws(EngineError) -> Outcome {
            if isPastData, !isKnown {
                return try tombstones(handle, file).map { .tombstones($0) } ?? .foreign
            }
            guard let entries = try entries(handle, file), let first = entries.first else {
                if isKnown { return .damaged }
                isPastData = true
                return try tombstones(handle, file).map { .tombstones($0) } ?? .foreign
            }
            if let last, first.key <= last {
                isPastData = !isKnown
                return isKnown ? .damaged : .foreign
            }
            for entry in entries {
                if let bounds,
                    compareKeys(entry.key.userKey, bounds.smallest) < 0 || compareKeys(entry.key.userKey, bounds.largest) > 0
                {
                    return .damaged
                }
                try entry.key.userKey.withEngineBytes { key throws(EngineError) in
                    try entry.value.withEngineBytes { value throws(EngineError) in
                        try builder.add(key, entry.key.trailer, value)
                    }
                }
                last = entry.key
            }
            return .entries(first: first.key.userKey)
        }

        /// Everything in a data block; nil when it is none that a builder writes.
        private func entries(
            _ handle: BlockHandle, _ file: any ReadableFile
        ) throws(EngineError) -> [(key: InternalKey, value: [UInt8])]? {
            try readable { () throws(EngineError) in
                let block = try BlockDecoder.read(handle, kind: .entries, from: file)
                var cursor = BlockCursor()
                cursor.reset(block)
                var result: [(key: InternalKey, value: [UInt8])] = []
                try cursor.seekToFirst()
                while cursor.isValid {
                    let key = InternalKey(cursor.userKey, cursor.trailer)
                    guard let kind = cursor.trailer.kind, kind != .rangeDelete, result.last.map({ $0.key < key }) ?? true
                    else { throw block.damaged(at: 0, "entries in ascending order") }
                    result.append((key, [UInt8](cursor.value)))
                    try cursor.next()
                }
                return result
            }
        }

        private func tombstones(
            _ handle: BlockHandle, _ file: any ReadableFile
        ) throws(EngineError) -> [RangeTombstone]? {
            try readable { () throws(EngineError) in
                let block = try BlockDecoder.read(handle, kind: .entries, from: file)
                var cursor = BlockCursor()
                cursor.reset(block)
                var result: [RangeTombstone] = []
                try cursor.seekToFirst()
                while cursor.isValid {
                    guard cursor.trailer.kind == .rangeDelete, compareKeys(cursor.userKey, cursor.value) < 0 else {
                        throw block.damaged(at: 0, "range tombstones")
                    }
                    result.append(
                        RangeTombstone(
                            begin: [UInt8](cursor.userKey), end: [UInt8](cursor.value),
                            sequence: cursor.trailer.sequence))
                    try cursor.next()
                }
                return result.isEmpty ? nil : result
            } ?? nil
        }
    }
}
