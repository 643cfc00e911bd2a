import Glibc
import O3LSM

/// Reads with and without delegation in turns of a few milliseconds, so that what a machine does to both, and it does
/// more in a second than what is looked for, cancels out. The order within a pair changes from pair to pair. Used by one thread.
final class DelegationTurns {
    private let setDelegating: (Bool) -> Void
    private let clock: () -> UInt64
    private var isDelegating = false
    private var pairs = 0
    private var isSecond = false
    private var operations = 0
    private var start: UInt64
    private var end: UInt64
    /// What reads without and with delegation have cost so far, in blocks of turns.
    private var blocks: [(without: Cost, with: Cost)] = []

    private struct Cost {
        var nanoseconds: UInt64 = 0
        var operations = 0

        /// Operations a nanosecond.
        var speed: Double { Double(operations) / Double(max(1, nanoseconds)) }

        mutating func add(_ other: Cost) {
            nanoseconds += other.nanoseconds
            operations += other.operations
        }
    }

    static let turnNanoseconds: UInt64 = 4_000_000
    static let pairsOfBlock = 16

    convenience init(_ database: Database) {
        self.init(clock: monotonicNanoseconds) { database.pausesReadDelegation = !$0 }
    }

    /// - Parameter setDelegating: told what the next reads are to do; in the end, that they are to delegate.
    init(clock: @escaping () -> UInt64, setDelegating: @escaping (Bool) -> Void) {
        self.clock = clock
        self.setDelegating = setDelegating
        blocks.reserveCapacity(1 << 12)
        setDelegating(false)
        start = clock()
        end = start + Self.turnNanoseconds
    }

    deinit { setDelegating(true) }

    /// Counts operations that ended at `now`, and changes over when the turn is at its end.
    ///
    /// - Returns: when the next operation begins.
    @inline(__always)
    func finish(_ count: Int, _ now: UInt64) -> UInt64 {
        operations += count
        return now < end ? now : change(now)
    }

    @inline(never)
    private func change(_ now: UInt64) -> UInt64 {
        if !isSecond, pairs % Self.pairsOfBlock == 0 { blocks.append((Cost(), Cost())) }
        let cost = Cost(nanoseconds: now - start, operations: operations)
        if isDelegating { blocks[blocks.count - 1].with.add(cost) } else { blocks[blocks.count - 1].without.add(cost) }
        if isSecond { pairs += 1 }
        isSecond.toggle()
        // A pair begins with what the one before it ended with: without and with, with and without.
        if isSecond { isDelegating.toggle() }
        setDelegating(isDelegating)
        operations = 0
        start = clock()
        end = start + Self.turnNanoseconds
        return start
    }

    /// nil: it did not run long enough to say anything.
    var result: DelegationComparison? {
        let whole = blocks.dropLast(isSecond || pairs % Self.pairsOfBlock != 0 ? 1 : 0)
        guard whole.count > 1 else { return nil }
        let ratios = whole.map { $0.with.speed / $0.without.speed }
        let mean = ratios.reduce(0, +) / Double(ratios.count)
        let variance = ratios.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(ratios.count - 1)
        let without = whole.reduce(into: Cost()) { $0.add($1.without) }
        let with = whole.reduce(into: Cost()) { $0.add($1.with) }
        return DelegationComparison(
            pairs: whole.count * Self.pairsOfBlock, ratio: with.speed / without.speed,
            margin: 1.96 * (variance / Double(ratios.count)).squareRoot())
    }
}

/// What `DelegationTurns` found.
struct DelegationComparison: Encodable, Equatable, Sendable {
    /// Of turns without and with delegation.
    var pairs: Int
    /// Operations a second with delegation, over those without.
    var ratio: Double
    /// Half of what the ratio lies in with a probability of 95 %.
    var margin: Double
}
