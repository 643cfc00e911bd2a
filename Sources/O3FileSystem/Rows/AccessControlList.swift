/// A POSIX access control list (acl(5)), as Linux passes it in `system.posix_acl_access` and `…_default`, and as it
/// is stored, little-endian:
///
///     0 version, 2 (4)    then for each entry: tag (2) permissions (2) user or group id (4)
///
/// Entries are in the order of their tags. Ids of one tag come in any order, also twice, as Linux lets them; the first
/// entry that fits decides.
struct AccessControlList: Equatable {
    struct Entry: Equatable {
        var tag: UInt16
        /// Read 4, write 2, execute 1.
        var permissions: UInt16
        /// Of a named user or group; all ones otherwise.
        var id: UInt32
    }

    private enum Tag {
        static let owner: UInt16 = 0x01
        static let user: UInt16 = 0x02
        static let owningGroup: UInt16 = 0x04
        static let group: UInt16 = 0x08
        static let mask: UInt16 = 0x10
        static let other: UInt16 = 0x20
    }

    static let accessName = [UInt8]("system.posix_acl_access".utf8)
    static let defaultName = [UInt8]("system.posix_acl_default".utf8)
    private static let version: UInt32 = 2
    private static let headerBytes = 4
    private static let entryBytes = 8

    private(set) var entries: [Entry] = []

    /// nil for bytes that are no list, or one that lacks what every list must have.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > Self.headerBytes, (bytes.count - Self.headerBytes) % Self.entryBytes == 0,
            UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)) == Self.version
        else { return nil }
        for offset in stride(from: Self.headerBytes, to: bytes.count, by: Self.entryBytes) {
            let entry = Entry(
                tag: UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self)),
                permissions: UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset + 2, as: UInt16.self)),
                id: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self)))
            let isNamed = entry.tag == Tag.user || entry.tag == Tag.group
            if let last = entries.last {
                guard last.tag < entry.tag || (isNamed && last.tag == entry.tag) else {
                    return nil
                }
            }
            guard entry.permissions <= 7, isNamed || [Tag.owner, Tag.owningGroup, Tag.mask, Tag.other].contains(entry.tag)
            else { return nil }
            entries.append(entry)
        }
        let hasNamed = entries.contains { $0.tag == Tag.user || $0.tag == Tag.group }
        guard has(Tag.owner), has(Tag.owningGroup), has(Tag.other), has(Tag.mask) || !hasNamed else { return nil }
    }

    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.headerBytes + entries.count * Self.entryBytes)
        func append<T: FixedWidthInteger>(_ value: T) {
            withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
        }
        append(Self.version)
        for entry in entries {
            append(entry.tag)
            append(entry.permissions)
            append(entry.id)
        }
        return bytes
    }

    /// Says no more than nine permission bits do.
    var isMinimal: Bool { entries.count == 3 }

    /// The nine permission bits of a file with this access list: the group's are those of the mask, if there is one.
    var permissionBits: UInt32 {
        let group = has(Tag.mask) ? Tag.mask : Tag.owningGroup
        return permissions(Tag.owner) << 6 | permissions(group) << 3 | permissions(Tag.other)
    }

    /// What chmod(2) does to the list: what `permissionBits` then answers.
    mutating func setPermissionBits(_ mode: UInt32) {
        let group = has(Tag.mask) ? Tag.mask : Tag.owningGroup
        set(Tag.owner, mode >> 6)
        set(group, mode >> 3)
        set(Tag.other, mode)
    }

    /// The access list of a file that is made with `mode` in a directory with this default list.
    func restricted(to mode: UInt32) -> AccessControlList {
        var list = self
        list.setPermissionBits(mode & permissionBits)
        return list
    }

    private func has(_ tag: UInt16) -> Bool { entries.contains { $0.tag == tag } }

    private func permissions(_ tag: UInt16) -> UInt32 {
        UInt32(entries.first { $0.tag == tag }?.permissions ?? 0)
    }

    private mutating func set(_ tag: UInt16, _ permissions: UInt32) {
        guard let place = entries.firstIndex(where: { $0.tag == tag }) else { return }
        entries[place].permissions = UInt16(permissions & 7)
    }
}
