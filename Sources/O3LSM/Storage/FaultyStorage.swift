#if DEBUG || FAULT_POINTS
    import Glibc
    import Synchronization

    /// A storage that does as another one does until a planned fault comes due. Thread-safe.
    ///
    /// A sync that fails loses what it should have made durable, where the other storage can (`LosingFile`,
    /// `LosingStorage`): later syncs do not bring it back.
    ///
    ///     let storage = FaultyStorage(POSIXStorage())
    ///     storage.fail(.append, at: 3, code: ENOSPC)            // the third append fails, once
    ///     storage.fail(.sync, path: ".log", times: .max)        // every sync of a log fails with EIO
    ///     storage.cutShort(.read, at: 1)                        // the first read returns half
    ///
    /// A daemon of such a build takes its faults from a file (`init(_:script:)`).
    package final class FaultyStorage: Storage {
        package enum Operation: String, Hashable, CaseIterable, Sendable {
            case create, reuse, open, rename, link, delete, list, createDirectory, syncDirectory, fileSize, lock, space
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
            var script: FileStamp?
            /// What `space` says is free; nil: what the other storage says.
            var freeBytes: UInt64?
        }

        /// What changes when a file is replaced.
        private struct FileStamp: Equatable {
            var inode: ino_t
            var seconds: Int
            var nanoseconds: Int
        }

        private let base: any Storage
        private let script: String?
        private let state = Mutex(State())

        /// - Parameter script: a file that whoever tests a running daemon replaces (rename(2)) to let calls fail from then on.
        ///   A line is an operation, what happens to it (a number of errno, `half` or the milliseconds of a delay with `ms`),
        ///   and perhaps a part of the paths that it happens to: `sync 5 .log`, `append half`, `read 20ms`. An empty or missing
        ///   file lets all work; lines that say something else are ignored.
        package init(_ base: any Storage = POSIXStorage(), script: String? = nil) {
            self.base = base
            self.script = script
        }

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

        /// From now on only so much room is left, for those who ask; appends are not refused.
        func leave(freeBytes: UInt64) { state.withLock { $0.freeBytes = freeBytes } }

        /// From now on everything works again.
        func heal() {
            state.withLock {
                $0.faults.removeAll()
                $0.freeBytes = nil
            }
        }

        /// Calls of the operation so far, failed ones included.
        func calls(_ operation: Operation) -> Int { state.withLock { $0.calls[operation] ?? 0 } }

        /// Takes the faults from the script, if it is another one than at the last call.
        private func readScript() {
            guard let script else { return }
            var info = Glibc.stat()
            let isThere = stat(script, &info) == 0
            let stamp = isThere
                ? FileStamp(inode: info.st_ino, seconds: info.st_mtim.tv_sec, nanoseconds: info.st_mtim.tv_nsec) : nil
            state.withLock { state in
                guard stamp != state.script else { return }
                state.script = stamp
                state.faults = ((try? POSIXStorage().contents(of: script, limit: 4096)) ?? [])
                    .split(separator: UInt8(ascii: "\n")).compactMap { Self.fault(String(decoding: $0, as: UTF8.self)) }
            }
        }

        private static func fault(_ line: String) -> Fault? {
            let words = line.split(separator: " ").map(String.init)
            guard words.count >= 2, let operation = Operation(rawValue: words[0]) else { return nil }
            let effect: Effect
            if words[1] == "half" {
                effect = .cutShort
            } else if let code = Int32(words[1]) {
                effect = .fail(code)
            } else if words[1].hasSuffix("ms"), let milliseconds = UInt32(words[1].dropLast(2)) {
                effect = .delay(milliseconds)
            } else {
                return nil
            }
            return Fault(
                operation: operation, path: words.count > 2 ? words[2] : nil, remaining: 0, times: .max, effect: effect)
        }

        private func plan(_ fault: Fault) { state.withLock { $0.faults.append(fault) } }

        /// Counts the call; throws when a fault is due; true when the call is to be cut short.
        @discardableResult
        fileprivate func enter(_ operation: Operation, _ path: String) throws(EngineError) -> Bool {
            readScript()
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

        package func create(_ path: String) throws(EngineError) -> any WritableFile {
            try enter(.create, path)
            return FaultyWritableFile(try base.create(path), self)
        }
        package func reuse(_ path: String) throws(EngineError) -> any WritableFile {
            try enter(.reuse, path)
            return FaultyWritableFile(try base.reuse(path), self)
        }
        package func openForReading(_ path: String) throws(EngineError) -> any ReadableFile {
            try enter(.open, path)
            return FaultyReadableFile(try base.openForReading(path), self)
        }
        package func rename(_ source: String, to destination: String) throws(EngineError) {
            try enter(.rename, destination)
            try base.rename(source, to: destination)
        }
        package func delete(_ path: String) throws(EngineError) {
            try enter(.delete, path)
            try base.delete(path)
        }
        package func list(_ directory: String) throws(EngineError) -> [String] {
            try enter(.list, directory)
            return try base.list(directory)
        }
        package func exchange(_ path: String, with other: String) throws(EngineError) {
            try enter(.rename, other)
            try base.exchange(path, with: other)
        }
        package func link(_ path: String, to second: String) throws(EngineError) {
            try enter(.link, second)
            try base.link(path, to: second)
        }
        package func removeDirectory(_ path: String) throws(EngineError) {
            try enter(.delete, path)
            try base.removeDirectory(path)
        }
        package func createNewDirectory(_ path: String) throws(EngineError) {
            try enter(.createDirectory, path)
            try base.createNewDirectory(path)
        }
        package func checkOwn(_ directory: String) throws(EngineError) { try base.checkOwn(directory) }
        package func fileIdentity(_ path: String) throws(EngineError) -> FileIdentity { try base.fileIdentity(path) }
        package func createDirectory(_ path: String) throws(EngineError) {
            try enter(.createDirectory, path)
            try base.createDirectory(path)
        }
        package func syncDirectory(_ path: String) throws(EngineError) {
            do throws(EngineError) { try enter(.syncDirectory, path) } catch {
                (base as? any LosingStorage)?.loseUnsyncedNames(in: path)
                throw error
            }
            try base.syncDirectory(path)
        }
        package func exists(_ path: String) -> Bool { base.exists(path) }
        package func fileSize(_ path: String) throws(EngineError) -> UInt64 {
            try enter(.fileSize, path)
            return try base.fileSize(path)
        }
        package func lock(_ path: String) throws(EngineError) -> any FileLock {
            try enter(.lock, path)
            return try base.lock(path)
        }
        package func space(_ path: String) throws(EngineError) -> (free: UInt64, total: UInt64) {
            try enter(.space, path)
            let space = try base.space(path)
            return (state.withLock { $0.freeBytes } ?? space.free, space.total)
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
        func forgetCached() { base.forgetCached() }
    }

    /// A file that can forget what was written to it since its last sync.
    protocol LosingFile: WritableFile {
        /// As after a failed fsync on Linux: readers still see what was written, the medium never will, until it is
        /// written again.
        func loseUnsyncedWrites()
    }

    /// A storage whose directories can forget what was done in them since their last sync.
    protocol LosingStorage: Storage {
        /// As after a failed fsync: others still see creations, renames and deletions, the medium never will. What is made
        /// under another name later is not among them.
        func loseUnsyncedNames(in directory: String)
    }
#endif
