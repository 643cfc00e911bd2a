/// One cursor over many: the entries of all children in internal-key order, both ways.
///
/// A binary heap of the children's current keys; the keys' places are cached in it, so that a
/// comparison touches no child. A step costs one move of one child and at most 2·log2(children)
/// comparisons, one when a child of two stays ahead, and allocates nothing. Entries with equal
/// internal keys do not occur in a sound store; should they, all are emitted, the earlier child's
/// first (going forward).
///
/// Belongs to one thread, as its children do; they are moved by nobody else while it is used. Hence its
/// properties need no exclusivity checks at run time, which would cost as much as the comparisons.
final class MergingIterator: InternalIterator {
    /// A child and where its current entry is. The child is kept alive by `children`, and used without counting.
    private struct Cursor {
        var key: UnsafeRawBufferPointer
        var trailer: Trailer
        var child: Int
        var reference: Unmanaged<InternalIterator>

        @inline(__always)
        init(_ child: InternalIterator, _ index: Int) {
            key = child.userKey
            trailer = child.trailer
            self.child = index
            reference = .passUnretained(child)
        }
    }

    private let children: ContiguousArray<InternalIterator>
    /// Those of the children that begin a seek before it is their turn.
    private let announced: ContiguousArray<InternalIterator>
    /// A heap in its first `heapCount` places: the next entry to emit is in place 0.
    private let heap: UnsafeMutablePointer<Cursor>
    @exclusivity(unchecked) private var heapCount = 0
    @exclusivity(unchecked) private var isForward = true

    init(_ children: [InternalIterator]) {
        self.children = ContiguousArray(children)
        announced = ContiguousArray(children.filter(\.wantsSeeksAnnounced))
        heap = .allocate(capacity: max(1, children.count))
    }

    deinit { heap.deallocate() }

    /// The cheapest cursor over all of `children`: one child needs no merging.
    static func over(_ children: [InternalIterator]) -> InternalIterator {
        children.count == 1 ? children[0] : MergingIterator(children)
    }

    override var isValid: Bool { heapCount > 0 }
    override var userKey: UnsafeRawBufferPointer { heap[0].key }
    override var trailer: Trailer { heap[0].trailer }
    override var value: UnsafeRawBufferPointer { heap[0].reference._withUnsafeGuaranteedRef { $0.value } }

    /// Which of the children the current entry comes from. Only while `isValid`.
    var currentChild: Int { heap[0].child }

    override func seekToFirst() throws(EngineError) {
        for child in announced { child.announceSeek(UnsafeRawBufferPointer(start: nil, count: 0), .first) }
        try rebuild(forward: true) { (_, child) throws(EngineError) in try child.seekToFirst() }
    }

    override func seekToLast() throws(EngineError) {
        try rebuild(forward: false) { (_, child) throws(EngineError) in try child.seekToLast() }
    }

    override func seek(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        for child in announced { child.announceSeek(userKey, trailer) }
        try rebuild(forward: true) { (_, child) throws(EngineError) in try child.seek(userKey, trailer) }
    }

    override func seekBefore(_ userKey: UnsafeRawBufferPointer, _ trailer: Trailer) throws(EngineError) {
        try rebuild(forward: false) { (_, child) throws(EngineError) in try child.seekBefore(userKey, trailer) }
    }

    override func next() throws(EngineError) {
        guard heapCount > 0 else { return }
        if !isForward { return try turn(forward: true) }
        try step { (child) throws(EngineError) in try child.next() }
    }

    override func previous() throws(EngineError) {
        guard heapCount > 0 else { return }
        if isForward { return try turn(forward: false) }
        try step { (child) throws(EngineError) in try child.previous() }
    }

    override func skip(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        guard isForward else { return }
        try moveChildren(where: { compareKeys($0, userKey) < 0 }) { (child) throws(EngineError) in
            try child.skip(to: userKey, upTo: sequence)
        }
    }

    override func skipBack(to userKey: UnsafeRawBufferPointer, upTo sequence: SequenceNumber) throws(EngineError) {
        guard !isForward else { return }
        try moveChildren(where: { compareKeys($0, userKey) >= 0 }) { (child) throws(EngineError) in
            try child.skipBack(to: userKey, upTo: sequence)
        }
    }

    /// Moves the children that stand on keys for which `isDue` is true in the direction of the last move, and makes the
    /// heap anew.
    private func moveChildren(
        where isDue: (UnsafeRawBufferPointer) -> Bool, _ move: (InternalIterator) throws(EngineError) -> Void
    ) throws(EngineError) {
        let all = heapCount
        heapCount = 0
        var count = 0
        for place in 0..<all {
            let (reference, child) = (heap[place].reference, heap[place].child)
            if isDue(heap[place].key) { try reference.with(move) }
            reference._withUnsafeGuaranteedRef { iterator in
                guard iterator.isValid else { return }
                heap[count] = Cursor(iterator, child)
                count += 1
            }
        }
        heapCount = count
        order()
    }

    /// Makes a heap of the children in its places.
    private func order() {
        var place = heapCount / 2
        while place > 0 {
            place -= 1
            siftDown(place)
        }
    }

    /// Moves the child in place 0 and restores the heap.
    @inline(__always)
    private func step(_ move: (InternalIterator) throws(EngineError) -> Void) throws(EngineError) {
        let reference = heap[0].reference
        do throws(EngineError) { try reference.with(move) } catch {
            heapCount = 0
            throw error
        }
        let isValid = reference._withUnsafeGuaranteedRef { child in
            guard child.isValid else { return false }
            heap[0].key = child.userKey
            heap[0].trailer = child.trailer
            return true
        }
        if !isValid {
            heapCount -= 1
            heap[0] = heap[heapCount]
        }
        siftDown(0)
    }

    /// Moves to the neighbour of the current entry against the direction of the last move: every child
    /// is placed beside the current entry, whose memory its own child keeps until it moves, the last.
    private func turn(forward: Bool) throws(EngineError) {
        let current = heap[0]
        try rebuild(forward: forward, last: current.child) { (index, child) throws(EngineError) in
            if index == current.child {
                if forward { try child.next() } else { try child.previous() }
            } else if forward {
                // An equal entry of a later child comes after the current one.
                try child.seek(current.key, current.trailer)
                if index < current.child, child.isAt(current.key, current.trailer) { try child.next() }
            } else {
                // An equal entry of an earlier child comes before the current one.
                if index < current.child {
                    try child.seek(current.key, current.trailer)
                    if child.isAt(current.key, current.trailer) { return }
                }
                try child.seekBefore(current.key, current.trailer)
            }
        }
    }

    /// Places every child with `place`, the child `last` after all others, and makes the heap anew.
    private func rebuild(
        forward: Bool, last: Int? = nil,
        _ place: (_ index: Int, _ child: InternalIterator) throws(EngineError) -> Void
    ) throws(EngineError) {
        heapCount = 0
        isForward = forward
        var count = 0
        for index in 0..<children.count where index != last {
            let child = children[index]
            try place(index, child)
            if child.isValid {
                (heap + count).initialize(to: Cursor(child, index))
                count += 1
            }
        }
        if let last {
            let child = children[last]
            try place(last, child)
            if child.isValid {
                (heap + count).initialize(to: Cursor(child, last))
                count += 1
            }
        }
        heapCount = count
        order()
    }

    private func siftDown(_ start: Int) {
        guard start < heapCount else { return }
        var place = start
        let moving = heap[start]
        while true {
            var better = 2 * place + 1
            guard better < heapCount else { break }
            if better + 1 < heapCount, isBefore(heap[better + 1], heap[better]) { better += 1 }
            guard isBefore(heap[better], moving) else { break }
            heap[place] = heap[better]
            place = better
        }
        heap[place] = moving
    }

    @inline(__always)
    private func isBefore(_ left: Cursor, _ right: Cursor) -> Bool {
        let order = compareInternal(left.key, left.trailer, right.key, right.trailer)
        if isForward { return order != 0 ? order < 0 : left.child < right.child }
        return order != 0 ? order > 0 : left.child > right.child
    }
}

extension InternalIterator {
    /// Whether the cursor stands on exactly this internal key.
    fileprivate func isAt(_ key: UnsafeRawBufferPointer, _ trailer: Trailer) -> Bool {
        isValid && compareInternal(userKey, self.trailer, key, trailer) == 0
    }
}
