import O3LSM

/// The one row about the file system as a whole. Little-endian (docs/formats.md, "File-system rows"):
///
///     0 magic "O3FS"   4 format version (4)   8 block size (4)   12 zero (4)
///    16 next inode (8)   24 name-hash key (2 × 8)   40 birth: seconds (8)   48 nanoseconds (4)
///    52 end, or, for a file system with limits: bytes (8)   60 inodes (8), 0 for none   68 end
struct Superblock: Equatable, Sendable {
    static let encodedLength = 52
    static let encodedLengthWithLimits = 68
    static let formatVersion: UInt32 = 1
    static let blockSizes = 4096...262_144
    private static let magic: UInt32 = 0x5346_334f  // "O3FS"

    var blockSize: Int
    /// No inode number from here on has been given out; at most `inodeNumberEnd`.
    var nextInode: InodeNumber
    var nameHash: NameHash
    var birth: Timestamp
    var limits = Limits.none

    static func isValid(blockSize: Int) -> Bool {
        blockSizes.contains(blockSize) && blockSize & (blockSize - 1) == 0
    }

    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.encodedLength)
        func append<T: FixedWidthInteger>(_ value: T) {
            withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
        }
        append(Self.magic)
        append(Self.formatVersion)
        append(UInt32(blockSize))
        append(UInt32(0))
        append(nextInode)
        append(nameHash.key0)
        append(nameHash.key1)
        append(birth.seconds)
        append(birth.nanoseconds)
        if limits != .none {
            append(limits.bytes ?? 0)
            append(limits.inodes ?? 0)
        }
        return bytes
    }

    /// Decodes bytes that are not trusted.
    init(_ bytes: UnsafeRawBufferPointer) throws(FileSystemError) {
        func load<T: FixedWidthInteger>(_ offset: Int, _ type: T.Type = T.self) -> T {
            T(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: T.self))
        }
        let hasLimits = bytes.count == Self.encodedLengthWithLimits
        guard hasLimits || bytes.count == Self.encodedLength, load(0, UInt32.self) == Self.magic else {
            throw .corruptRow(row: "the superblock", problem: "its \(bytes.count) bytes do not begin with its magic")
        }
        let version: UInt32 = load(4)
        guard version == Self.formatVersion else {
            throw .engine(
                .unsupportedFormat(file: "the superblock", found: version, supported: Self.formatVersion)
            )
        }
        blockSize = Int(load(8, UInt32.self))
        nextInode = load(16)
        nameHash = NameHash(key0: load(24), key1: load(32))
        birth = Timestamp(seconds: load(40), nanoseconds: load(48))
        if hasLimits {
            let (bytes, inodes) = (load(52, UInt64.self), load(60, UInt64.self))
            limits = Limits(bytes: bytes == 0 ? nil : bytes, inodes: inodes == 0 ? nil : inodes)
        }
        guard Self.isValid(blockSize: blockSize), nextInode > rootInode, nextInode <= inodeNumberEnd else {
            throw .corruptRow(
                row: "the superblock",
                problem: "its block size is \(blockSize), its next inode \(nextInode)"
            )
        }
    }

    init(blockSize: Int, nextInode: InodeNumber, nameHash: NameHash, birth: Timestamp) {
        self.blockSize = blockSize
        self.nextInode = nextInode
        self.nameHash = nameHash
        self.birth = birth
    }
}
