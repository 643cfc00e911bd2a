import Glibc
import Synchronization

/// Looks for what an open store has lost count of: slabs, memtable slots and job slots that are taken and that
/// nobody will give back.
///
/// Everything is on its way somewhere while the store is used: a difference counts as a leak when it is there in every
/// one of several looks.
extension EngineCore {
    private static let looks = 20
    private static let lookMicroseconds: UInt32 = 50_000

    /// One sentence for each kind of leak; empty in good order. Takes a second.
    func leaks() -> [String] {
        var slabs = Int.max
        var memtableSlots = Int.max
        var jobSlots = Int.max
        for look in 0..<EngineCore.looks {
            if look > 0 { usleep(EngineCore.lookMicroseconds) }
            slabs = min(slabs, unaccountedSlabs())
            memtableSlots = min(memtableSlots, unaccountedMemtableSlots())
            jobSlots = min(jobSlots, JobTable(region).occupiedSlots - control.postedJobs)
        }
        var problems: [String] = []
        if slabs > 0 { problems.append("\(slabs) slabs of disaggregated memory are taken, and no memtable has them") }
        if memtableSlots > 0 { problems.append("\(memtableSlots) memtable slots are taken, and no memtable is in them") }
        if jobSlots > 0 { problems.append("\(jobSlots) job slots are taken, and nobody waits for their jobs") }
        return problems
    }

    /// Slabs taken, less those of memtables that somebody holds.
    private func unaccountedSlabs() -> Int {
        let taken = allocator.slabCount - allocator.available
        return taken - allocator.owners.count().slabs
    }

    private func unaccountedMemtableSlots() -> Int {
        let directory = MemtableDirectory(region)
        let taken = (0..<directory.count).count { directory.state($0) != .free }
        return taken - allocator.owners.count().memtables
    }
}

/// The memtables whose slabs an allocator has handed out, for as long as they live. Thread-safe.
///
/// No weak references: those would make every read that holds on to a memtable dearer.
final class SlabOwners: Sendable {
    let memtables = Mutex<[ObjectIdentifier: Unmanaged<Memtable>]>([:])

    func add(_ memtable: Memtable) {
        memtables.withLock { $0[ObjectIdentifier(memtable)] = Unmanaged.passUnretained(memtable) }
    }

    /// To be called as the memtable's deinit begins: until then, and while `count` runs, its memory is there.
    func remove(_ memtable: Memtable) { memtables.withLock { _ = $0.removeValue(forKey: ObjectIdentifier(memtable)) } }

    /// Memtables, and the slabs they have together.
    func count() -> (memtables: Int, slabs: Int) {
        memtables.withLock { memtables in
            let slabs = memtables.values.reduce(0) { sum, memtable in
                sum + memtable._withUnsafeGuaranteedRef { $0.slabCount }
            }
            return (memtables.count, slabs)
        }
    }
}
