/// Names of the files of a store directory. Numbers are decimal and padded so that `ls` sorts them.
struct StoreLayout: Sendable {
    let root: String

    var identity: String { root + "/IDENTITY" }
    var lock: String { root + "/LOCK" }
    var current: String { root + "/CURRENT" }
    var logDirectory: String { root + "/wal" }
    var tableDirectory: String { root + "/sst" }
    /// A store with this file is a snapshot of another one.
    var snapshot: String { root + "/SNAPSHOT" }
    /// Of a store that was imported: which snapshot it equals.
    var origin: String { root + "/ORIGIN" }
    /// Where a store's snapshots are, each a store of its own.
    var snapshotDirectory: String { root + "/snapshots" }

    func manifest(_ number: UInt64) -> String { root + "/MANIFEST-" + padded(number) }
    func log(_ number: UInt64) -> String { logDirectory + "/" + padded(number) + ".log" }
    /// A log that nobody needs, kept for its space: the next one is written over it.
    func freeLog(_ number: UInt64) -> String { logDirectory + "/" + padded(number) + StoreLayout.freeSuffix }
    static let freeSuffix = ".free"
    func table(_ number: UInt64) -> String { tableDirectory + "/" + padded(number) + ".sst" }

    /// What an attempt at a job writes in place of a table until that is accepted: `000012-1f0.part` for attempt 0x1f0.
    func table(_ number: UInt64, attempt: UInt64?) -> String {
        guard let attempt else { return table(number) }
        return tableDirectory + "/" + padded(number) + "-" + String(attempt, radix: 16) + StoreLayout.attemptSuffix
    }
    static let attemptSuffix = ".part"

    /// The number in the name of a table, or of an attempt at one; nil for other names.
    static func tableNumber(in name: String) -> UInt64? {
        if name.hasSuffix(".sst") { return number(in: name) }
        guard name.hasSuffix(attemptSuffix), let dash = name.firstIndex(of: "-"),
            UInt64(name[dash...].dropFirst().dropLast(attemptSuffix.count), radix: 16) != nil
        else { return nil }
        return number(in: String(name[..<dash]))
    }

    /// The number in a name such as `MANIFEST-000012`, `000012.log` or `000012.sst`; nil for other names.
    static func number(in name: String) -> UInt64? {
        var digits = name[...]
        if digits.hasPrefix("MANIFEST-") { digits = digits.dropFirst(9) }
        if let dot = digits.firstIndex(of: ".") { digits = digits[..<dot] }
        guard !digits.isEmpty, digits.allSatisfy({ $0.isASCII && $0.isNumber }) else { return nil }
        return UInt64(digits)
    }

    // Of directories beside a store in which its next state is built. Who finds one takes it for a leftover, so that they
    // are names which nobody gives to a store.
    static let importSuffix = ".o3fs-import"
    static let repairSuffix = ".o3fs-repair"

    /// Before the directory is removed as what an import or a repair has left: whether it may be that.
    ///
    /// - Throws: `.invalidArgument` when it belongs to somebody else, is no directory, or holds something and nothing of a store.
    func checkIsLeftover(_ storage: any Storage) throws(EngineError) {
        try storage.checkOwn(root)
        let names = try storage.list(root)
        // A crash may have left any of them.
        let known: Set = ["LOCK", "IDENTITY", "CURRENT", "ORIGIN", "wal", "sst", "snapshots"]
        let isOfStore = names.contains { known.contains($0) || $0.hasPrefix("MANIFEST-") || $0.hasSuffix(temporaryFileSuffix) }
        guard names.isEmpty || isOfStore else {
            throw .invalidArgument(
                "\(root) is where a new state would be built, and it is something else (it holds \(names.sorted()[0])): move it")
        }
    }

    private func padded(_ number: UInt64) -> String {
        let text = String(number)
        return String(repeating: "0", count: max(0, 6 - text.count)) + text
    }
}
