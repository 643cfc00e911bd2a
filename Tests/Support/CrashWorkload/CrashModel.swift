import O3LSM

/// What one thread of the crash workload does: operation `index` is a pure function of (seed, thread, index), so that
/// whoever knows how many operations a store holds knows every byte that must be in it.
///
/// Each operation is one batch that also writes the thread's head key: the number of operations so far,
/// and how many operations of each other thread had returned before it began. The first makes every batch
/// multi-key; the second ties the threads' histories together.
public struct CrashModel {
    public static let threads = 3
    public static let keys = 150

    /// One change of the store.
    public enum Change {
        case put(key: Int, value: [UInt8])
        case delete(key: Int)
        /// Keys `from ..< to`.
        case deleteRange(from: Int, to: Int)
    }

    public let seed: UInt64
    public let thread: Int
    /// Operations applied to `values`.
    public private(set) var count: UInt64 = 0
    public private(set) var values: [Int: [UInt8]] = [:]

    public init(seed: UInt64, thread: Int) {
        self.seed = seed
        self.thread = thread
    }

    /// The changes of an operation, the head key not among them.
    public func changes(_ index: UInt64) -> [Change] {
        var random = SplitMix(seed &* 0x1000_0001 &+ UInt64(thread) << 40 &+ index)
        return (0..<(1 + random.below(4))).map { _ in
            let key = random.below(CrashModel.keys)
            switch random.below(100) {
            case 0..<80:
                let length = random.below(12) == 0 ? random.below(30_000) : random.below(300)
                return .put(key: key, value: [UInt8](repeating: UInt8(truncatingIfNeeded: random.next()), count: length))
            case 80..<96: return .delete(key: key)
            default: return .deleteRange(from: key, to: min(key + 1 + random.below(30), CrashModel.keys))
            }
        }
    }

    /// Moves the model on by one operation.
    public mutating func apply() {
        for change in changes(count) {
            switch change {
            case .put(let key, let value): values[key] = value
            case .delete(let key): values[key] = nil
            case .deleteRange(let from, let to): for key in from..<to { values[key] = nil }
            }
        }
        count += 1
    }

    /// The batch of an operation.
    public func fill(_ batch: WriteBatch, _ index: UInt64, observed: [UInt64]) {
        for change in changes(index) {
            switch change {
            case .put(let key, let value): batch.put(self.key(key), value)
            case .delete(let key): batch.delete(self.key(key))
            case .deleteRange(let from, let to): batch.deleteRange(self.key(from), self.key(to))
            }
        }
        batch.put(headKey, CrashModel.encode([index + 1] + observed))
    }

    public var headKey: [UInt8] { Array("h\(thread)".utf8) }
    public var lowerBound: [UInt8] { Array("t\(thread)/".utf8) }
    public var upperBound: [UInt8] { Array("t\(thread)0".utf8) }

    public func key(_ index: Int) -> [UInt8] {
        let digits = String(index)
        return lowerBound + Array((String(repeating: "0", count: 4 - digits.count) + digits).utf8)
    }

    public static func encode(_ numbers: [UInt64]) -> [UInt8] {
        numbers.flatMap { number in (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) } }
    }

    public static func decode(_ bytes: [UInt8]) -> [UInt64] {
        stride(from: 0, to: bytes.count / 8 * 8, by: 8).map { start in
            (0..<8).reduce(0) { $0 | UInt64(bytes[start + $1]) << (8 * UInt64($1)) }
        }
    }
}

/// The same numbers for the same seed everywhere.
public struct SplitMix {
    private var state: UInt64
    public init(_ seed: UInt64) { state = seed }
    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
    public mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(max(bound, 1))) }
}
