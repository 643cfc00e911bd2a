import Synchronization

/// A filter over the keys of a memtable, in DM: one 64-bit word a key, four bits of it. A key that was
/// never written is refused with one memory access, nearly always.
struct MemtableFilter: @unchecked Sendable {
    // @unchecked: the words are atomic.
    let firstSlab: UInt32
    let slabs: Int
    private let words: UnsafeMutableRawPointer
    private let mask: UInt64

    /// Slabs a filter for a memtable of this size takes: about 16 bits for each entry of 128 bytes.
    static func slabCount(memtableSize: Int) -> Int {
        var slabs = 1
        while slabs * RegionLayout.slabBytes * 64 < memtableSize { slabs *= 2 }
        return slabs
    }

    /// nil when the slabs do not lie in the region or their number is not a power of two.
    init?(region: Region, firstSlab: UInt32, slabs: Int) {
        guard slabs > 0, slabs & (slabs - 1) == 0, slabs <= region.slabCount,
            Int(firstSlab) + slabs <= region.slabCount, let base = region.slab(firstSlab)
        else { return nil }
        self.firstSlab = firstSlab
        self.slabs = slabs
        words = base
        mask = UInt64(slabs * RegionLayout.slabBytes / 8 - 1)
    }

    @inline(__always)
    private func bits(_ hash: UInt64) -> UInt64 {
        1 << (hash & 63) | 1 << (hash >> 6 & 63) | 1 << (hash >> 12 & 63) | 1 << (hash >> 18 & 63)
    }

    @inline(__always)
    func add(_ hash: UInt64) {
        let word = sharedWord64(words + Int(hash >> 24 & mask) * 8)
        let bits = bits(hash)
        if word.pointee.load(ordering: .relaxed) & bits != bits {
            _ = word.pointee.bitwiseOr(bits, ordering: .relaxed)
        }
    }

    @inline(__always)
    func mayContain(_ hash: UInt64) -> Bool {
        let bits = bits(hash)
        return sharedWord64(words + Int(hash >> 24 & mask) * 8).pointee.load(ordering: .relaxed) & bits == bits
    }

    var slabNumbers: [UInt32] { (0..<UInt32(slabs)).map { firstSlab + $0 } }
    var bytes: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: words, count: slabs * RegionLayout.slabBytes)
    }
}
