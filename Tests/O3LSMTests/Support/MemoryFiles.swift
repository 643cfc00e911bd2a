import Glibc

@testable import O3LSM

/// A writable file that only fills an array.
final class MemoryWritableFile: WritableFile {
    let path = "memory"
    private(set) var bytes: [UInt8] = []
    var size: UInt64 { UInt64(bytes.count) }

    func append(_ bytes: UnsafeRawBufferPointer) throws(EngineError) { self.bytes.append(contentsOf: bytes) }
    func flush() throws(EngineError) {}
    func sync() throws(EngineError) {}
    func close() throws(EngineError) {}
}

/// A readable file over an array.
final class MemoryReadableFile: ReadableFile {
    let path = "memory"
    let bytes: [UInt8]
    var size: UInt64 { UInt64(bytes.count) }

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(EngineError) -> Int {
        guard offset < size else { return 0 }
        let count = min(buffer.count, bytes.count - Int(offset))
        bytes.withUnsafeBytes {
            buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[Int(offset)..<Int(offset) + count]))
        }
        return count
    }
    func prefetch(at offset: UInt64, length: Int) {}
}

/// An empty directory that is removed with the object.
final class TemporaryDirectory {
    let path: String

    init() throws {
        var template = Array("/tmp/o3lsm-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw EngineError.io(operation: "mkdtemp", path: "/tmp", code: errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { Self.remove(path) }

    private static func remove(_ path: String) {
        let storage = POSIXStorage()
        for name in (try? storage.list(path)) ?? [] { remove(path + "/" + name) }
        if unlink(path) != 0 { rmdir(path) }
    }
}
