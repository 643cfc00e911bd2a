import Glibc
import Synchronization

/// The current version and the manifest behind it. Every change is one edit, which is on storage before it
/// is installed: after any crash the tree is the one of the last edit that was committed, or of an edit
/// whose commit was under way. Thread-safe.
///
/// A commit that throws may still be found by a recovery: the tables that its edit adds must be kept until
/// the store is opened again. Nobody deletes the tables that it removes, since they stay in the version.
final class VersionSet: Sendable {
    let layout: StoreLayout
    private let storage: any Storage
    private let onObsolete: @Sendable (UInt64) -> Void
    private let manifestLimit: UInt64

    /// What readers see.
    fileprivate struct State {
        var version: Version
        var flushedSequence: SequenceNumber
        var lastSequence: SequenceNumber
    }
    /// What a commit holds while it writes.
    private struct Committer {
        /// nil: the next commit begins a new manifest.
        var manifest: LogWriter?
        /// Bytes from which on the manifest is written anew.
        var limitBytes: UInt64 = 0
        /// Manifests that storage may hold; all but the last are removed once CURRENT is known to name that.
        var manifestNumbers: [UInt64]
        /// Whether CURRENT on storage names a manifest of this owner, and its last commit was synced: then no table
        /// but those of the current version can be found by a recovery.
        var isSettled = false
        /// Why no further commit is possible.
        var poison: EngineError?
    }
    private let state: Mutex<State>
    /// Serialises commits, so that the state's lock is never held across a sync. Taken before `state`.
    private let committer: Mutex<Committer>
    private let nextFile: Atomic<UInt64>
    /// Whether this owner has written no manifest yet: the one that it has read may be in the system's memory only.
    private let isInDoubt = Atomic(true)

    /// A manifest that has grown beyond this, and to twice what it began with, is written anew.
    static let manifestLimitBytes: UInt64 = 4 << 20
    /// Tables in one edit of the snapshot that begins a manifest: with the longest keys, far within a record.
    private static let snapshotTables = 1000
    /// How far a recovery moves on beyond the recorded file numbers. Numbers that the last owner gave out after
    /// its last commit may still be in the hands of workers; no harm would come of it, but no file need be looked at
    /// twice to know whose it is.
    private static let fileNumberGap: UInt64 = 1024

    private init(
        layout: StoreLayout,
        storage: any Storage,
        state: State,
        nextFile: UInt64,
        manifestNumbers: [UInt64],
        manifestLimit: UInt64,
        onObsolete: @escaping @Sendable (UInt64) -> Void
    ) {
        self.layout = layout
        self.manifestLimit = manifestLimit
        self.storage = storage
        self.onObsolete = onObsolete
        for file in state.version.levels.joined() { file.onReclaim(onObsolete) }
        self.state = Mutex(state)
        committer = Mutex(Committer(manifest: nil, manifestNumbers: manifestNumbers, poison: nil))
        self.nextFile = Atomic(nextFile)
    }

    // MARK: Opening

    /// A new, empty tree, on storage when it returns. What is there of an earlier one is ignored.
    ///
    /// - Parameters:
    ///   - manifestLimit: as `manifestLimitBytes`; tests choose less.
    ///   - onObsolete: called with the number of a table that no version holds any more, from wherever the last
    ///     one was released; must not block.
    static func create(
        layout: StoreLayout,
        storage: any Storage,
        manifestLimit: UInt64 = manifestLimitBytes,
        onObsolete: @escaping @Sendable (UInt64) -> Void
    ) throws(EngineError) -> VersionSet {
        let set = VersionSet(
            layout: layout,
            storage: storage,
            state: State(version: .empty, flushedSequence: 0, lastSequence: 0),
            nextFile: 1,
            manifestNumbers: [],
            manifestLimit: manifestLimit,
            onObsolete: onObsolete
        )
        try set.logAndApply(VersionEdit())
        return set
    }

    /// Writes the manifest of a new store whose tree is that of another one; its files are the caller's business.
    ///
    /// - Parameter flushed: entries of the tables beyond this sequence are not seen by those who read the store.
    static func write(
        _ version: Version, flushed: SequenceNumber, _ layout: StoreLayout, _ storage: any Storage
    ) throws(EngineError) {
        let set = VersionSet(
            layout: layout, storage: storage, state: State(version: .empty, flushedSequence: 0, lastSequence: 0),
            nextFile: version.levels.joined().reduce(0) { max($0, $1.number) } + 1, manifestNumbers: [],
            manifestLimit: manifestLimitBytes, onObsolete: { _ in })
        var edit = VersionEdit()
        edit.addedFiles = version.levels.enumerated().flatMap { level, files in
            files.map { (level: level, file: $0.copy()) }
        }
        edit.flushedSequence = flushed
        try set.logAndApply(edit)
    }

    /// The tree that CURRENT names. Changes nothing. Its manifest is not appended to: the first commit begins a new
    /// one, and so does `removeOrphans`.
    ///
    /// What is read may be in the system's memory only, and no sync mends that: one of the last owner's may have
    /// failed, which drops what it should have written, and later ones say nothing of it.
    ///
    /// - Parameters:
    ///   - manifest: the number of the one to read; nil: what CURRENT says.
    ///   - others: as of `create`.
    /// - Throws: `.corruption` when CURRENT or the manifest cannot be read, `.unsupportedFormat`.
    static func recover(
        layout: StoreLayout,
        storage: any Storage,
        manifest: UInt64? = nil,
        manifestLimit: UInt64 = manifestLimitBytes,
        onObsolete: @escaping @Sendable (UInt64) -> Void
    ) throws(EngineError) -> VersionSet {
        let number = if let manifest { manifest } else { try CurrentFile.read(layout, storage) }
        let path = layout.manifest(number)
        guard storage.exists(path) else {
            throw .corruption(file: layout.current, offset: 0, expected: "the number of a manifest", found: "\(number)")
        }
        var recovered = State(version: .empty, flushedSequence: 0, lastSequence: 0)
        var tables = VersionBuilder()
        var nextFile: UInt64?
        try LogReader.forEach(storage: storage, path: path, logNumber: number, kind: .manifest) {
            payload,
            offset throws(EngineError) in
            let edit = try VersionEdit.decode(payload, file: path, offset: offset)
            try tables.apply(edit, file: path, offset: offset)
            recovered.raiseSequences(by: edit)
            nextFile = edit.nextFileNumber ?? nextFile
        }
        recovered.version = try tables.build(file: path, offset: UInt64(LogFormat.fileHeaderBytes))
        guard let nextFile, nextFile <= UInt64.max / 2 else {
            throw .corruption(
                file: path,
                offset: UInt64(LogFormat.fileHeaderBytes),
                expected: "a version edit with the next file number",
                found: nextFile.map { "\($0)" } ?? "none"
            )
        }
        let greatest = recovered.version.levels.joined().reduce(number) { max($0, $1.number) }
        guard greatest < nextFile else {
            throw .corruption(
                file: path,
                offset: 0,
                expected: "file numbers below \(nextFile)",
                found: "\(greatest)"
            )
        }
        return VersionSet(
            layout: layout,
            storage: storage,
            state: recovered,
            nextFile: nextFile + fileNumberGap,
            manifestNumbers: [number],
            manifestLimit: manifestLimit,
            onObsolete: onObsolete
        )
    }

    // MARK: Reading

    var current: Version { state.withLock { $0.version } }
    /// Everything up to this sequence is in tables.
    var flushedSequence: SequenceNumber { state.withLock { $0.flushedSequence } }
    /// The greatest sequence that any edit has named, itself or in a table.
    var lastSequence: SequenceNumber { state.withLock { $0.lastSequence } }

    /// The numbers of the tables of the current version. Older versions, which readers may still hold, can
    /// have more.
    func liveFileNumbers() -> Set<UInt64> { Set(current.levels.joined().map(\.number)) }

    /// A number no file of the store has or had.
    func newFileNumber() -> UInt64 { newFileNumbers(1) }

    /// `count` consecutive numbers; the first of them.
    func newFileNumbers(_ count: Int) -> UInt64 {
        nextFile.wrappingAdd(UInt64(count), ordering: .relaxed).oldValue
    }

    // MARK: Committing

    /// Commits an edit: first to storage, then to readers. The caller has synced the tables it adds, and the
    /// directory they are in.
    ///
    /// - Throws: `.corruption` when the edit does not fit the current version, which is then left as it is;
    ///   `.io` when storage fails. If that was for want of space, a later call may succeed; otherwise every
    ///   later call throws `.readOnly`.
    func logAndApply(_ edit: VersionEdit) throws(EngineError) {
        let outcome = committer.withLock { committer -> Result<Void, EngineError> in
            do throws(EngineError) { return .success(try commit(edit, &committer)) } catch { return .failure(error) }
        }
        try outcome.get()
    }

    private func commit(_ edit: VersionEdit, _ committer: inout Committer) throws(EngineError) {
        if let poison = committer.poison { throw poison }
        var next = state.withLock { $0 }
        let previous = next.version
        next.version = try previous.applying(edit, file: layout.root)
        next.raiseSequences(by: edit)
        do throws(EngineError) {
            if let manifest = committer.manifest, manifest.size < committer.limitBytes {
                try append(edit, to: manifest)
                FaultPoint.beforeManifestSync.hit()
                try manifest.sync()
                committer.manifest = VersionSet.attested(manifest)
            } else {
                try beginManifest(with: next, &committer)
            }
        } catch {
            // The manifest's tail is unknown, so nothing is appended to it again. A new manifest that CURRENT
            // names settles the matter; want of space is the one failure after which trying that makes sense.
            committer.manifest = nil
            committer.isSettled = false
            if error.posixCode != ENOSPC && error.posixCode != EDQUOT {
                committer.poison = .readOnly(reason: "the manifest could not be written: \(error.description)")
            }
            throw error
        }
        install(next, edit, previous)
    }

    private func append(_ edit: VersionEdit, to manifest: LogWriter) throws(EngineError) {
        var numbered = edit
        numbered.nextFileNumber = nextFile.load(ordering: .relaxed)
        try numbered.encode().withEngineBytes { bytes throws(EngineError) in try manifest.append(bytes) }
    }

    /// The manifest, with an empty edit behind the one that was just synced: it tells a reader that what precedes it
    /// had been synced, so that damage to the last edit is not taken for a torn end, and the store not for an
    /// older one. It is not synced itself: a reader that does not find it is where it would be without.
    ///
    /// - Returns: nil when it could not be written: the next commit begins another manifest.
    private static func attested(_ manifest: LogWriter) -> LogWriter? {
        do throws(EngineError) {
            try manifest.append(UnsafeRawBufferPointer(start: nil, count: 0))
            try manifest.flush()
            return manifest
        } catch {
            return nil
        }
    }

    /// Writes the whole state into a new manifest and makes CURRENT name it.
    private func beginManifest(with next: State, _ committer: inout Committer) throws(EngineError) {
        let number = newFileNumber()
        committer.manifestNumbers.append(number)
        let writer: LogWriter
        do throws(EngineError) { writer = try writeManifest(number, next) } catch {
            // CURRENT does not name it, and on a full disk each try would leave one.
            try? storage.delete(layout.manifest(number))
            committer.manifestNumbers.removeLast()
            throw error
        }
        try CurrentFile.write(manifest: number, layout, storage)
        committer.manifest = writer
        committer.limitBytes = max(manifestLimit, writer.size * 2)
        for old in committer.manifestNumbers.dropLast() {
            // Best effort: recovery removes manifests that CURRENT does not name.
            try? storage.delete(layout.manifest(old))
        }
        committer.manifestNumbers = [number]
        committer.isSettled = true
        isInDoubt.store(false, ordering: .releasing)
    }

    private func writeManifest(_ number: UInt64, _ state: State) throws(EngineError) -> LogWriter {
        // Of a making of the store that failed: its name may never get to storage, whatever later syncs say.
        if storage.exists(layout.manifest(number)) { try storage.delete(layout.manifest(number)) }
        let file = try storage.create(layout.manifest(number))
        let writer = try LogWriter(file: file, logNumber: number, kind: .manifest)
        for edit in state.snapshot(tablesPerEdit: VersionSet.snapshotTables) { try append(edit, to: writer) }
        try writer.sync()
        // The witness is synced, too: no log has what is in the first edits.
        try writer.append(UnsafeRawBufferPointer(start: nil, count: 0))
        try writer.sync()
        try storage.syncDirectory(layout.root)
        return writer
    }

    private func install(_ next: State, _ edit: VersionEdit, _ previous: Version) {
        for (_, file) in edit.addedFiles { file.onReclaim(onObsolete) }
        state.withLock { $0 = next }
        // A table that only moves to another level is among both.
        let added = Set(edit.addedFiles.map(\.file.number))
        for (level, number) in edit.deletedFiles where !added.contains(number) {
            // `previous` keeps the table alive, so that its last holder sees the mark.
            previous.levels[level].first { $0.number == number }?.isObsolete.store(true, ordering: .releasing)
        }
    }

    // MARK: Orphans

    /// Removes tables, manifests and temporary files that the current version does not name: what a crash has
    /// left behind. To be called after opening, before any number is given out, and while no job runs.
    ///
    /// The current version is written into a new manifest first, unless this owner has done so: power loss could bring
    /// back an older one, which names tables that the current one does not. Where there is no room for it, only files of
    /// attempts go, for no manifest names them; a later call removes the rest.
    ///
    /// - Parameter later: takes the paths of tables, and of attempts at them, that may now be removed at any time, since their
    ///   numbers are not given out again; nil: they are removed here.
    func removeOrphans(later: ((String) -> Void)? = nil) throws(EngineError) {
        let live = liveFileNumbers()
        var attempts: [String] = []
        var tables: [String] = []
        for name in try storage.list(layout.tableDirectory) {
            let path = layout.tableDirectory + "/" + name
            guard let number = StoreLayout.tableNumber(in: name) else { continue }
            if name.hasSuffix(StoreLayout.attemptSuffix) {
                raiseNextFile(above: number)
                attempts.append(path)
            } else if layout.table(number) == path, !live.contains(number) {
                raiseNextFile(above: number)
                tables.append(path)
            }
        }
        var others: [(path: String, manifest: UInt64?)] = []
        for name in try storage.list(layout.root) {
            let path = layout.root + "/" + name
            if path == layout.current + temporaryFileSuffix || path == layout.identity + temporaryFileSuffix {
                others.append((path, nil))
            } else if let number = StoreLayout.number(in: name), layout.manifest(number) == path {
                raiseNextFile(above: number)
                others.append((path, number))
            }
        }
        do throws(EngineError) { try settleManifest() } catch {
            guard error.isOutOfSpace else { throw error }
            // What nobody waits for any more may be what fills the disk.
            for path in attempts { try? storage.delete(path) }
            attempts = []
            do throws(EngineError) { try settleManifest() } catch {
                guard error.isOutOfSpace else { throw error }
                return
            }
        }
        let manifests = committer.withLock { $0.manifestNumbers }
        for path in attempts { if let later { later(path) } else { try? storage.delete(path) } }
        for path in tables { if let later { later(path) } else { try storage.delete(path) } }
        for (path, manifest) in others where manifest.map({ !manifests.contains($0) }) ?? true {
            // The new manifest has taken the place of some of them.
            if storage.exists(path) { try storage.delete(path) }
        }
    }

    /// Writes a manifest unless this owner has written one: from then on the state that it began with survives power loss,
    /// and the log may go on from it.
    ///
    /// - Throws: as `logAndApply`; after want of space a later call may succeed.
    func settle() throws(EngineError) {
        if isInDoubt.load(ordering: .acquiring) { try settleManifest() }
    }

    /// Writes a manifest unless the one on storage is this owner's and whole.
    private func settleManifest() throws(EngineError) {
        let outcome = committer.withLock { committer -> Result<Void, EngineError> in
            if committer.isSettled { return .success(()) }
            if let poison = committer.poison { return .failure(poison) }
            do throws(EngineError) {
                return .success(try beginManifest(with: state.withLock { $0 }, &committer))
            } catch {
                committer.manifest = nil
                return .failure(error)
            }
        }
        try outcome.get()
    }

    /// The number of a file that was found must not be given out again.
    private func raiseNextFile(above number: UInt64) {
        guard number < UInt64.max / 2 else { return }
        nextFile.max(number + 1, ordering: .relaxed)
    }
}

extension VersionSet.State {
    fileprivate mutating func raiseSequences(by edit: VersionEdit) {
        flushedSequence = max(flushedSequence, edit.flushedSequence ?? 0)
        lastSequence = max(lastSequence, flushedSequence, edit.lastSequence ?? 0)
        for (_, file) in edit.addedFiles { lastSequence = max(lastSequence, file.largestSequence) }
    }

    /// The edits that make this state of nothing. The last one has the sequences.
    fileprivate func snapshot(tablesPerEdit: Int) -> [VersionEdit] {
        let files = version.levels.enumerated().flatMap { level, files in files.map { (level: level, file: $0) } }
        var edits = stride(from: 0, to: files.count, by: tablesPerEdit).map { first in
            var edit = VersionEdit()
            edit.addedFiles = Array(files[first..<min(first + tablesPerEdit, files.count)])
            return edit
        }
        var last = VersionEdit()
        last.flushedSequence = flushedSequence
        last.lastSequence = lastSequence
        edits.append(last)
        return edits
    }
}
