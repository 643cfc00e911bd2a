/// The stream that `export` writes and `import` reads: what a snapshot holds, or what has changed since an
/// earlier one. Little-endian:
///
/// ```
/// header  u64 magic "O3BACKUP"  u32 format version  u32 0
///         16 bytes store id, 16 snapshot id, 16 base snapshot id (zeros: the stream is whole)
///         u64 sequence  u64 creation time of the snapshot (s)  u32 masked CRC32C of what precedes it
/// frame   u8 kind, 3 zeros, u32 bytes of contents, u32 bytes stored, u32 masked CRC32C of u64 frame index,
///         the 12 bytes before it, the stored bytes
///         stored bytes: LZ4 if they are fewer than the contents
/// ```
/// A frame of kind 1 holds entries in ascending order of keys, through all frames: `u8 1, varint, key, varint, value`
/// for a key and its value, `u8 0, varint, key` for one that is gone. The last frame has kind 2: u64 values, u64 keys
/// gone.
enum BackupFormat {
    static let magic: UInt64 = 0x5055_4b43_4142_334f  // "O3BACKUP"
    static let version: UInt32 = 1
    static let headerBytes = 84
    static let frameHeaderBytes = 16
    /// A frame is closed once it has this many bytes.
    static let frameBytes = 256 << 10
    /// More no frame can have: one entry may follow the last byte that fits.
    static let maximumFrameBytes = 2 << 20

    enum FrameKind: UInt8 {
        case entries = 1
        case end = 2
    }

    /// - Parameter prefix: the first 12 bytes of the frame.
    static func checksum(index: UInt64, prefix: UnsafeRawBufferPointer, stored: UnsafeRawBufferPointer) -> UInt32 {
        let seed = withUnsafeBytes(of: index.littleEndian) { CRC32C.checksum($0) }
        return CRC32C.masked(CRC32C.checksum(stored, seed: CRC32C.checksum(prefix, seed: seed)))
    }
}

/// What a stream says of itself first.
public struct BackupHeader: Equatable, Sendable {
    /// Ids are 32 hexadecimal digits: of the store, of its snapshot that the stream holds, and of the one that it
    /// builds upon; nil for a stream that is whole.
    public var store: String
    public var snapshot: String
    public var base: String?
    public var sequence: UInt64
    /// Seconds since 1970.
    public var created: UInt64

    private static let noID = String(repeating: "0", count: 32)

    var encoded: [UInt8] {
        var writer = ByteWriter(capacity: BackupFormat.headerBytes)
        writer.append(BackupFormat.magic)
        writer.append(BackupFormat.version)
        writer.append(UInt32(0))
        for id in [store, snapshot, base ?? Self.noID] { writer.append(raw: Self.bytes(of: id)) }
        writer.append(sequence)
        writer.append(created)
        writer.append(writer.bytes.withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) })
        return writer.bytes
    }

    /// From bytes that are not trusted.
    ///
    /// - Throws: `.corruption`, `.unsupportedFormat`.
    init(_ bytes: UnsafeRawBufferPointer, file: String) throws(EngineError) {
        var reader = ByteReader(bytes)
        guard reader.read(UInt64.self) == BackupFormat.magic else {
            throw .corruption(file: file, offset: 0, expected: "the beginning of an export", found: "other bytes")
        }
        guard bytes.count == BackupFormat.headerBytes, let version = reader.read(UInt32.self),
            reader.read(UInt32.self) != nil, let store = reader.readBytes(16), let snapshot = reader.readBytes(16),
            let base = reader.readBytes(16), let sequence = reader.read(UInt64.self),
            let created = reader.read(UInt64.self), let checksum = reader.read(UInt32.self)
        else {
            throw .corruption(
                file: file, offset: 0, expected: "\(BackupFormat.headerBytes) bytes", found: "\(bytes.count)")
        }
        guard version == BackupFormat.version else {
            throw .unsupportedFormat(file: file, found: version, supported: BackupFormat.version)
        }
        let computed = CRC32C.masked(CRC32C.checksum(UnsafeRawBufferPointer(rebasing: bytes.dropLast(4))))
        guard checksum == computed, sequence <= maximumSequenceNumber else {
            throw .corruption(
                file: file, offset: 0, expected: "checksum \(hexadecimal(UInt64(checksum)))",
                found: hexadecimal(UInt64(computed)))
        }
        self.store = StoreIdentity(storeID: store, created: 0).name
        self.snapshot = StoreIdentity(storeID: snapshot, created: 0).name
        let baseName = StoreIdentity(storeID: base, created: 0).name
        self.base = baseName == Self.noID ? nil : baseName
        self.sequence = sequence
        self.created = created
    }

    init(_ snapshot: StoreSnapshot, base: StoreSnapshot?) {
        store = snapshot.source
        self.snapshot = snapshot.id
        self.base = base?.id
        sequence = snapshot.sequence
        created = snapshot.created
    }

    /// Of hexadecimal digits; what is none counts as 0, which the reader of the id will not find.
    private static func bytes(of id: String) -> [UInt8] {
        let digits = id.utf8.prefix(32).map { UInt8(Character(UnicodeScalar($0)).hexDigitValue ?? 0) }
        let padded = digits + [UInt8](repeating: 0, count: 32 - digits.count)
        return stride(from: 0, to: 32, by: 2).map { padded[$0] << 4 | padded[$0 + 1] }
    }
}

/// How much has passed through a stream.
public struct BackupCounts: Equatable, Sendable {
    /// Keys with a value, and keys that are gone.
    public var values: UInt64 = 0
    public var removals: UInt64 = 0
    /// Of keys and values, before compression.
    public var bytes: UInt64 = 0
    /// Of the stream.
    public var streamBytes: UInt64 = 0

    public init() {}
}
