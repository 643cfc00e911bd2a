import Glibc
import Synchronization

@testable import O3LSM

/// A storage in memory that knows what of it would survive power loss. Thread-safe.
///
/// Bytes survive once their file was synced, names once their directory was synced; what was not may be there
/// or not. `afterPowerLoss` makes a storage with one of the outcomes that are possible: for each file any of
/// the sectors written since its last sync, for each directory a prefix of the changes since its last sync
/// (file systems keep these in order). A file may be synced and its name still be lost. What a failed sync has
/// dropped (`LosingFile`, `LosingStorage`) is there for every reader and never gets to the medium, whoever opens the
/// file again and syncs it.
///
///     storage.stop(after: 17)          // the 18th change from now and all later ones throw EIO
final class MemoryStorage: Storage, LosingStorage {
    /// What becomes of the changes that were not synced.
    enum Loss {
        /// None of them survives.
        case everything
        /// All of them do, and are still not synced: the process died, the machine did not.
        case nothing
        /// A random part of them.
        case torn(UInt64)
    }

    fileprivate final class File {
        var bytes: [UInt8] = []
        /// What the last sync left on the medium.
        var durable: [UInt8] = []
        /// Bytes that a failed sync should have made durable: lost on the medium until they are written again.
        var lost = 0..<0

        init(_ bytes: [UInt8] = []) {
            self.bytes = bytes
            durable = bytes
        }

        func write(_ new: UnsafeRawBufferPointer, at start: Int) {
            if bytes.count < start { bytes += [UInt8](repeating: 0, count: start - bytes.count) }
            bytes.replaceSubrange(start..<min(start + new.count, bytes.count), with: new)
            // Files are written from their start: what precedes the lost bytes is not.
            guard start <= lost.lowerBound, start + new.count > lost.lowerBound else { return }
            lost = min(start + new.count, lost.upperBound)..<lost.upperBound
        }

        func truncate() { (bytes, lost) = ([], 0..<0) }

        func sync() {
            var next = bytes
            for index in lost { next[index] = index < durable.count ? durable[index] : 0 }
            if !lost.isEmpty, lost.upperBound == next.count {
                next.removeLast(next.count - min(next.count, max(lost.lowerBound, durable.count)))
            }
            durable = next
        }

        func loseUnsyncedWrites() {
            let common = min(bytes.count, durable.count)
            let differing = (0..<common).filter { bytes[$0] != durable[$0] }
            let first = differing.first ?? common
            lost = first..<(bytes.count > common ? bytes.count : max(first, (differing.last ?? -1) + 1))
        }
    }

    fileprivate enum Change {
        case link(name: String, File)
        case unlink(name: String)
        case rename(from: String, to: String, File)

        func apply(to entries: inout [String: File]) {
            switch self {
            case .link(let name, let file): entries[name] = file
            case .unlink(let name): entries[name] = nil
            case .rename(let source, let target, let file):
                entries[source] = nil
                entries[target] = file
            }
        }

        func copied(_ copy: (File) -> File) -> Change {
            switch self {
            case .link(let name, let file): .link(name: name, copy(file))
            case .unlink: self
            case .rename(let source, let target, let file): .rename(from: source, to: target, copy(file))
            }
        }
    }

    fileprivate struct Directory {
        var entries: [String: File] = [:]
        var durable: [String: File] = [:]
        /// Since the last sync, in order.
        var pending: [Change] = []

        mutating func make(_ change: Change) {
            change.apply(to: &entries)
            pending.append(change)
        }
        mutating func sync() {
            for change in pending { change.apply(to: &durable) }
            pending = []
        }
    }

    fileprivate struct State {
        /// The root is always there.
        var directories: [String: Directory] = ["/": Directory()]
        var changes = 0
        var changesLeft = Int.max
        var locked: Set<String> = []
    }
    // Files are only touched while the lock is held.
    private nonisolated(unsafe) var unguarded = State()
    private let mutex = Mutex<Void>(())

    init() {}

    private func withState<Value>(
        _ body: (inout State) throws(EngineError) -> Value
    ) throws(EngineError) -> Value {
        let outcome = mutex.withLock { _ -> sending Result<Unchecked<Value>, EngineError> in
            do throws(EngineError) { return .success(Unchecked(value: try body(&unguarded))) } catch {
                return .failure(error)
            }
        }
        return try outcome.get().value
    }
    private struct Unchecked<Value>: @unchecked Sendable { var value: Value }

    // MARK: Faults

    /// Calls so far that change something (appends and syncs included).
    var changes: Int { mutex.withLock { _ in unguarded.changes } }

    /// Lets this many more changes through; later ones throw EIO and change nothing.
    func stop(after count: Int) { mutex.withLock { _ in unguarded.changesLeft = count } }

    /// What is there after power has come back. The original is not changed.
    func afterPowerLoss(_ loss: Loss = .everything) -> MemoryStorage {
        let result = MemoryStorage()
        mutex.withLock { _ in
            var generator = SeededRandom(0)
            if case .torn(let seed) = loss { generator = SeededRandom(seed) }
            var copies: [ObjectIdentifier: File] = [:]
            func copy(_ file: File) -> File {
                if let known = copies[ObjectIdentifier(file)] { return known }
                let made = file.surviving(loss, &generator)
                copies[ObjectIdentifier(file)] = made
                return made
            }
            for (path, directory) in unguarded.directories.sorted(by: { $0.key < $1.key }) {
                var survived = Directory()
                var kept: [Change] = []
                switch loss {
                case .everything: break
                case .nothing: kept = directory.pending
                case .torn:
                    kept = Array(
                        directory.pending.prefix(Int.random(in: 0...directory.pending.count, using: &generator))
                    )
                }
                for (name, file) in directory.durable.sorted(by: { $0.key < $1.key }) {
                    survived.durable[name] = copy(file)
                }
                survived.entries = survived.durable
                for change in kept { survived.make(change.copied(copy)) }
                // Among what a failed sync has dropped are names that others see.
                if case .nothing = loss { survived.entries = directory.entries.mapValues(copy) }
                // After power loss the medium is all there is.
                if case .torn = loss { survived.sync() }
                result.unguarded.directories[path] = survived
            }
        }
        return result
    }

    // MARK: Looking and damaging

    /// The bytes of a file as a reader sees them; nil if there is none.
    func bytes(of path: String) -> [UInt8]? {
        try? withState { (state) throws(EngineError) in try state.file(path).bytes }
    }

    /// The paths of all directories, with nil, and of all files, with their bytes.
    var tree: [String: [UInt8]?] {
        mutex.withLock { _ in
            var tree: [String: [UInt8]?] = [:]
            for (path, directory) in unguarded.directories {
                tree.updateValue(nil, forKey: path)
                for (name, file) in directory.entries { tree.updateValue(file.bytes, forKey: path + "/" + name) }
            }
            return tree
        }
    }

    /// Puts a synced file there, or other bytes into the one that is.
    func set(_ path: String, to bytes: [UInt8]) {
        mutex.withLock { _ in
            let (directory, name) = split(path)
            let file = unguarded.directories[directory]?.entries[name] ?? File()
            (file.bytes, file.durable) = (bytes, bytes)
            unguarded.directories[directory, default: Directory()].entries[name] = file
            unguarded.directories[directory]?.sync()
        }
    }

    // MARK: Storage

    func create(_ path: String) throws(EngineError) -> any WritableFile {
        try withState { (state) throws(EngineError) in
            try state.change("create", path)
            let (directory, name) = split(path)
            guard let entries = state.directories[directory]?.entries else { throw missing("create", path) }
            if let file = entries[name] {
                file.truncate()
                return MemoryStorageFile(path: path, file, self)
            }
            let file = File()
            state.directories[directory]?.make(.link(name: name, file))
            return MemoryStorageFile(path: path, file, self)
        }
    }

    func reuse(_ path: String) throws(EngineError) -> any WritableFile {
        try withState { (state) throws(EngineError) in
            MemoryStorageFile(path: path, try state.file(path), self)
        }
    }

    func openForReading(_ path: String) throws(EngineError) -> any ReadableFile {
        try withState { (state) throws(EngineError) in MemoryStorageView(path: path, bytes: try state.file(path).bytes)
        }
    }

    func rename(_ source: String, to destination: String) throws(EngineError) {
        try withState { (state) throws(EngineError) in
            try state.change("rename", source)
            if state.directories[source] != nil { return state.move(source, to: destination) }
            let file = try state.file(source)
            let (directory, from) = split(source)
            let (other, to) = split(destination)
            guard directory == other else { throw .io(operation: "rename", path: source, code: EXDEV) }
            state.directories[directory]?.make(.rename(from: from, to: to, file))
        }
    }

    func delete(_ path: String) throws(EngineError) {
        try withState { (state) throws(EngineError) in
            try state.change("delete", path)
            if state.directories[path] != nil { throw .io(operation: "delete", path: path, code: EISDIR) }
            _ = try state.file(path)
            let (directory, name) = split(path)
            state.directories[directory]?.make(.unlink(name: name))
        }
    }

    func link(_ path: String, to second: String) throws(EngineError) {
        try withState { (state) throws(EngineError) in
            try state.change("link", path)
            let file = try state.file(path)
            let (directory, name) = split(second)
            guard let entries = state.directories[directory]?.entries else { throw missing("link", second) }
            guard entries[name] == nil else { throw .io(operation: "link", path: second, code: EEXIST) }
            state.directories[directory]?.make(.link(name: name, file))
        }
    }

    func exchange(_ path: String, with other: String) throws(EngineError) {
        try withState { (state) throws(EngineError) in
            try state.change("exchange", path)
            for path in [path, other] where state.directories[path] == nil { throw missing("exchange", path) }
            let aside = path + ".exchanged"
            state.move(path, to: aside)
            state.move(other, to: path)
            state.move(aside, to: other)
        }
    }

    func removeDirectory(_ path: String) throws(EngineError) {
        try withState { (state) throws(EngineError) in
            try state.change("delete", path)
            guard let directory = state.directories[path] else { throw missing("delete", path) }
            guard directory.entries.isEmpty, !state.directories.keys.contains(where: { split($0).directory == path })
            else { throw .io(operation: "delete", path: path, code: ENOTEMPTY) }
            state.directories[path] = nil
        }
    }

    func fileIdentity(_ path: String) throws(EngineError) -> FileIdentity {
        try withState { (state) throws(EngineError) in
            .inode(UInt64(UInt(bitPattern: ObjectIdentifier(try state.file(path)))), device: 0)
        }
    }

    func list(_ directory: String) throws(EngineError) -> [String] {
        try withState { (state) throws(EngineError) in
            guard let entries = state.directories[directory]?.entries else { throw missing("list", directory) }
            let below = state.directories.keys.filter { split($0).directory == directory }.map { split($0).name }
            return (Array(entries.keys) + below).sorted()
        }
    }

    /// Directories are durable at once: nothing here is about them.
    func createDirectory(_ path: String) throws(EngineError) {
        try withState { (state) throws(EngineError) in
            try state.change("create the directory", path)
            if state.directories[path] == nil { state.directories[path] = Directory() }
        }
    }

    func syncDirectory(_ path: String) throws(EngineError) {
        try withState { (state) throws(EngineError) in
            try state.change("sync the directory", path)
            guard state.directories[path] != nil else { throw missing("sync", path) }
            state.directories[path]?.sync()
        }
    }

    func loseUnsyncedNames(in directory: String) {
        mutex.withLock { _ in unguarded.directories[directory]?.pending = [] }
    }

    func exists(_ path: String) -> Bool {
        mutex.withLock { _ in
            unguarded.directories[path] != nil || (try? unguarded.file(path)) != nil
        }
    }

    func fileSize(_ path: String) throws(EngineError) -> UInt64 {
        try withState { (state) throws(EngineError) in UInt64(try state.file(path).bytes.count) }
    }

    func lock(_ path: String) throws(EngineError) -> any FileLock {
        try withState { (state) throws(EngineError) in
            guard state.locked.insert(path).inserted else { throw .storeInUse(path: path, owner: "this process") }
        }
        return MemoryStorageLock { [weak self] in
            self?.mutex.withLock { _ in _ = self?.unguarded.locked.remove(path) }
        }
    }

    func space(_ path: String) throws(EngineError) -> (free: UInt64, total: UInt64) { (1 << 40, 1 << 40) }

    /// Runs `body` under the lock; it is not a change that is counted.
    fileprivate func touch(_ body: () -> Void) { mutex.withLock { _ in body() } }

    /// Runs `body` as one change of `file`, or throws when that is due.
    fileprivate func change(
        _ operation: String,
        _ path: String,
        _ body: () -> Void
    ) throws(EngineError) {
        try withState { (state) throws(EngineError) in
            try state.change(operation, path)
            body()
        }
    }
}

extension MemoryStorage.File {
    /// The file as the medium has it after power loss.
    fileprivate func surviving(_ loss: MemoryStorage.Loss, _ generator: inout SeededRandom) -> MemoryStorage.File {
        switch loss {
        case .everything: return MemoryStorage.File(durable)
        case .nothing:
            let copy = MemoryStorage.File(bytes)
            copy.durable = durable
            copy.lost = lost
            return copy
        case .torn: break
        }
        guard bytes != durable else { return MemoryStorage.File(durable) }
        let (shorter, longer) = (min(bytes.count, durable.count), max(bytes.count, durable.count))
        var result = [UInt8](repeating: 0, count: Int.random(in: shorter...longer, using: &generator))
        // Small enough that headers tear too, which no real sector does.
        let sector = [16, 64, 512, 4096].randomElement(using: &generator) ?? 512
        var start = 0
        while start < result.count {
            let source = Bool.random(using: &generator) ? bytes : durable
            for index in start..<min(start + sector, result.count) where index < source.count {
                result[index] = source[index]
            }
            start += sector
        }
        return MemoryStorage.File(result)
    }
}

extension MemoryStorage.State {
    fileprivate func file(_ path: String) throws(EngineError) -> MemoryStorage.File {
        let (directory, name) = split(path)
        guard let file = directories[directory]?.entries[name] else { throw missing("open", path) }
        return file
    }

    /// Gives a directory, with all that is in it, another name.
    fileprivate mutating func move(_ source: String, to destination: String) {
        for path in directories.keys where path == source || path.hasPrefix(source + "/") {
            directories[destination + path.dropFirst(source.count)] = directories.removeValue(forKey: path)
        }
    }

    fileprivate mutating func change(_ operation: String, _ path: String) throws(EngineError) {
        guard changesLeft > 0 else { throw .io(operation: operation, path: path, code: EIO) }
        changesLeft -= 1
        changes += 1
    }
}

private final class MemoryStorageFile: WritableFile, LosingFile {
    let path: String
    private(set) var size: UInt64 = 0
    private let file: MemoryStorage.File
    private let storage: MemoryStorage

    init(path: String, _ file: MemoryStorage.File, _ storage: MemoryStorage) {
        self.path = path
        self.file = file
        self.storage = storage
    }

    func append(_ bytes: UnsafeRawBufferPointer) throws(EngineError) {
        try storage.change("write", path) {
            file.write(bytes, at: Int(size))
        }
        size += UInt64(bytes.count)
    }
    func flush() throws(EngineError) {}
    func sync() throws(EngineError) {
        try storage.change("sync", path) { file.sync() }
    }
    func close() throws(EngineError) {}
    func loseUnsyncedWrites() { storage.touch { file.loseUnsyncedWrites() } }
}

private final class MemoryStorageView: ReadableFile {
    let path: String
    private let bytes: [UInt8]
    var size: UInt64 { UInt64(bytes.count) }

    init(path: String, bytes: [UInt8]) {
        self.path = path
        self.bytes = bytes
    }

    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(EngineError) -> Int {
        guard offset < size else { return 0 }
        let part = bytes[Int(offset)..<min(bytes.count, Int(offset) + buffer.count)]
        buffer.copyBytes(from: part)
        return part.count
    }
    func prefetch(at offset: UInt64, length: Int) {}
}

private final class MemoryStorageLock: FileLock {
    private let release: @Sendable () -> Void
    init(_ release: @escaping @Sendable () -> Void) { self.release = release }
    deinit { release() }
}

private func split(_ path: String) -> (directory: String, name: String) {
    guard let slash = path.lastIndex(of: "/") else { return (".", path) }
    return (String(path[..<slash]), String(path[path.index(after: slash)...]))
}

private func missing(_ operation: String, _ path: String) -> EngineError {
    .io(operation: operation, path: path, code: ENOENT)
}
