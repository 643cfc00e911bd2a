import Synchronization

/// A run of a directory's entries, read together. Immutable; names lie in one array.
final class ListingRun: Sendable {
    struct Entry: Sendable {
        let nameEnd: Int
        let dentry: Dentry
        /// Where a listing goes on after this entry.
        let cookie: UInt64
    }

    private let names: [UInt8]
    let entries: [Entry]
    /// Whether there is nothing after the run.
    let isLast: Bool

    init(names: [UInt8], entries: [Entry], isLast: Bool) {
        self.names = names
        self.entries = entries
        self.isLast = isLast
    }

    func withName<Result>(_ index: Int, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        let start = index == 0 ? 0 : entries[index - 1].nameEnd
        return names.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[start..<entries[index].nameEnd])) }
    }
}

/// What was read of a directory beyond what its reader had room for, until the reader asks for it.
///
/// Only a shortcut: a listing goes on from its cookie with or without it, so that nothing is tied to an
/// open directory. A run serves as long as the stripe of its directory has not changed. Thread-safe.
final class ListingCache: Sendable {
    /// Readers that are remembered at once: about 20 KiB each.
    private static let maximumRuns = 64

    private struct Key: Hashable {
        let directory: InodeNumber
        let cookie: UInt64
    }

    private struct Rest {
        let run: ListingRun
        let position: Int
        let version: UInt64
    }

    private let rests = Mutex<[Key: Rest]>([:])

    /// Remembers that after `cookie` comes the entry at `position`, read when the stripe had `version`.
    func store(_ run: ListingRun, _ position: Int, _ directory: InodeNumber, after cookie: UInt64, _ version: UInt64) {
        rests.withLock { rests in
            if rests.count >= Self.maximumRuns, let any = rests.keys.first { rests[any] = nil }
            rests[Key(directory: directory, cookie: cookie)] = Rest(run: run, position: position, version: version)
        }
    }

    /// Takes what was remembered, if the stripe still has the version of then.
    func take(_ directory: InodeNumber, after cookie: UInt64, _ version: UInt64) -> (run: ListingRun, position: Int)? {
        rests.withLock { rests in
            guard let rest = rests.removeValue(forKey: Key(directory: directory, cookie: cookie)),
                rest.version == version
            else { return nil }
            return (rest.run, rest.position)
        }
    }
}
