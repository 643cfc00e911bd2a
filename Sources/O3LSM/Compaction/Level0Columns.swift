/// L0 seen from above: the key space cut where any L0 table begins or ends. Between two cuts lies a
/// *column*, the tables that a read of a key there must look at.
///
/// Keys are compared once, when the cuts are sorted; overlap is a comparison of integers from then on.
struct Level0Columns {
    /// As in the version: newest first.
    let files: [FileMetadata]
    /// Tables over each column.
    let depths: [Int]
    /// The half-open range of columns that each file covers.
    private let spans: [Range<Int>]

    init(_ files: [FileMetadata]) {
        self.files = files
        // A cut lies before a key, or after it and before every greater one.
        struct Cut {
            var file: Int
            var isEnd: Bool
            var key: [UInt8]
            var isAfter: Bool
        }
        var cuts: [Cut] = []
        for (index, file) in files.enumerated() {
            let range = KeyRange(file)
            cuts.append(Cut(file: index, isEnd: false, key: range.begin, isAfter: false))
            cuts.append(Cut(file: index, isEnd: true, key: range.end, isAfter: range.isEndInclusive))
        }
        func compare(_ left: Cut, _ right: Cut) -> Int {
            let order = compareKeys(left.key, right.key)
            return order != 0 ? order : (left.isAfter ? 1 : 0) - (right.isAfter ? 1 : 0)
        }
        cuts.sort { compare($0, $1) < 0 }
        var begins = Array(repeating: 0, count: files.count)
        var ends = Array(repeating: 0, count: files.count)
        var rank = 0
        for (place, cut) in cuts.enumerated() {
            if place > 0, compare(cuts[place - 1], cut) != 0 { rank += 1 }
            if cut.isEnd { ends[cut.file] = rank } else { begins[cut.file] = rank }
        }
        spans = zip(begins, ends).map { $0..<max($0, $1) }
        var depths = Array(repeating: 0, count: rank + 1)
        for span in spans {
            for column in span { depths[column] += 1 }
        }
        self.depths = depths
    }

    /// The most L0 tables a read may have to look at: what compaction triggers and write
    /// back-pressure go by.
    var maximumDepth: Int { depths.max() ?? 0 }

    /// Indices into `files` of the tables over a column, newest first.
    func members(of column: Int) -> [Int] { spans.indices.filter { spans[$0].contains(column) } }

    /// Whether two tables have a key in common (by their bounds).
    func overlap(_ left: Int, _ right: Int) -> Bool { spans[left].overlaps(spans[right]) }

    /// The columns that any of `chosen` covers, and those between them.
    func hull(of chosen: some Sequence<Int>) -> Range<Int> {
        var low = Int.max
        var high = 0
        for index in chosen {
            low = min(low, spans[index].lowerBound)
            high = max(high, spans[index].upperBound)
        }
        return low < high ? low..<high : 0..<0
    }

    /// Whether a table has a key in a range of columns.
    func overlaps(_ index: Int, _ columns: Range<Int>) -> Bool { spans[index].overlaps(columns) }

    /// `seed` and every older table that overlaps it, or one that was added: what must go down together,
    /// lest a newer version of a key lie below an older one. Newest first.
    func closure(of seed: [Int]) -> [Int] {
        // A smaller index is newer, and only older tables are added: one pass in order is a fixpoint.
        let wanted = Set(seed)
        var chosen: [Int] = []
        for index in (seed.min() ?? files.count)..<files.count
        where wanted.contains(index) || chosen.contains(where: { overlap($0, index) }) {
            chosen.append(index)
        }
        return chosen
    }

    /// Whether every older table that overlaps the table is one of `chosen`.
    func isOnlyOver(_ chosen: Set<Int>, _ index: Int) -> Bool {
        (index + 1..<files.count).allSatisfy { !overlap(index, $0) || chosen.contains($0) }
    }

    /// The depth of the deepest column, counting only tables that `isCounted`.
    func maximumDepth(where isCounted: (FileMetadata) -> Bool) -> Int {
        var counts = Array(repeating: 0, count: depths.count)
        for (file, span) in zip(files, spans) where isCounted(file) {
            for column in span { counts[column] += 1 }
        }
        return counts.max() ?? 0
    }
}
