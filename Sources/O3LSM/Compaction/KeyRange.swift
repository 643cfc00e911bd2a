/// A range of user keys from `begin`, inclusive, to `end`, inclusive or not. Never empty.
struct KeyRange: Equatable, Sendable {
    var begin: [UInt8]
    var end: [UInt8]
    /// False when a range tombstone's exclusive end is what bounds the range.
    var isEndInclusive: Bool

    init(begin: [UInt8], end: [UInt8], isEndInclusive: Bool) {
        self.begin = begin
        self.end = end
        self.isEndInclusive = isEndInclusive
    }

    /// What the table's entries and range tombstones cover.
    init(_ file: FileMetadata) {
        begin = file.smallest.userKey
        end = file.largest.userKey
        isEndInclusive = file.largest.trailer != .first
    }

    /// The smallest range that holds all of `files`; nil if there are none.
    static func hull(_ files: some Sequence<FileMetadata>) -> KeyRange? {
        var result: KeyRange?
        for file in files {
            let range = KeyRange(file)
            result = result.map { $0.union(range) } ?? range
        }
        return result
    }

    /// The smallest range that holds both.
    func union(_ other: KeyRange) -> KeyRange {
        var result = self
        if compareKeys(other.begin, begin) < 0 { result.begin = other.begin }
        let order = compareKeys(other.end, end)
        if order > 0 || (order == 0 && other.isEndInclusive) {
            result.end = other.end
            result.isEndInclusive = other.isEndInclusive
        }
        return result
    }

    func overlaps(_ other: KeyRange) -> Bool { !isBefore(other) && !other.isBefore(self) }

    /// Whether every key of the range is less than every key of `other`.
    func isBefore(_ other: KeyRange) -> Bool {
        let order = compareKeys(end, other.begin)
        return order < 0 || (order == 0 && !isEndInclusive)
    }

    /// Whether every key of `other` lies in this range.
    func contains(_ other: KeyRange) -> Bool { union(other) == self }

    /// Whether `key` is less than every key of the range, more than every one, or in it: -1, 1, 0.
    @inline(__always)
    func position(of key: UnsafeRawBufferPointer) -> Int {
        if begin.withUnsafeBytes({ compareKeys(key, $0) }) < 0 { return -1 }
        let order = end.withUnsafeBytes { compareKeys(key, $0) }
        return order > 0 || (order == 0 && !isEndInclusive) ? 1 : 0
    }
}

extension Array where Element == KeyRange {
    /// The same keys as sorted ranges that do not overlap.
    func merged() -> [KeyRange] {
        var result: [KeyRange] = []
        for range in sorted(by: { compareKeys($0.begin, $1.begin) < 0 }) {
            if let last = result.last, last.overlaps(range) {
                result[result.count - 1] = last.union(range)
            } else {
                result.append(range)
            }
        }
        return result
    }

    /// At most `maximumCount` sorted ranges of about `maximumBytes` of keys in all that cover at
    /// least the same keys: neighbours are joined, with what lies between them.
    func coarsened(maximumCount: Int, maximumBytes: Int) -> [KeyRange] {
        var ranges = merged()
        while ranges.count > 1,
            ranges.count > maximumCount
                || ranges.reduce(0, { $0 + $1.begin.count + $1.end.count }) > maximumBytes
        {
            ranges = stride(from: 0, to: ranges.count, by: 2).map { place in
                place + 1 < ranges.count ? ranges[place].union(ranges[place + 1]) : ranges[place]
            }
        }
        return ranges
    }
}
