import CSystem
import Synchronization

/// Where an insertion goes on each level: the nodes just before and just after. Kept between the
/// insertions of one batch, so that ascending keys need no search (an idea of RocksDB's InlineSkipList).
struct Splice: ~Copyable {
    let before: UnsafeMutablePointer<UInt32>
    let after: UnsafeMutablePointer<UInt32>
    /// Levels that are filled; 0: nothing is known.
    var height = 0
    /// The shard the offsets belong to.
    var shard: ObjectIdentifier?

    init() {
        before = .allocate(capacity: 2 * RegionLayout.Entry.maximumHeight)
        after = before + RegionLayout.Entry.maximumHeight
    }

    deinit { before.deallocate() }
}

/// The lock-free skiplist over a shard's entries. A node is completely written before it is linked on
/// level 0, and linked upwards from there: a process that dies in between leaves a list that is whole,
/// with one node lower than it was meant to be.
extension Shard {
    /// The slabs that there are now hold no more entries: a walk that takes more steps goes round in circles, unless
    /// slabs have come meanwhile.
    @inline(__always)
    var maximumSteps: Int {
        slabCount.load(ordering: .relaxed) * (RegionLayout.slabBytes / Entry.links) + Entry.maximumHeight
    }

    /// Counts a step of a walk. After more than `limit`, which it raises as slabs come, the links lead round in circles: the
    /// shard is marked corrupt.
    ///
    /// - Returns: whether the walk may go on.
    @inline(__always)
    private func step(_ steps: inout Int, _ limit: inout Int) -> Bool {
        steps += 1
        if steps <= limit { return true }
        limit = maximumSteps
        if steps <= limit { return true }
        corruptOffset.store(1, ordering: .relaxed)
        return false
    }

    /// The link word of a node (0: the head) on a level; nil for a node that cannot have one.
    @inline(__always)
    private func link(_ node: UInt32, _ level: Int) -> UnsafeMutablePointer<Atomic<UInt32>>? {
        if node == 0 { return sharedWord32(root + Root.headLinks + 4 * level) }
        guard let view = entry(node), level < view.height else { return nil }
        return sharedWord32(view.pointer + Entry.links + 4 * level)
    }

    @inline(__always)
    func successor(_ node: UInt32, _ level: Int) -> UInt32 {
        link(node, level)?.pointee.load(ordering: .acquiring) ?? 0
    }

    /// Asks the processor for an entry that is about to be read; nothing happens for an offset that cannot be.
    @inline(__always)
    func prefetch(_ offset: UInt32) {
        let slab = Int(offset >> RegionLayout.slabShift)
        guard slab < slabCount.load(ordering: .relaxed) else { return }
        let entry = bases[slab] + (Int(offset) & (RegionLayout.slabBytes - 1))
        o3_prefetch(entry)
        o3_prefetch(entry + 64)
    }

    /// For recovery, which is alone with the shard.
    func setSuccessor(_ node: UInt32, _ level: Int, _ target: UInt32) {
        link(node, level)?.pointee.store(target, ordering: .releasing)
    }

    @inline(__always)
    private var maximumHeight: Int {
        min(
            max(Int(sharedWord32(root + Root.maximumHeight).pointee.load(ordering: .relaxed)), 1),
            Entry.maximumHeight)
    }

    /// The first node at or after (`key`, `trailer`); 0 when there is none.
    @inline(__always)
    func findAtOrAfter(_ key: UnsafeRawBufferPointer, _ trailer: Trailer) -> UInt32 {
        guard !isEmpty else { return 0 }
        var node: UInt32 = 0
        var level = maximumHeight - 1
        // On the way down the same successor is often met again: its order is known.
        var knownAfter: UInt32 = 0
        var (steps, limit) = (0, maximumSteps)
        while true {
            guard step(&steps, &limit) else { return 0 }
            let next = successor(node, level)
            if next != 0, next != knownAfter, let view = entry(next),
                compareInternal(view.key, view.trailer, key, trailer) < 0
            {
                node = next
            } else {
                if level == 0 { return next }
                knownAfter = next
                level -= 1
            }
        }
    }

    /// The last node strictly before (`key`, `trailer`); 0 when there is none.
    func findBefore(_ key: UnsafeRawBufferPointer, _ trailer: Trailer) -> UInt32 {
        guard !isEmpty else { return 0 }
        var node: UInt32 = 0
        var level = maximumHeight - 1
        var (steps, limit) = (0, maximumSteps)
        while true {
            guard step(&steps, &limit) else { return 0 }
            let next = successor(node, level)
            if next != 0, let view = entry(next), compareInternal(view.key, view.trailer, key, trailer) < 0 {
                node = next
            } else {
                if level == 0 { return node }
                level -= 1
            }
        }
    }

    /// What a search for (`key`, `trailer`) reads one after the other: the head, and each node once. For simulating
    /// far memory: it searches again rather than that every search counts.
    func dependentReads(_ key: UnsafeRawBufferPointer, _ trailer: Trailer) -> Int {
        guard !isEmpty else { return 0 }
        var node: UInt32 = 0
        var level = maximumHeight - 1
        var knownAfter: UInt32 = 0
        var reads = 1
        for _ in 0..<maximumSteps {
            let next = successor(node, level)
            if next != 0, next != knownAfter {
                reads += 1
                if let view = entry(next), compareInternal(view.key, view.trailer, key, trailer) < 0 {
                    node = next
                    continue
                }
            }
            if level == 0 { break }
            knownAfter = next
            level -= 1
        }
        return reads
    }

    /// The last node of the list; 0 when it is empty.
    func findLast() -> UInt32 {
        guard !isEmpty else { return 0 }
        var node: UInt32 = 0
        var level = maximumHeight - 1
        var (steps, limit) = (0, maximumSteps)
        while true {
            guard step(&steps, &limit) else { return 0 }
            let next = successor(node, level)
            if next != 0 {
                node = next
            } else {
                if level == 0 { return node }
                level -= 1
            }
        }
    }

    /// Links a filled entry. Any number of threads may link at once.
    func insert(_ offset: UInt32, splice: inout Splice) {
        guard let view = entry(offset) else { return }
        let key = view.key
        let trailer = view.trailer
        let height = view.height
        let listHeight = raiseHeight(to: height)
        prepare(&splice, key, trailer, listHeight)
        for level in 0..<height {
            while true {
                let after = splice.after[level]
                sharedWord32(view.pointer + Entry.links + 4 * level).pointee.store(after, ordering: .relaxed)
                guard let slot = link(splice.before[level], level) else { return }
                if slot.pointee.compareExchange(expected: after, desired: offset, ordering: .releasing).exchanged {
                    break
                }
                advance(&splice, level, from: splice.before[level], key, trailer)
            }
            splice.before[level] = offset
            FaultPoint.betweenLinks.hit()
        }
    }

    private func raiseHeight(to height: Int) -> Int {
        let word = sharedWord32(root + Root.maximumHeight)
        var current = word.pointee.load(ordering: .relaxed)
        while current < UInt32(height) {
            let (exchanged, original) = word.pointee.compareExchange(
                expected: current, desired: UInt32(height), ordering: .relaxed)
            if exchanged { return height }
            current = original
        }
        return min(Int(current), Entry.maximumHeight)
    }

    /// Makes the splice bracket the key on every level, searching only below the lowest level on which
    /// it already does.
    private func prepare(
        _ splice: inout Splice, _ key: UnsafeRawBufferPointer, _ trailer: Trailer, _ listHeight: Int
    ) {
        var level = listHeight
        if splice.shard == ObjectIdentifier(self), splice.height >= listHeight {
            level = 0
            while level < listHeight, !brackets(splice, level, key, trailer) { level += 1 }
        }
        var before: UInt32 = level == listHeight ? 0 : splice.before[level]
        while level > 0 {
            level -= 1
            advance(&splice, level, from: before, key, trailer)
            before = splice.before[level]
        }
        splice.height = listHeight
        splice.shard = ObjectIdentifier(self)
    }

    private func brackets(
        _ splice: borrowing Splice, _ level: Int, _ key: UnsafeRawBufferPointer, _ trailer: Trailer
    ) -> Bool {
        let before = splice.before[level]
        let after = splice.after[level]
        guard successor(before, level) == after else { return false }
        if before != 0 {
            guard let view = entry(before), compareInternal(view.key, view.trailer, key, trailer) < 0 else {
                return false
            }
        }
        if after != 0 {
            guard let view = entry(after), compareInternal(view.key, view.trailer, key, trailer) > 0 else {
                return false
            }
        }
        return true
    }

    @inline(__always)
    private func advance(
        _ splice: inout Splice, _ level: Int, from start: UInt32, _ key: UnsafeRawBufferPointer, _ trailer: Trailer
    ) {
        var before = start
        while true {
            let next = successor(before, level)
            if next != 0, let view = entry(next), compareInternal(view.key, view.trailer, key, trailer) < 0 {
                before = next
            } else {
                splice.before[level] = before
                splice.after[level] = next
                return
            }
        }
    }
}
