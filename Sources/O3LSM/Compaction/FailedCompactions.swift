/// Compactions that have failed for another reason than want of room, a damaged table mostly. Tables of theirs count as
/// taken for a time that grows with each failure, so that what lies beside them, and the tables of L0 above them among
/// themselves, is compacted meanwhile, and the same job is not picked again and again. For one thread.
struct FailedCompactions {
    private struct Entry {
        var files: [FileMetadata]
        var error: EngineError
        var until: UInt64
    }
    private var entries: [Entry] = []
    /// How often each table was in a compaction that failed, since it was last in one that did not.
    private var failures: [UInt64: Int] = [:]

    private static let firstPauseNanoseconds: UInt64 = 500_000_000
    private static let mostDoublings = 6

    /// Why the newest of those that wait has failed.
    var error: EngineError? { entries.last?.error }

    /// - Parameter compaction: its tables of the output level are marked as taken: without them it is not picked. When it
    ///   had none there, all of them are.
    mutating func add(_ compaction: Compaction, _ error: EngineError, _ now: UInt64) {
        guard let files = compaction.inputs.last?.files else { return }
        var count = 1
        for file in files {
            failures[file.number, default: 0] += 1
            count = max(count, failures[file.number, default: 1])
            file.isBeingCompacted.store(true, ordering: .relaxed)
        }
        let pause = Self.firstPauseNanoseconds << UInt64(min(count - 1, Self.mostDoublings))
        entries.append(Entry(files: files, error: error, until: now + pause))
    }

    /// Lets go of the tables of those that have waited long enough.
    mutating func release(_ now: UInt64) {
        guard !entries.isEmpty else { return }
        for file in entries.lazy.filter({ $0.until <= now }).flatMap(\.files) {
            file.isBeingCompacted.store(false, ordering: .relaxed)
        }
        entries.removeAll { $0.until <= now }
    }

    /// The tables of one that was committed are gone.
    mutating func forget(_ compaction: Compaction) {
        guard !failures.isEmpty else { return }
        for file in compaction.files { failures[file.number] = nil }
    }
}
