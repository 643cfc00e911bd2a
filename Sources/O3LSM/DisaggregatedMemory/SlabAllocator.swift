import Synchronization

/// Hands out the slabs of a region.
///
/// Its state is private to the compute node and derivable: what no live memtable reaches is free. So
/// nothing about allocation needs to survive a crash; after one, recovery marks what it reaches.
/// Thread-safe.
final class SlabAllocator: Sendable {
    private struct State {
        var isUsed: [Bool]
        var free: [UInt32]
    }

    let slabCount: Int
    /// Who has the slabs.
    let owners = SlabOwners()
    private let state: Mutex<State>
    private let freeCount: Atomic<Int>
    private let everUsed = Atomic<Int>(0)

    init(slabCount: Int) {
        self.slabCount = slabCount
        // Low numbers are handed out first: the part of the region that is in use stays compact.
        state = Mutex(
            State(
                isUsed: Array(repeating: false, count: slabCount),
                free: (0..<UInt32(slabCount)).reversed()))
        freeCount = Atomic(slabCount)
    }

    /// Slabs that can be allocated now.
    var available: Int { freeCount.load(ordering: .relaxed) }
    /// No slab from this one on has ever been handed out.
    var highWaterMark: Int { everUsed.load(ordering: .relaxed) }
    /// Share of the slabs in use, 0 … 1.
    var occupancy: Double { 1 - Double(available) / Double(max(slabCount, 1)) }

    /// nil when the region is full.
    func allocate() -> UInt32? {
        state.withLock { state in
            guard let slab = state.free.popLast() else { return nil }
            state.isUsed[Int(slab)] = true
            everUsed.max(Int(slab) + 1, ordering: .relaxed)
            freeCount.store(state.free.count, ordering: .relaxed)
            return slab
        }
    }

    /// `count` neighbouring slabs (a memtable's filter); nil when there is no such run.
    func allocate(contiguous count: Int) -> UInt32? {
        state.withLock { state in
            var run = 0
            for slab in 0..<slabCount {
                run = state.isUsed[slab] ? 0 : run + 1
                guard run == count else { continue }
                let first = slab - count + 1
                for taken in first...slab { state.isUsed[taken] = true }
                everUsed.max(slab + 1, ordering: .relaxed)
                state.free.removeAll { $0 >= UInt32(first) && $0 <= UInt32(slab) }
                freeCount.store(state.free.count, ordering: .relaxed)
                return UInt32(first)
            }
            return nil
        }
    }

    func release(_ slabs: [UInt32]) {
        guard !slabs.isEmpty else { return }
        state.withLock { state in
            for slab in slabs where state.isUsed[Int(slab)] {
                state.isUsed[Int(slab)] = false
                state.free.append(slab)
            }
            freeCount.store(state.free.count, ordering: .relaxed)
        }
    }

    /// Marks a slab that recovery has reached. False when it is out of range or reached twice: then what
    /// names it is corrupt.
    func claim(_ slab: UInt32) -> Bool {
        state.withLock { state in
            guard slab < UInt32(slabCount), !state.isUsed[Int(slab)] else { return false }
            state.isUsed[Int(slab)] = true
            everUsed.max(Int(slab) + 1, ordering: .relaxed)
            state.free.removeAll { $0 == slab }
            freeCount.store(state.free.count, ordering: .relaxed)
            return true
        }
    }
}
