import Glibc

/// Pseudo-random numbers for workloads (SplitMix64: Steele, Lea, Flood, OOPSLA 2014). Fast, seeded, and
/// good enough that no key is favoured. One thread.
struct WorkloadRandom {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    @inline(__always)
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        return Self.mix(state)
    }

    /// Scatters a number over all 64 bits; different numbers stay different.
    @inline(__always)
    static func mix(_ number: UInt64) -> UInt64 {
        var z = number
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// 0 …< bound, without a division.
    @inline(__always)
    mutating func next(below bound: UInt64) -> UInt64 { next().multipliedFullWidth(by: bound).high }
}

/// Writes the key of a number into memory of its own: the number in 8 bytes, most significant first,
/// then '0's up to the key size, as db_bench does. One thread.
struct KeyWriter {
    private let memory: UnsafeMutableRawBufferPointer

    /// `size` is at least 8.
    init(size: Int) {
        memory = .allocate(byteCount: max(size, 8), alignment: 8)
        memory.initializeMemory(as: UInt8.self, repeating: UInt8(ascii: "0"))
    }

    func release() { memory.deallocate() }

    /// Valid until the next call.
    @inline(__always)
    func key(_ number: UInt64) -> UnsafeRawBufferPointer {
        memory.storeBytes(of: number.bigEndian, as: UInt64.self)
        return UnsafeRawBufferPointer(memory)
    }
}

/// Values that compress to a given share of their size: slices of a megabyte of fragments of 100 bytes,
/// each a random string that is repeated, which is how db_bench makes its values. One thread.
struct ValueSource {
    private let pool: UnsafeMutableRawBufferPointer
    private let size: Int
    private var position = 0

    private static let fragmentBytes = 100
    private static let leastPoolBytes = 1 << 20

    /// - Parameter batch: values that are in use at once, which must not overlap.
    init(size: Int, compressionRatio: Double, seed: UInt64, batch: Int = 1) {
        self.size = size
        pool = .allocate(byteCount: max(size * batch, Self.leastPoolBytes) + Self.fragmentBytes, alignment: 16)
        var random = WorkloadRandom(seed: seed)
        let unique = min(max(Int(Double(Self.fragmentBytes) * compressionRatio), 1), Self.fragmentBytes)
        var start = 0
        while start < pool.count {
            let end = min(start + Self.fragmentBytes, pool.count)
            for index in start..<end {
                // Printable: 95 characters from the blank on.
                pool[index] = index - start < unique ? UInt8(32 + random.next(below: 95)) : pool[index - unique]
            }
            start = end
        }
    }

    func release() { pool.deallocate() }

    /// The next value; with a stamp, it begins with the stamp's first 8 bytes (both are at least so long).
    @inline(__always)
    mutating func next(stamp: UnsafeRawBufferPointer? = nil) -> UnsafeRawBufferPointer {
        if position + size > pool.count { position = 0 }
        defer { position += size }
        if let stamp {
            pool.storeBytes(of: stamp.loadUnaligned(as: UInt64.self), toByteOffset: position, as: UInt64.self)
        }
        return UnsafeRawBufferPointer(rebasing: pool[position..<(position + size)])
    }
}
