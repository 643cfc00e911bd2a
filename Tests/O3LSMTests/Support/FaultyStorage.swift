import Glibc
import Synchronization

@testable import O3LSM

/// A storage that does as another one does until a planned fault comes due. Thread-safe.
///
/// A sync that fails loses what it should have made durable, where the other storage can (`LosingFile`,
/// `LosingStorage`): later syncs do not bring it back.
///
///     let storage = FaultyStorage(POSIXStorage())
///     storage.fail(.append, at: 3, code: ENOSPC)            // the third append fails, once
///     storage.fail(.sync, path: ".log", times: .max)        // every sync of a log fails with EIO
///     storage.cutShort(.read, at: 1)                        // the first read returns half
final class FaultyStorage: Storage {
    enum Operation: Hashable, CaseIterable {
        case create, reuse, open, rename, delete, list, createDirectory, syncDirectory, fileSize, lock, space
        case append, flush, sync, close, read
    }

    private enum Effect {
        case fail(Int32)
        case cutShort
        case delay(UInt32)
    }

    private struct Fault {
        var operation: Operation
        var path: String?
        /// Matching calls to let pass before the first one that is hit.
        var remaining: Int
        var times: Int
        var effect: Effect
    }

    private struct State {
        var faults: [Fault] = []
        var calls: [Operation: Int] = [:]
    }

    private let base: any Storage
    private let state = Mutex(State())

    init(_ base: any Storage = POSIXStorage()) { self.base = base }

    /// The `at`-th matching call from now (1: the next) and the `times - 1` after it throw `.io(code)`.
    func fail(_ operation: Operation, path: String? = nil, at: Int = 1, times: Int = 1, code: Int32 = EIO) {
        plan(Fault(operation: operation, path: path, remaining: at - 1, times: times, effect: .fail(code)))
    }

    /// Such a read returns half of its bytes; such an append stores half of them and throws ENOSPC.
    func cutShort(_ operation: Operation, path: String? = nil, at: Int = 1, times: Int = 1) {
        plan(Fault(operation: operation, path: path, remaining: at - 1, times: times, effect: .cutShort))
    }

    /// Every such call takes longer.
    func delay(_ operation: Operation, path: String? = nil, milliseconds: UInt32) {
        plan(Fault(operation: operation, path: path, remaining: 0, times: .max, effect: .delay(milliseconds)))
    }

    /// One call takes longer.
    func delay(_ operation: Operation, at: Int, milliseconds: UInt32) {
        plan(Fault(operation: operation, path: nil, remaining: at - 1, times: 1, effect: .delay(milliseconds)))
    }

    /// From now on everything works again.
    func heal() { state.withLock { $0.faults.removeAll() } }

    /// Calls of the operation so far, failed ones included.
    func calls(_ operation: Operation) -> Int { state.withLock { $0.calls[operation] ?? 0 } }

    private func plan(_ fault: Fault) { state.withLock { $0.faults.append(fault) } }

    /// Counts the call; throws when a fault is due; true when the call is to be cut short.
    @discardableResult
    fileprivate func enter(_ operation: Operation, _ path: String) throws(EngineError) -> Bool {
        let effect = state.withLock { state -> Effect? in
            state.calls[operation, default: 0] += 1
            var due: Effect?
            for index in state.faults.indices {
                let fault = state.faults[index]
                guard fault.operation == operation, fault.path.map({ path.contains($0) }) ?? true else { continue }
                if fault.remaining > 0 {
                    state.faults[index].remaining -= 1
                } else if fault.times > 0, due == nil {
                    if fault.times != .max { state.faults[index].times -= 1 }
                    due = fault.effect
                }
            }
            return due
        }
        switch effect {
        case .fail(let code): throw .io(operation: "\(operation)", path: path, code: code)
        case .cutShort: return true
        case .delay(let milliseconds):
            usleep(milliseconds * 1000)
            return false
        case nil: return false
        }
    }

    func create(_ path: String) throws(EngineError) -> any WritableFile {
        try enter(.create, path)
        return FaultyWritableFile(try base.create(path), self)
    }
    func reuse(_ path: String) throws(EngineError) -> any WritableFile {
        try enter(.reuse, path)
        return FaultyWritableFile(try base.reuse(path), self)
    }
    func openForReading(_ path: String) throws(EngineError) -> any ReadableFile {
        try enter(.open, path)
        return FaultyReadableFile(try base.openForReading(path), self)
    }
    func rename(_ source: String, to destination: String) throws(EngineError) {
        try enter(.rename, destination)
        try base.rename(source, to: destination)
    }
    func delete(_ path: String) throws(EngineError) {
        try enter(.delete, path)
        try base.delete(path)
    }
    func list(_ directory: String) throws(EngineError) -> [String] {
        try enter(.list, directory)
        return try base.list(directory)
    }
    func createDirectory(_ path: String) throws(EngineError) {
        try enter(.createDirectory, path)
        try base.createDirectory(path)
    }
    func syncDirectory(_ path: String) throws(EngineError) {
        do throws(EngineError) { try enter(.syncDirectory, path) } catch {
            (base as? any LosingStorage)?.loseUnsyncedNames(in: path)
            throw error
        }
        try base.syncDirectory(path)
    }
    func exists(_ path: String) -> Bool { base.exists(path) }
    func fileSize(_ path: String) throws(EngineError) -> UInt64 {
        try enter(.fileSize, path)
        return try base.fileSize(path)
    }
    func lock(_ path: String) throws(EngineError) -> any FileLock {
        try enter(.lock, path)
        return try base.lock(path)
    }
    func space(_ path: String) throws(EngineError) -> (free: UInt64, total: UInt64) {
        try enter(.space, path)
        return try base.space(path)
    }
}

private final class FaultyWritableFile: WritableFile {
    private let base: any WritableFile
    private let storage: FaultyStorage
    var path: String { base.path }
    var size: UInt64 { base.size }

    init(_ base: any WritableFile, _ storage: FaultyStorage) {
        self.base = base
        self.storage = storage
    }

    func append(_ bytes: UnsafeRawBufferPointer) throws(EngineError) {
        if try storage.enter(.append, path) {
            try base.append(UnsafeRawBufferPointer(rebasing: bytes.prefix(bytes.count / 2)))
            try base.flush()
            throw .io(operation: "append", path: path, code: ENOSPC)
        }
        try base.append(bytes)
    }
    func flush() throws(EngineError) {
        try storage.enter(.flush, path)
        try base.flush()
    }
    func sync() throws(EngineError) {
        do throws(EngineError) { try storage.enter(.sync, path) } catch {
            (base as? any LosingFile)?.loseUnsyncedWrites()
            throw error
        }
        try base.sync()
    }
    func close() throws(EngineError) {
        try storage.enter(.close, path)
        try base.close()
    }
}

private final class FaultyReadableFile: ReadableFile {
    private let base: any ReadableFile
    private let storage: FaultyStorage
    var path: String { base.path }
    var size: UInt64 { base.size }

    init(_ base: any ReadableFile, _ storage: FaultyStorage) {
        self.base = base
        self.storage = storage
    }

    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(EngineError) -> Int {
        guard try storage.enter(.read, path) else { return try base.read(at: offset, into: buffer) }
        return try base.read(at: offset, into: UnsafeMutableRawBufferPointer(rebasing: buffer.prefix(buffer.count / 2)))
    }
    func prefetch(at offset: UInt64, length: Int) { base.prefetch(at: offset, length: length) }
}
