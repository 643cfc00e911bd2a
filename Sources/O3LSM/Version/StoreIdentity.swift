import CSystem
import Glibc

/// What makes a store itself: 16 random bytes that name it, and its DM region, for ever.
///
/// ```
/// IDENTITY  magic "O3STORE\0"  u32 format version  u32 0  store id (16 bytes)  u64 creation time (s)  u32 masked CRC32C
/// ```
struct StoreIdentity: Equatable, Sendable {
    /// 16 random bytes.
    var storeID: [UInt8]
    /// Seconds since 1970.
    var created: UInt64

    private static let magic: UInt64 = 0x0045_524f_5453_334f  // "O3STORE\0"
    static let version: UInt32 = 1
    static let bytes = 44

    /// The store's id as people see it.
    var name: String { storeID.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }

    /// Draws an id and writes the file at `path`, atomically; on storage when it returns.
    static func create(at path: String, storage: any Storage) throws(EngineError) -> StoreIdentity {
        var storeID = [UInt8](repeating: 0, count: 16)
        guard storeID.withUnsafeMutableBytes({ o3_getrandom($0.baseAddress, $0.count) }) == 16 else {
            throw .io(operation: "draw a random store id for", path: path, code: 5)
        }
        let identity = StoreIdentity(storeID: storeID, created: UInt64(time(nil)))
        let slash = path.lastIndex(of: "/")
        let directory = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        do throws(EngineError) { try storage.replace(path, in: directory, with: identity.encode()) } catch {
            // A name whose sync has failed may never get to storage: nobody is to find it and build upon it.
            try? storage.delete(path)
            throw error
        }
        return identity
    }

    /// Reads the file back.
    ///
    /// - Throws: `.corruption` for a file that is foreign, cut short or damaged, `.unsupportedFormat`, `.io`.
    static func load(from path: String, storage: any Storage) throws(EngineError) -> StoreIdentity {
        try storage.contents(of: path, limit: 4096).withEngineBytes { (found) throws(EngineError) in
            try decode(found, file: path)
        }
    }

    private static func decode(_ found: UnsafeRawBufferPointer, file: String) throws(EngineError) -> StoreIdentity {
        func corrupt(_ expected: String, _ what: String) -> EngineError {
            .corruption(file: file, offset: 0, expected: expected, found: what)
        }
        var reader = ByteReader(found)
        guard reader.read(UInt64.self) == magic else { throw corrupt("an O3FS store identity", "a foreign file") }
        guard found.count == bytes, let version = reader.read(UInt32.self), reader.read(UInt32.self) != nil,
            let storeID = reader.readBytes(16), let created = reader.read(UInt64.self),
            let checksum = reader.read(UInt32.self)
        else { throw corrupt("\(bytes) bytes", "\(found.count)") }
        let computed = CRC32C.masked(CRC32C.checksum(UnsafeRawBufferPointer(rebasing: found.dropLast(4))))
        guard checksum == computed else {
            throw corrupt("checksum \(hexadecimal(UInt64(checksum)))", hexadecimal(UInt64(computed)))
        }
        guard version == StoreIdentity.version else {
            throw .unsupportedFormat(file: file, found: version, supported: StoreIdentity.version)
        }
        return StoreIdentity(storeID: storeID, created: created)
    }

    private func encode() -> [UInt8] {
        var writer = ByteWriter(capacity: StoreIdentity.bytes)
        writer.append(StoreIdentity.magic)
        writer.append(StoreIdentity.version)
        writer.append(UInt32(0))
        writer.append(raw: storeID)
        writer.append(created)
        writer.append(writer.bytes.withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) })
        return writer.bytes
    }
}
