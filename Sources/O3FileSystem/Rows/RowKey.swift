import O3LSM

/// The first byte of a key: which kind of row it is. The values are part of the format.
enum RowKind: UInt8, CaseIterable {
    case data = 0x62  // b
    case dentry = 0x64  // d
    case inode = 0x69  // i
    case orphan = 0x6f  // o
    case request = 0x72  // r
    case superblock = 0x73  // s
    case extendedAttribute = 0x78  // x
}

/// A key of fixed length, built on the stack: a kind, and one or two big-endian numbers.
///
/// The kind lies in the last byte of the first word, so that key and numbers are contiguous and the
/// numbers aligned.
struct RowKey {
    private var words: (UInt64, UInt64, UInt64)
    private let count: Int

    private init(_ kind: RowKind, _ first: UInt64, _ second: UInt64, count: Int) {
        words = ((UInt64(kind.rawValue)).bigEndian, first.bigEndian, second.bigEndian)
        self.count = count
    }

    static let superblock = RowKey(.superblock, 0, 0, count: 1)
    static func inode(_ number: InodeNumber) -> RowKey { RowKey(.inode, number, 0, count: 9) }
    static func orphan(_ number: InodeNumber) -> RowKey { RowKey(.orphan, number, 0, count: 9) }
    static func data(_ number: InodeNumber, block: UInt64) -> RowKey { RowKey(.data, number, block, count: 17) }
    static func request(generation: UInt64, slot: UInt16) -> RowKey {
        RowKey(.request, generation, UInt64(slot), count: 17)
    }
    /// The first key of all rows of `kind`.
    static func first(_ kind: RowKind) -> RowKey { RowKey(kind, 0, 0, count: 1) }
    /// The first key of all rows of `kind` that belong to `number`.
    static func first(_ kind: RowKind, of number: InodeNumber) -> RowKey { RowKey(kind, number, 0, count: 9) }

    @inline(__always)
    func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try withUnsafeBytes(of: words) { (all) throws(Failure) -> Result in
            try body(UnsafeRawBufferPointer(rebasing: all[7..<7 + count]))
        }
    }

    var bytes: [UInt8] { withBytes { [UInt8]($0) } }
}

/// The key of a row that is found by a name: a dentry (parent, hash of the name, name) or an extended
/// attribute (inode, name). On the stack, like `RowKey`.
struct NameKey {
    /// The longest name, in bytes, of a file or an extended attribute.
    static let maximumNameLength = 255
    /// Bytes of a dentry key before its name: kind, parent, hash.
    static let dentryPrefixLength = 1 + 8 + 7
    /// Bytes of an extended attribute's key before its name: kind, inode.
    static let extendedAttributePrefixLength = 1 + 8

    private var words = InlineArray<34, UInt64>(repeating: 0)
    private let count: Int

    /// The name is at most `maximumNameLength` bytes; more are cut off.
    init(dentryOf parent: InodeNumber, hash: UInt64, _ name: UnsafeRawBufferPointer) {
        let used = min(name.count, Self.maximumNameLength)
        count = Self.dentryPrefixLength + used
        withUnsafeMutableBytes(of: &words) { buffer in
            buffer[0] = RowKind.dentry.rawValue
            buffer.storeBytes(of: parent.bigEndian, toByteOffset: 1, as: UInt64.self)
            // The hash's own top byte is zero, and gives way to the last byte of the parent.
            buffer.storeBytes(of: (hash | (parent & 0xff) << 56).bigEndian, toByteOffset: 8, as: UInt64.self)
            buffer[Self.dentryPrefixLength..<count].copyBytes(from: name[..<(name.startIndex + used)])
        }
    }

    init(extendedAttributeOf inode: InodeNumber, _ name: UnsafeRawBufferPointer) {
        let used = min(name.count, Self.maximumNameLength)
        count = Self.extendedAttributePrefixLength + used
        withUnsafeMutableBytes(of: &words) { buffer in
            buffer[0] = RowKind.extendedAttribute.rawValue
            buffer.storeBytes(of: inode.bigEndian, toByteOffset: 1, as: UInt64.self)
            buffer[Self.extendedAttributePrefixLength..<count].copyBytes(from: name[..<(name.startIndex + used)])
        }
    }

    @inline(__always)
    func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try withUnsafeBytes(of: words) { (all) throws(Failure) -> Result in
            try body(UnsafeRawBufferPointer(rebasing: all[..<count]))
        }
    }

    var bytes: [UInt8] { withBytes { [UInt8]($0) } }
}

/// A key read back from the store, its bytes not trusted. Names point into the key.
enum ParsedKey {
    case superblock
    case inode(InodeNumber)
    case orphan(InodeNumber)
    case request(generation: UInt64, slot: UInt64)
    case data(InodeNumber, block: UInt64)
    case dentry(parent: InodeNumber, hash: UInt64, name: UnsafeRawBufferPointer)
    case extendedAttribute(InodeNumber, name: UnsafeRawBufferPointer)

    /// nil for a key that no row of the file system has.
    init?(_ key: UnsafeRawBufferPointer) {
        guard let first = key.first, let kind = RowKind(rawValue: first) else { return nil }
        func number(_ offset: Int) -> UInt64 {
            UInt64(bigEndian: key.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        }
        // The inode that a row of most kinds belongs to.
        switch kind {
        case .superblock, .request: break
        case .inode, .orphan, .data, .dentry, .extendedAttribute:
            guard key.count >= 9, number(1) < inodeNumberEnd else { return nil }
        }
        switch kind {
        case .superblock:
            guard key.count == 1 else { return nil }
            self = .superblock
        case .inode:
            guard key.count == 9 else { return nil }
            self = .inode(number(1))
        case .orphan:
            guard key.count == 9 else { return nil }
            self = .orphan(number(1))
        case .request:
            guard key.count == 17 else { return nil }
            self = .request(generation: number(1), slot: number(9))
        case .data:
            guard key.count == 17 else { return nil }
            self = .data(number(1), block: number(9))
        case .dentry:
            guard key.count > NameKey.dentryPrefixLength,
                key.count <= NameKey.dentryPrefixLength + NameKey.maximumNameLength
            else { return nil }
            self = .dentry(
                parent: number(1),
                hash: number(8) & NameHash.mask,
                name: UnsafeRawBufferPointer(rebasing: key[NameKey.dentryPrefixLength...])
            )
        case .extendedAttribute:
            guard key.count > NameKey.extendedAttributePrefixLength,
                key.count <= NameKey.extendedAttributePrefixLength + NameKey.maximumNameLength
            else { return nil }
            self = .extendedAttribute(
                number(1),
                name: UnsafeRawBufferPointer(rebasing: key[NameKey.extendedAttributePrefixLength...])
            )
        }
    }
}
