import O3LSM

/// Keys of rows as people read them, and back: `superblock`, `inode 5`, `orphan 5`, `dentry 1/"etc"`,
/// `xattr 5/"user.note"`, `data 5/block 0`, `request 2/slot 0`. Bytes of a name that are not printable ASCII, quotes and
/// backslashes are written `\xNN`. A key that no row has is written in hexadecimal.
public enum KeyDescription {
    public static func describe(_ key: UnsafeRawBufferPointer) -> String {
        switch ParsedKey(key) {
        case .superblock?: return "superblock"
        case .inode(let number)?: return "inode \(number)"
        case .orphan(let number)?: return "orphan \(number)"
        case .request(let generation, let slot)?: return "request \(generation)/slot \(slot)"
        case .data(let number, let block)?: return "data \(number)/block \(block)"
        case .dentry(let parent, _, let name)?: return dentry(parent, name)
        case .extendedAttribute(let number, let name)?: return "xattr \(number)/\(quoted(name))"
        case nil: return "unknown key " + key.map { hexadecimal($0) }.joined()
        }
    }

    public static func describe(_ key: [UInt8]) -> String { key.withUnsafeBytes { describe($0) } }

    /// A description without what a user has named: `dentry 1/…`.
    static func withoutName(_ description: String) -> String {
        if description.hasPrefix("unknown key ") { return "a row that no file system writes" }
        guard let quote = description.firstIndex(of: "\"") else { return description }
        return description[..<quote] + "…"
    }

    static func dentry(_ parent: InodeNumber, _ name: UnsafeRawBufferPointer) -> String {
        "dentry \(parent)/\(quoted(name))"
    }

    private static func hexadecimal(_ byte: UInt8) -> String {
        String(byte >> 4, radix: 16) + String(byte & 0xf, radix: 16)
    }

    private static func quoted(_ name: UnsafeRawBufferPointer) -> String {
        var text = "\""
        for byte in name {
            if byte >= 0x20, byte < 0x7f, byte != 0x22, byte != 0x5c {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                text += "\\x" + hexadecimal(byte)
            }
        }
        return text + "\""
    }

    private static func unquoted(_ text: Substring) -> [UInt8]? {
        guard text.count >= 2, text.first == "\"", text.last == "\"" else { return nil }
        var bytes: [UInt8] = []
        var rest = text.dropFirst().dropLast().utf8[...]
        while let byte = rest.popFirst() {
            guard byte == 0x5c else {
                bytes.append(byte)
                continue
            }
            guard rest.popFirst() == 0x78, let high = rest.popFirst(), let low = rest.popFirst(),
                let value = UInt8(String(decoding: [high, low], as: UTF8.self), radix: 16)
            else { return nil }
            bytes.append(value)
        }
        return bytes
    }

    /// The key that `describe` would write so; nil for text that means none. `nameHash` is the store's,
    /// without which a dentry's key cannot be told.
    static func parse(_ text: String, _ nameHash: NameHash) -> [UInt8]? {
        if text == "superblock" { return RowKey.superblock.bytes }
        let words = text.split(separator: " ", maxSplits: 1)
        guard words.count == 2 else { return nil }
        switch words[0] {
        case "inode": return UInt64(words[1]).map { RowKey.inode($0).bytes }
        case "orphan": return UInt64(words[1]).map { RowKey.orphan($0).bytes }
        default: break
        }
        let parts = words[1].split(separator: "/", maxSplits: 1)
        guard parts.count == 2, let number = UInt64(parts[0]) else { return nil }
        switch words[0] {
        case "data":
            guard parts[1].hasPrefix("block "), let block = UInt64(parts[1].dropFirst(6)) else { return nil }
            return RowKey.data(number, block: block).bytes
        case "request":
            guard parts[1].hasPrefix("slot "), let slot = UInt16(parts[1].dropFirst(5)) else { return nil }
            return RowKey.request(generation: number, slot: slot).bytes
        case "dentry":
            guard let name = unquoted(parts[1]), isNameLength(name.count) else { return nil }
            return name.withUnsafeBytes { NameKey(dentryOf: number, hash: nameHash($0), $0).bytes }
        case "xattr":
            guard let name = unquoted(parts[1]), isNameLength(name.count) else { return nil }
            return name.withUnsafeBytes { NameKey(extendedAttributeOf: number, $0).bytes }
        default: return nil
        }
    }

    private static func isNameLength(_ count: Int) -> Bool { count > 0 && count <= NameKey.maximumNameLength }
}

extension FileSystem {
    /// The key of this store that `KeyDescription.describe` would write as `text`; nil if none.
    public func key(describedBy text: String) -> [UInt8]? { KeyDescription.parse(text, nameHash) }

    /// The file at an absolute path ("/a/b"); symbolic links are not followed.
    public func resolve(_ path: String) throws(FileSystemError) -> Attributes {
        var current = try getAttributes(rootInode)
        for component in path.split(separator: "/") {
            let name = [UInt8](component.utf8)
            current = try withBytes(of: name) { (name) throws(FileSystemError) in try lookup(current.inode, name) }
        }
        return current
    }

    /// The keys of all rows of the file at `path`: its dentry, inode, extended attributes, data blocks,
    /// orphan row, and for a directory its entries; at most `limit`.
    public func rows(forPath path: String, limit: Int = 1000) throws(FileSystemError) -> [[UInt8]] {
        var keys: [[UInt8]] = []
        let components = path.split(separator: "/")
        let file = try resolve(path)
        if let last = components.last {
            let parent = try resolve(components.dropLast().joined(separator: "/"))
            let name = [UInt8](last.utf8)
            keys.append(name.withUnsafeBytes { dentryKey(parent.inode, $0).bytes })
        }
        keys.append(RowKey.inode(file.inode).bytes)
        let kinds: [RowKind] = file.type == .directory ? [.extendedAttribute, .dentry] : [.extendedAttribute, .data]
        for kind in kinds {
            let cursor = try store.scan(
                from: RowKey.first(kind, of: file.inode).bytes,
                to: RowKey.first(kind, of: file.inode + 1).bytes
            )
            while cursor.isValid, keys.count < limit {
                keys.append([UInt8](cursor.key))
                try cursor.advance()
            }
        }
        return keys
    }
}

/// An array's bytes, for a body with an error type of its own (the array's method knows only any).
@inline(__always)
func withBytes<Result, Failure: Error>(
    of array: [UInt8],
    _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
) throws(Failure) -> Result {
    try array.span.withUnsafeBytes(body)
}
