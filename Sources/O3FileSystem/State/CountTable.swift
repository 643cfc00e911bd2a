import Glibc

/// Inode number → 32 bits, by linear probing; removal shifts back what follows, so there are no
/// tombstones. 0 is no inode number and marks an empty place.
///
/// In a `CountFile`, an interrupted change leaves entries twice or with another's count, but none out: whoever goes
/// on rebuilds the table and takes the larger count.
struct CountTable: ~Copyable {
    static let orphanBit: UInt32 = 1 << 31
    static let countMask: UInt32 = orphanBit - 1

    private(set) var capacity: Int
    private(set) var used = 0
    var keys: UnsafeMutablePointer<InodeNumber>
    var values: UnsafeMutablePointer<UInt32>
    private var memory: UnsafeMutableRawPointer
    private var sizeClass: Int
    private let file: CountFile?
    private let shard: Int

    /// An empty table, or the one that the shard has in `file`.
    init(_ file: CountFile? = nil, shard: Int = 0) {
        let found = file?.sizeClass(shard)
        self.file = file
        self.shard = shard
        sizeClass = found ?? 0
        capacity = CountLadder.capacities[sizeClass]
        memory = Self.allocate(file, shard, sizeClass, empty: found == nil)
        keys = memory.assumingMemoryBound(to: InodeNumber.self)
        values = (memory + capacity * 8).assumingMemoryBound(to: UInt32.self)
        guard let file else { return }
        guard found != nil else {
            file.setSizeClass(0, shard)
            return
        }
        used = file.used(shard)
        if file.isTorn(shard) || used < 0 || used * 8 > capacity * 7 { mend() }
    }

    deinit { Self.deallocate(file, memory, sizeClass, shard, forGood: false) }

    private static func allocate(
        _ file: CountFile?, _ shard: Int, _ sizeClass: Int, empty: Bool = true
    ) -> UnsafeMutableRawPointer {
        if let file {
            if empty { file.clear(sizeClass, shard) }
            return file.table(sizeClass, shard)
        }
        let bytes = CountLadder.capacities[sizeClass] * CountLadder.entryBytes
        let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 16)
        memset(memory, 0, bytes)
        return memory
    }

    private static func deallocate(
        _ file: CountFile?, _ memory: UnsafeMutableRawPointer, _ sizeClass: Int, _ shard: Int, forGood: Bool
    ) {
        guard let file else { return memory.deallocate() }
        if forGood { file.clear(sizeClass, shard) }
    }

    /// Brackets a change that another process must not find half done.
    @inline(__always)
    private func begin() { file?.setTorn(true, shard) }

    @inline(__always)
    private func end() {
        guard let file else { return }
        file.setUsed(used, shard)
        file.setTorn(false, shard)
    }

    /// Builds the table anew from whatever an interrupted change has left of it.
    private mutating func mend() {
        var found: [InodeNumber: UInt32] = [:]
        for index in 0..<capacity where keys[index] != 0 {
            // A count that was about to be written is one.
            let value = max(1, values[index])
            let known = found[keys[index]] ?? 0
            found[keys[index]] = max(known & Self.countMask, value & Self.countMask) | (known | value) & Self.orphanBit
        }
        var wanted = 0
        while found.count * 8 > CountLadder.capacities[wanted] * 5, wanted + 1 < CountLadder.classes { wanted += 1 }
        if wanted == sizeClass { wanted += wanted + 1 < CountLadder.classes ? 1 : -1 }
        move(to: wanted, found.count) { add in for (inode, value) in found { add(inode, value) } }
    }

    static func mix(_ inode: InodeNumber) -> UInt64 {
        let product = inode.multipliedFullWidth(by: 0x9e37_79b9_7f4a_7c15)
        return product.high ^ product.low
    }

    /// Where `inode` is, or where it would be put.
    func place(of inode: InodeNumber) -> Int {
        var place = home(of: inode)
        while keys[place] != 0, keys[place] != inode { place = next(place) }
        return place
    }

    /// `inode` is not in the table.
    mutating func insert(_ inode: InodeNumber, _ value: UInt32) {
        if (used + 1) * 8 > capacity * 7 { resize(to: sizeClass + 1) }
        let free = place(of: inode)
        begin()
        values[free] = value
        keys[free] = inode
        used += 1
        end()
    }

    mutating func remove(at place: Int) {
        begin()
        var hole = place
        var probe = next(place)
        while keys[probe] != 0 {
            // Only what may lie at the hole, by its home, is moved there.
            let distanceFromHome = distance(home(of: keys[probe]), probe)
            if distanceFromHome >= distance(hole, probe) {
                keys[hole] = keys[probe]
                values[hole] = values[probe]
                hole = probe
            }
            probe = next(probe)
        }
        keys[hole] = 0
        used -= 1
        end()
        if sizeClass > 0, used * 4 < capacity { resize(to: max(0, sizeClass - 2)) }
    }

    private func next(_ place: Int) -> Int { place + 1 == capacity ? 0 : place + 1 }
    private func distance(_ from: Int, _ to: Int) -> Int { to >= from ? to - from : to - from + capacity }

    /// A multiply in place of a remainder; any capacity will do.
    private func home(of inode: InodeNumber) -> Int { Self.home(of: inode, capacity) }
    private static func home(of inode: InodeNumber, _ capacity: Int) -> Int {
        Int(truncatingIfNeeded: mix(inode).multipliedFullWidth(by: UInt64(capacity)).high)
    }

    private mutating func resize(to newClass: Int) {
        // The last size may fill up; it must keep one empty place, or a search would not end.
        guard newClass < CountLadder.classes else { return precondition(used + 1 < capacity, "too many open inodes") }
        let (oldKeys, oldValues, oldCapacity) = (keys, values, capacity)
        move(to: newClass, used) { add in
            for index in 0..<oldCapacity where oldKeys[index] != 0 { add(oldKeys[index], oldValues[index]) }
        }
    }

    /// Fills a table of another size with `count` entries, then puts it in place of this one.
    private mutating func move(
        to newClass: Int, _ count: Int, _ fill: ((InodeNumber, UInt32) -> Void) -> Void
    ) {
        let (oldMemory, oldClass) = (memory, sizeClass)
        begin()
        sizeClass = newClass
        capacity = CountLadder.capacities[newClass]
        memory = Self.allocate(file, shard, newClass)
        keys = memory.assumingMemoryBound(to: InodeNumber.self)
        values = (memory + capacity * 8).assumingMemoryBound(to: UInt32.self)
        let (newKeys, newValues, newCapacity) = (keys, values, capacity)
        fill { inode, value in
            var place = Self.home(of: inode, newCapacity)
            while newKeys[place] != 0 { place = place + 1 == newCapacity ? 0 : place + 1 }
            newKeys[place] = inode
            newValues[place] = value
        }
        used = count
        file?.setSizeClass(newClass, shard)
        end()
        Self.deallocate(file, oldMemory, oldClass, shard, forGood: true)
    }
}
