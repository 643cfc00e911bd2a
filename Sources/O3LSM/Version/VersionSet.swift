import Synchronization

/// The current version and the manifest behind it. Every change is one edit, which is on storage before it
/// is installed: after any crash the tree is the one of the last edit that was committed. Thread-safe.
final class VersionSet: @unchecked Sendable {
    // @unchecked: `state` guards what changes.
    let layout: StoreLayout
    private let storage: any Storage
    private let onObsolete: @Sendable (UInt64) -> Void

    private struct State {
        var version: Version
        var flushedSequence: SequenceNumber
        var manifest: LogWriter?
        var manifestNumber: UInt64
        var poison: EngineError?
    }
    private let state: Mutex<State>
    private let nextFile: Atomic<UInt64>
    /// Serialises commits, so that the state's lock is never held across a sync.
    private let commitLock = Mutex<Void>(())

    /// A manifest that has grown beyond this is written anew.
    private static let manifestLimitBytes: UInt64 = 4 << 20

    private init(
        layout: StoreLayout, storage: any Storage, version: Version, flushedSequence: SequenceNumber,
        nextFile: UInt64, manifestNumber: UInt64, onObsolete: @escaping @Sendable (UInt64) -> Void
    ) {
        self.layout = layout
        self.storage = storage
        self.onObsolete = onObsolete
        state = Mutex(
            State(
                version: version, flushedSequence: flushedSequence, manifest: nil, manifestNumber: manifestNumber))
        self.nextFile = Atomic(nextFile)
        for file in version.levels.joined() { file.onReclaim(onObsolete) }
    }

    /// A new, empty tree.
    static func create(
        layout: StoreLayout, storage: any Storage, onObsolete: @escaping @Sendable (UInt64) -> Void
    ) throws(EngineError) -> VersionSet {
        let set = VersionSet(
            layout: layout, storage: storage, version: .empty, flushedSequence: 0, nextFile: 1, manifestNumber: 0,
            onObsolete: onObsolete)
        try set.beginManifest()
        return set
    }

    /// The tree that CURRENT names.
    ///
    /// - Throws: `.corruption` when CURRENT or the manifest cannot be read.
    static func recover(
        layout: StoreLayout, storage: any Storage, onObsolete: @escaping @Sendable (UInt64) -> Void
    ) throws(EngineError) -> VersionSet {
        let number = try readCurrent(layout, storage)
        let path = layout.manifest(number)
        var version = Version.empty
        var flushed: SequenceNumber = 0
        var nextFile: UInt64 = number + 1
        var edits = 0
        try LogReader.forEach(storage: storage, path: path, logNumber: number, kind: .manifest) {
            payload, offset throws(EngineError) in
            let edit = try VersionEdit.decode(payload, file: path, offset: offset)
            version = try version.applying(edit, manifest: path)
            flushed = max(flushed, edit.flushedSequence ?? 0)
            nextFile = max(nextFile, edit.nextFileNumber ?? 0)
            for (_, file) in edit.addedFiles { nextFile = max(nextFile, file.number + 1) }
            edits += 1
        }
        guard edits > 0 else {
            throw .corruption(file: path, offset: 0, expected: "at least one version edit", found: "none")
        }
        try version.checkInvariants(manifest: path)
        return VersionSet(
            layout: layout, storage: storage, version: version, flushedSequence: flushed, nextFile: nextFile,
            manifestNumber: number, onObsolete: onObsolete)
    }

    var current: Version { state.withLock { $0.version } }
    /// Everything up to this sequence is in tables.
    var flushedSequence: SequenceNumber { state.withLock { $0.flushedSequence } }

    /// A number no file of the store has or had.
    func newFileNumber() -> UInt64 { nextFile.wrappingAdd(1, ordering: .relaxed).oldValue }

    /// `count` consecutive numbers; the first of them.
    func newFileNumbers(_ count: Int) -> UInt64 {
        nextFile.wrappingAdd(UInt64(count), ordering: .relaxed).oldValue
    }

    /// Commits an edit: first to storage, then to readers.
    ///
    /// - Throws: `.readOnly` once a commit has failed, since nobody knows what of it is on storage.
    func logAndApply(_ edit: VersionEdit) throws(EngineError) {
        let outcome = commitLock.withLock { _ -> Result<Void, EngineError> in
            do throws(EngineError) { return .success(try commit(edit)) } catch { return .failure(error) }
        }
        try outcome.get()
    }

    private func commit(_ edit: VersionEdit) throws(EngineError) {
        let (version, poison, manifest) = state.withLock { ($0.version, $0.poison, $0.manifest) }
        if let poison { throw poison }
        let next = try version.applying(edit, manifest: layout.root)
        if let manifest, manifest.size < VersionSet.manifestLimitBytes {
            var numbered = edit
            numbered.nextFileNumber = nextFile.load(ordering: .relaxed)
            do throws(EngineError) {
                try numbered.encode().withEngineBytes { bytes throws(EngineError) in try manifest.append(bytes) }
                try manifest.sync()
            } catch {
                state.withLock { state in
                    state.poison = .readOnly(reason: "the manifest could not be written: \(error.description)")
                }
                throw error
            }
            install(next, edit)
        } else {
            let flushed = max(flushedSequence, edit.flushedSequence ?? 0)
            try beginManifest(with: next, flushed)
            install(next, edit)
        }
    }

    private func install(_ version: Version, _ edit: VersionEdit) {
        let added = Set(edit.addedFiles.map(\.file.number))
        for (_, file) in edit.addedFiles { file.onReclaim(onObsolete) }
        let old = state.withLock { state in
            let old = state.version
            state.version = version
            state.flushedSequence = max(state.flushedSequence, edit.flushedSequence ?? 0)
            return old
        }
        for (level, number) in edit.deletedFiles where !added.contains(number) {
            old.levels[level].first { $0.number == number }?.isObsolete.store(true, ordering: .releasing)
        }
    }

    /// Writes the whole version into a new manifest and makes CURRENT name it.
    private func beginManifest() throws(EngineError) {
        let (version, flushed) = state.withLock { ($0.version, $0.flushedSequence) }
        try beginManifest(with: version, flushed)
    }

    private func beginManifest(with version: Version, _ flushed: SequenceNumber) throws(EngineError) {
        let number = newFileNumber()
        let path = layout.manifest(number)
        var snapshot = VersionEdit()
        for (level, files) in version.levels.enumerated() { snapshot.addedFiles += files.map { (level, $0) } }
        snapshot.flushedSequence = flushed
        snapshot.nextFileNumber = nextFile.load(ordering: .relaxed)
        let writer = try LogWriter(file: try storage.create(path), logNumber: number, kind: .manifest)
        try snapshot.encode().withEngineBytes { bytes throws(EngineError) in try writer.append(bytes) }
        try writer.sync()
        try storage.syncDirectory(layout.root)
        try VersionSet.writeCurrent(number, layout, storage)
        let old = state.withLock { state in
            defer {
                state.manifest = writer
                state.manifestNumber = number
            }
            return state.manifestNumber
        }
        // Best effort: recovery removes manifests that CURRENT does not name.
        if old != 0 { try? storage.delete(layout.manifest(old)) }
    }

    /// Removes tables, manifests and temporary files that the current version does not name: what a crash
    /// has left behind. Only while no job runs.
    func removeOrphans() throws(EngineError) {
        let (version, manifestNumber) = state.withLock { ($0.version, $0.manifestNumber) }
        let live = Set(version.levels.joined().map(\.number))
        for name in try storage.list(layout.tableDirectory) {
            guard name.hasSuffix(".sst"), let number = StoreLayout.number(in: name), !live.contains(number) else { continue }
            // Its number must not be given out again.
            raiseNextFile(above: number)
            try storage.delete(layout.table(number))
        }
        for name in try storage.list(layout.root) {
            if name.hasSuffix(".tmp") { try storage.delete(layout.root + "/" + name) }
            if name.hasPrefix("MANIFEST-"), let number = StoreLayout.number(in: name), number != manifestNumber {
                raiseNextFile(above: number)
                try storage.delete(layout.manifest(number))
            }
        }
    }

    private func raiseNextFile(above number: UInt64) {
        if nextFile.load(ordering: .relaxed) <= number { nextFile.store(number + 1, ordering: .relaxed) }
    }

    // MARK: CURRENT

    /// `CURRENT` holds one line: the manifest's number, a space, and the masked CRC32C of the number's digits.
    private static func writeCurrent(_ number: UInt64, _ layout: StoreLayout, _ storage: any Storage)
        throws(EngineError)
    {
        let temporary = layout.current + ".tmp"
        let file = try storage.create(temporary)
        try Array(currentLine(number).utf8).withEngineBytes { bytes throws(EngineError) in try file.append(bytes) }
        try file.sync()
        try file.close()
        try storage.rename(temporary, to: layout.current)
        try storage.syncDirectory(layout.root)
    }

    private static func currentLine(_ number: UInt64) -> String {
        let digits = String(number)
        let checksum = Array(digits.utf8).withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) }
        return "\(digits) \(checksum)\n"
    }

    private static func readCurrent(_ layout: StoreLayout, _ storage: any Storage) throws(EngineError) -> UInt64 {
        let bytes = try storage.contents(of: layout.current, limit: 64)
        let text = String(decoding: bytes, as: UTF8.self)
        guard let number = UInt64(text.prefix { $0 != " " }), text == currentLine(number) else {
            throw .corruption(
                file: layout.current, offset: 0, expected: "the number of a manifest and its checksum",
                found: "\(bytes.count) other bytes")
        }
        return number
    }
}

extension Storage {
    /// A small file, whole; at most `limit` bytes of it.
    func contents(of path: String, limit: Int) throws(EngineError) -> [UInt8] {
        let file = try openForReading(path)
        var bytes = [UInt8](repeating: 0, count: min(limit, Int(file.size)))
        let outcome = bytes.withUnsafeMutableBytes { buffer -> Result<Int, EngineError> in
            do throws(EngineError) { return .success(try file.read(at: 0, into: buffer)) } catch { return .failure(error) }
        }
        return Array(bytes.prefix(try outcome.get()))
    }
}
