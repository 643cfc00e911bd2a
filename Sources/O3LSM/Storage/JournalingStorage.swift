#if DEBUG || FAULT_POINTS
    import Glibc
    import Synchronization

    /// A storage that writes a journal of every change that another one makes, so that the store can be made again as
    /// a cut of power would leave it after any of them, under programs that nobody wrote for it (`tools/soak/power.py`).
    /// Thread-safe. Not in release builds.
    ///
    /// The journal is a sequence of records: a kind (1 byte), the number of a file (8), an offset (8), the lengths of
    /// two byte strings (4 each), little-endian, and these. Changes are in the order in which they took effect: each is
    /// made and noted while no other is. A sync is in the journal before the call returns that asked for it, so
    /// whoever has seen something acknowledged finds it covered by the journal's length at that time.
    public final class JournalingStorage: Storage {
        fileprivate enum Kind: UInt8 {
            case createDirectory = 1
            case create, reuse, write, sync, rename, unlink, link, removeDirectory, syncDirectory
        }

        private let base: any Storage
        private let journal: String
        private let state: Mutex<State>

        private struct State: ~Copyable {
            let descriptor: DescriptorHandle
            var files: UInt64 = 0
        }

        /// Appends to the file `journal`, which must not be in the store. Throws `.io`.
        public init(_ base: any Storage, journal: String) throws(EngineError) {
            self.base = base
            self.journal = journal
            state = Mutex(State(descriptor: try DescriptorHandle(path: journal, flags: O_WRONLY | O_CREAT | O_APPEND)))
        }

        /// Makes a change and notes it; `number` 0 asks for a new file's.
        @discardableResult
        fileprivate func change<Value>(
            _ kind: Kind, number: UInt64? = nil, offset: UInt64 = 0, _ first: [UInt8] = [], _ second: [UInt8] = [],
            _ call: () throws(EngineError) -> Value
        ) throws(EngineError) -> (Value, number: UInt64) {
            // The value does not leave the calling thread.
            nonisolated(unsafe) var result: Result<(Value, number: UInt64), EngineError>?
            state.withLock { state in
                do throws(EngineError) {
                    let value = try call()
                    if number == 0 { state.files += 1 }
                    let file = number == 0 ? state.files : number ?? 0
                    try write(record(kind, file, offset, first, second), to: state.descriptor)
                    result = .success((value, file))
                } catch { result = .failure(error) }
            }
            guard let result else { throw .io(operation: "note", path: journal, code: EINVAL) }
            return try result.get()
        }

        private func record(_ kind: Kind, _ file: UInt64, _ offset: UInt64, _ first: [UInt8], _ second: [UInt8]) -> [UInt8] {
            var bytes = [kind.rawValue]
            bytes.reserveCapacity(25 + first.count + second.count)
            withUnsafeBytes(of: file.littleEndian) { bytes += $0 }
            withUnsafeBytes(of: offset.littleEndian) { bytes += $0 }
            withUnsafeBytes(of: UInt32(first.count).littleEndian) { bytes += $0 }
            withUnsafeBytes(of: UInt32(second.count).littleEndian) { bytes += $0 }
            return bytes + first + second
        }

        private func write(_ bytes: [UInt8], to descriptor: borrowing DescriptorHandle) throws(EngineError) {
            let file = descriptor.number
            var done = 0
            while done < bytes.count {
                let count = bytes.withUnsafeBytes { buffer in
                    retryingInterrupts { Glibc.write(file, buffer.baseAddress.map { $0 + done }, buffer.count - done) }
                }
                guard count > 0 else { throw .io(operation: "note", path: journal, code: errno) }
                done += count
            }
        }

        public func create(_ path: String) throws(EngineError) -> any WritableFile {
            let (file, number) = try change(.create, number: 0, Array(path.utf8)) { () throws(EngineError) in
                try base.create(path)
            }
            return JournalingFile(file, number, self)
        }
        public func reuse(_ path: String) throws(EngineError) -> any WritableFile {
            let (file, number) = try change(.reuse, number: 0, Array(path.utf8)) { () throws(EngineError) in
                try base.reuse(path)
            }
            return JournalingFile(file, number, self)
        }
        public func openForReading(_ path: String) throws(EngineError) -> any ReadableFile { try base.openForReading(path) }
        public func rename(_ source: String, to destination: String) throws(EngineError) {
            try change(.rename, Array(source.utf8), Array(destination.utf8)) { () throws(EngineError) in
                try base.rename(source, to: destination)
            }
        }
        public func delete(_ path: String) throws(EngineError) {
            try change(.unlink, Array(path.utf8)) { () throws(EngineError) in try base.delete(path) }
        }
        public func link(_ path: String, to second: String) throws(EngineError) {
            try change(.link, Array(path.utf8), Array(second.utf8)) { () throws(EngineError) in
                try base.link(path, to: second)
            }
        }
        public func removeDirectory(_ path: String) throws(EngineError) {
            try change(.removeDirectory, Array(path.utf8)) { () throws(EngineError) in try base.removeDirectory(path) }
        }
        public func list(_ directory: String) throws(EngineError) -> [String] { try base.list(directory) }
        public func createDirectory(_ path: String) throws(EngineError) {
            try change(.createDirectory, Array(path.utf8)) { () throws(EngineError) in try base.createDirectory(path) }
        }
        public func createNewDirectory(_ path: String) throws(EngineError) {
            try change(.createDirectory, Array(path.utf8)) { () throws(EngineError) in try base.createNewDirectory(path) }
        }
        public func checkOwn(_ directory: String) throws(EngineError) { try base.checkOwn(directory) }
        public func syncDirectory(_ path: String) throws(EngineError) {
            try change(.syncDirectory, Array(path.utf8)) { () throws(EngineError) in try base.syncDirectory(path) }
        }
        public func exists(_ path: String) -> Bool { base.exists(path) }
        public func fileIdentity(_ path: String) throws(EngineError) -> FileIdentity { try base.fileIdentity(path) }
        public func fileSize(_ path: String) throws(EngineError) -> UInt64 { try base.fileSize(path) }
        public func lock(_ path: String) throws(EngineError) -> any FileLock { try base.lock(path) }
        public func space(_ path: String) throws(EngineError) -> (free: UInt64, total: UInt64) { try base.space(path) }
    }

    private final class JournalingFile: WritableFile {
        private let base: any WritableFile
        private let number: UInt64
        private let storage: JournalingStorage

        init(_ base: any WritableFile, _ number: UInt64, _ storage: JournalingStorage) {
            self.base = base
            self.number = number
            self.storage = storage
        }

        var path: String { base.path }
        var size: UInt64 { base.size }
        func append(_ bytes: UnsafeRawBufferPointer) throws(EngineError) {
            try storage.change(.write, number: number, offset: base.size, Array(bytes)) { () throws(EngineError) in
                try base.append(bytes)
            }
        }
        func flush() throws(EngineError) { try base.flush() }
        func sync() throws(EngineError) {
            try storage.change(.sync, number: number) { () throws(EngineError) in try base.sync() }
        }
        func close() throws(EngineError) { try base.close() }
    }
#endif
