import ArgumentParser
import Glibc

/// Which keys operations take, as the paper of YCSB defines it (Cooper et al., "Benchmarking cloud serving systems with
/// YCSB", SoCC 2010).
enum KeyDistribution: String, CaseIterable, Sendable, ExpressibleByArgument {
    /// Every key as often as any other.
    case uniform
    /// Few keys take most operations; which ones they are has nothing to do with their order or their age.
    case zipfian
    /// As `zipfian`, but a key is the more popular the younger it is.
    case latest
}

/// Ranks of 0 ..< `items`, rank 0 the most popular, by Zipf's law with the exponent of YCSB. After Gray et al., "Quickly
/// generating billion-record synthetic databases", SIGMOD 1994. Making one takes a `pow` for each item. A value.
struct Zipfian: Sendable {
    static let exponent = 0.99

    /// At least 1.
    private(set) var items: UInt64
    /// The sum of 1 / rank^exponent over all ranks, counted from 1.
    private var zeta = 0.0
    private var eta = 0.0
    private static let alpha = 1 / (1 - exponent)
    private static let zetaOfTwo = 1 + pow(0.5, exponent)

    init(items: UInt64) {
        self.items = max(items, 1)
        for rank in 1...self.items { zeta += pow(Double(rank), -Self.exponent) }
        derive()
    }

    /// One item more.
    mutating func grow() {
        items += 1
        zeta += pow(Double(items), -Self.exponent)
        derive()
    }

    func next(_ random: inout WorkloadRandom) -> UInt64 {
        // 53 bits: 0 ..< 1.
        let uniform = Double(random.next() >> 11) * 0x1p-53
        let weight = uniform * zeta
        if weight < 1 { return 0 }
        if weight < Self.zetaOfTwo { return 1 }
        return min(items - 1, UInt64(Double(items) * pow(eta * uniform - eta + 1, Self.alpha)))
    }

    /// Means nothing for fewer than three items, which `next` answers without it.
    private mutating func derive() {
        eta = (1 - pow(2 / Double(items), 1 - Self.exponent)) / (1 - Self.zetaOfTwo / zeta)
    }
}

/// Chooses numbers of keys. One thread, or copies of one value for several.
struct KeyChooser: Sendable {
    let distribution: KeyDistribution
    /// Keys there are to choose from.
    private(set) var count: UInt64
    private var zipfian: Zipfian?

    init(_ distribution: KeyDistribution, count: Int) {
        self.distribution = distribution
        self.count = UInt64(max(count, 1))
        zipfian = distribution == .uniform ? nil : Zipfian(items: self.count)
    }

    /// The next number, `count` before the call, is there to be chosen, too. The popular keys of `zipfian` stay the ones
    /// they were, and the new one is not among them.
    mutating func grow() {
        guard distribution != .zipfian else { return }
        count += 1
        zipfian?.grow()
    }

    /// 0 ..< count.
    @inline(__always)
    func next(_ random: inout WorkloadRandom) -> UInt64 {
        guard let zipfian else { return random.next(below: count) }
        let rank = zipfian.next(&random)
        return distribution == .latest ? count - 1 - rank : WorkloadRandom.mix(rank) % count
    }
}
