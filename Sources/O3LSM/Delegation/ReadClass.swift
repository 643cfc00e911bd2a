/// What the cost of a read in sealed memtables depends on most: how far they are, and how many follow each other.
struct ReadClass: Equatable {
    /// Below `count`.
    let index: Int

    /// Classes of one distance: one memtable, 2 to 3, 4 to 7, 8 and more.
    static let lengths = 4
    static let distances = 2
    static let count = distances * lengths

    /// - Parameters:
    ///   - isFar: whether accesses cost something, see `FabricDistance`.
    ///   - memtables: that a read goes through, at most; at least one.
    @inline(__always)
    init(isFar: Bool, memtables: Int) {
        let log = Int.bitWidth - 1 - max(1, memtables).leadingZeroBitCount
        index = (isFar ? Self.lengths : 0) + min(log, Self.lengths - 1)
    }

    /// Of memtables that one request asks about.
    init(_ run: ArraySlice<Memtable>) { self.init(isFar: run.first?.fabric != nil, memtables: run.count) }

    private init(index: Int) { self.index = index }

    static var all: [ReadClass] { (0..<count).map { ReadClass(index: $0) } }

    @inline(__always) var isFar: Bool { index >= Self.lengths }
    @inline(__always) var length: Int { index & (Self.lengths - 1) }

    /// How many memtables, as statistics say it.
    var memtables: String { ["1", "2-3", "4-7", "8+"][length] }
}
