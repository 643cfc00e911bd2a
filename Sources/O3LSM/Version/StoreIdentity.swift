import CSystem

/// What makes a store itself: 16 random bytes that name it, and its DM region, for ever.
///
/// ```
/// IDENTITY  magic "O3STORE\0"  u32 format version  u32 0  store id (16 bytes)  u64 creation time (s)  u32 masked CRC32C
/// ```
struct StoreIdentity: Equatable, Sendable {
    var storeID: [UInt8]
    /// Seconds since 1970.
    var created: UInt64

    private static let magic: UInt64 = 0x0045_524f_5453_334f  // "O3STORE\0"
    static let version: UInt32 = 1
    static let bytes = 44

    /// The store's id as people see it.
    var name: String { storeID.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }

    static func create(at path: String, storage: any Storage) throws(EngineError) -> StoreIdentity {
        var storeID = [UInt8](repeating: 0, count: 16)
        guard storeID.withUnsafeMutableBytes({ o3_getrandom($0.baseAddress, $0.count) }) == 16 else {
            throw .io(operation: "draw a random store id for", path: path, code: 5)
        }
        let identity = StoreIdentity(storeID: storeID, created: UInt64(time(nil)))
        let temporary = path + ".tmp"
        let file = try storage.create(temporary)
        try identity.encode().withEngineBytes { bytes throws(EngineError) in try file.append(bytes) }
        try file.sync()
        try file.close()
        try storage.rename(temporary, to: path)
        let directory = path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        try storage.syncDirectory(directory.isEmpty ? "." : directory)
        return identity
    }

    static func load(from path: String, storage: any Storage) throws(EngineError) -> StoreIdentity {
        let found = try storage.contents(of: path, limit: 4096)
        func corrupt(_ expected: String, _ what: String) -> EngineError {
            .corruption(file: path, offset: 0, expected: expected, found: what)
        }
        guard found.count == bytes else { throw corrupt("\(bytes) bytes", "\(found.count)") }
        let outcome = found.withUnsafeBytes { buffer -> Result<StoreIdentity, EngineError> in
            var reader = ByteReader(buffer)
            guard reader.read(UInt64.self) == magic else { return .failure(corrupt("an O3FS store identity", "a foreign file")) }
            let checksum = CRC32C.masked(CRC32C.checksum(UnsafeRawBufferPointer(rebasing: buffer[0..<40])))
            guard UInt32(littleEndian: buffer.loadUnaligned(fromByteOffset: 40, as: UInt32.self)) == checksum else {
                return .failure(corrupt("an intact checksum", "another one"))
            }
            guard let version = reader.read(UInt32.self), version == StoreIdentity.version else {
                return .failure(
                    .unsupportedFormat(
                        file: path, found: buffer.loadUnaligned(fromByteOffset: 8, as: UInt32.self),
                        supported: StoreIdentity.version))
            }
            _ = reader.read(UInt32.self)
            guard let storeID = reader.readBytes(16), let created = reader.read(UInt64.self) else {
                return .failure(corrupt("a store id", "too few bytes"))
            }
            return .success(StoreIdentity(storeID: storeID, created: created))
        }
        return try outcome.get()
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
