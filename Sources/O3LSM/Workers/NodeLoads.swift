import Glibc

/// How busy each node has been lately: a mean of its load that forgets with a time constant of five seconds. Looks
/// are the control plane's rounds, which are 200 ms apart at most; between two of them the load counts as the mean
/// of both. Used by one thread.
struct NodeLoads {
    private struct Entry {
        var processID: Int32
        var load: Double
        var share: Double
    }
    /// By row of the node table.
    private var entries: [Int: Entry] = [:]
    private var lastLook: UInt64 = 0

    private static let leastNanoseconds: UInt64 = 20_000_000
    private static let memorySeconds = 5.0

    /// Busy shares by row of the node table, 0 ... 1.
    var shares: [Int: Double] { entries.mapValues(\.share) }

    /// Takes a look, if the last one was long enough ago.
    ///
    /// - Returns: whether it was taken.
    mutating func look(_ nodes: () -> [NodeTable.Node], now: UInt64 = monotonicNanoseconds()) -> Bool {
        guard now &- lastLook >= NodeLoads.leastNanoseconds else { return false }
        let weight = 1 - exp(-Double(now &- lastLook) / 1e9 / NodeLoads.memorySeconds)
        lastLook = now
        var seen: [Int: Entry] = [:]
        for node in nodes() {
            // What stands there is another process's word: it may be anything.
            let load = min(1, Double(node.load) / Double(max(1, node.capacity)))
            let before = entries[node.index].flatMap { $0.processID == node.processID ? $0 : nil }
            let share = before.map { $0.share + ((load + $0.load) / 2 - $0.share) * weight } ?? 0
            seen[node.index] = Entry(processID: node.processID, load: load, share: share)
        }
        entries = seen
        return true
    }
}
