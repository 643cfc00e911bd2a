import Synchronization

@testable import O3LSM

/// A storage in memory that records the history of all changes made through it, so that power can be cut after
/// each of them without running the work again. Thread-safe.
///
/// Operations enter the history in the order in which they took effect. A call that threw is not in it.
final class RecordedStorage: Storage {
    /// Files are numbered in the order in which they were made: a rename keeps the number.
    typealias FileNumber = Int

    enum Operation: Sendable {
        case createDirectory(String)
        /// A new file under a name that was free.
        case create(String, FileNumber)
        case truncate(FileNumber)
        case write(FileNumber, offset: Int, [UInt8])
        case sync(FileNumber)
        /// Of a file, or of a directory with all that is in it.
        case rename(String, String)
        case exchange(String, String)
        /// Another name of a file.
        case link(FileNumber, String)
        case unlink(String)
        case removeDirectory(String)
        case syncDirectory(String)
        /// No change of storage: how far the work was, as it says itself.
        case progress(begun: Int, synced: Int)
        case mark(String)
    }

    private struct State {
        var operations: [Operation] = []
        var names: [String: FileNumber] = [:]
        var files = 0

        /// The names of a file, or of all files in a directory, become others.
        mutating func move(_ source: String, to destination: String) {
            for path in names.keys where path == source || path.hasPrefix(source + "/") {
                names[destination + path.dropFirst(source.count)] = names.removeValue(forKey: path)
            }
        }
    }

    /// What was there before the history, all of it synced: the files by number, and their paths.
    struct Start: Sendable {
        var directories: [String] = []
        var names: [String: FileNumber] = [:]
        var contents: [FileNumber: [UInt8]] = [:]
    }

    let start: Start
    private let base: MemoryStorage
    private let state: Mutex<State>

    /// Goes on with `base`, all of whose bytes and names are taken for synced.
    init(_ base: MemoryStorage = MemoryStorage()) {
        self.base = base
        var start = Start()
        for (path, bytes) in base.tree.sorted(by: { $0.key < $1.key }) {
            guard let bytes else {
                start.directories.append(path)
                continue
            }
            start.names[path] = start.names.count
            start.contents[start.names.count - 1] = bytes
        }
        self.start = start
        state = Mutex(State(names: start.names, files: start.names.count))
    }

    /// All operations so far.
    var history: [Operation] { state.withLock { $0.operations } }

    /// Notes in the history that the work has come so far.
    func note(begun: Int, synced: Int) { record { $0.operations.append(.progress(begun: begun, synced: synced)) } }

    /// Notes a moment of the work.
    func mark(_ name: String) { record { $0.operations.append(.mark(name)) } }

    private func record(_ body: (inout State) -> Void) { state.withLock { body(&$0) } }

    /// Calls the base and records while nobody else does.
    private func change<Value>(
        _ call: () throws(EngineError) -> Value, _ body: (inout State) -> Void
    ) throws(EngineError) -> Value {
        // The value does not leave the calling thread.
        nonisolated(unsafe) var result: Result<Value, EngineError>?
        state.withLock { state in
            do throws(EngineError) {
                result = .success(try call())
                body(&state)
            } catch { result = .failure(error) }
        }
        guard let result else { throw .io(operation: "record", path: "", code: 5) }
        return try result.get()
    }

    func create(_ path: String) throws(EngineError) -> any WritableFile {
        var number = 0
        let file = try change({ () throws(EngineError) in try base.create(path) }) { state in
            if let known = state.names[path] {
                number = known
                state.operations.append(.truncate(known))
            } else {
                number = state.files
                state.files += 1
                state.names[path] = number
                state.operations.append(.create(path, number))
            }
        }
        return RecordedFile(file, number, self)
    }

    func reuse(_ path: String) throws(EngineError) -> any WritableFile {
        var number = 0
        let file = try change({ () throws(EngineError) in try base.reuse(path) }) { number = $0.names[path] ?? 0 }
        return RecordedFile(file, number, self)
    }

    func openForReading(_ path: String) throws(EngineError) -> any ReadableFile { try base.openForReading(path) }

    func rename(_ source: String, to destination: String) throws(EngineError) {
        try change({ () throws(EngineError) in try base.rename(source, to: destination) }) { state in
            state.move(source, to: destination)
            state.operations.append(.rename(source, destination))
        }
    }

    func exchange(_ path: String, with other: String) throws(EngineError) {
        try change({ () throws(EngineError) in try base.exchange(path, with: other) }) { state in
            let aside = path + ".exchanged"
            state.move(path, to: aside)
            state.move(other, to: path)
            state.move(aside, to: other)
            state.operations.append(.exchange(path, other))
        }
    }

    func link(_ path: String, to second: String) throws(EngineError) {
        try change({ () throws(EngineError) in try base.link(path, to: second) }) { state in
            guard let number = state.names[path] else { return }
            state.names[second] = number
            state.operations.append(.link(number, second))
        }
    }

    func removeDirectory(_ path: String) throws(EngineError) {
        try change({ () throws(EngineError) in try base.removeDirectory(path) }) {
            $0.operations.append(.removeDirectory(path))
        }
    }

    func fileIdentity(_ path: String) throws(EngineError) -> FileIdentity { try base.fileIdentity(path) }

    func delete(_ path: String) throws(EngineError) {
        try change({ () throws(EngineError) in try base.delete(path) }) { state in
            state.names[path] = nil
            state.operations.append(.unlink(path))
        }
    }

    func list(_ directory: String) throws(EngineError) -> [String] { try base.list(directory) }

    func createDirectory(_ path: String) throws(EngineError) {
        try change({ () throws(EngineError) in try base.createDirectory(path) }) {
            $0.operations.append(.createDirectory(path))
        }
    }

    func syncDirectory(_ path: String) throws(EngineError) {
        try change({ () throws(EngineError) in try base.syncDirectory(path) }) {
            $0.operations.append(.syncDirectory(path))
        }
    }

    func exists(_ path: String) -> Bool { base.exists(path) }
    func fileSize(_ path: String) throws(EngineError) -> UInt64 { try base.fileSize(path) }
    func lock(_ path: String) throws(EngineError) -> any FileLock { try base.lock(path) }
    func space(_ path: String) throws(EngineError) -> (free: UInt64, total: UInt64) { try base.space(path) }

    fileprivate func append(_ file: any WritableFile, _ number: FileNumber, _ bytes: UnsafeRawBufferPointer)
        throws(EngineError)
    {
        let offset = Int(file.size)
        try change({ () throws(EngineError) in try file.append(bytes) }) {
            $0.operations.append(.write(number, offset: offset, Array(bytes)))
        }
    }

    fileprivate func sync(_ file: any WritableFile, _ number: FileNumber) throws(EngineError) {
        try change({ () throws(EngineError) in try file.sync() }) { $0.operations.append(.sync(number)) }
    }
}

private final class RecordedFile: WritableFile {
    private let base: any WritableFile
    private let number: RecordedStorage.FileNumber
    private let storage: RecordedStorage

    init(_ base: any WritableFile, _ number: RecordedStorage.FileNumber, _ storage: RecordedStorage) {
        self.base = base
        self.number = number
        self.storage = storage
    }

    var path: String { base.path }
    var size: UInt64 { base.size }
    func append(_ bytes: UnsafeRawBufferPointer) throws(EngineError) { try storage.append(base, number, bytes) }
    func flush() throws(EngineError) { try base.flush() }
    func sync() throws(EngineError) { try storage.sync(base, number) }
    func close() throws(EngineError) { try base.close() }
}
