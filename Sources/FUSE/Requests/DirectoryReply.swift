import CFUSE3
import Glibc

/// The answer to a directory listing, filled entry by entry until one does not fit. Entries are laid
/// out as the kernel reads them: `fuse_dirent`, preceded in a listing with attributes by
/// `fuse_entry_out`, each padded to 8 bytes.
public final class DirectoryReply {
    /// Whether entries carry attributes (and count a lookup each, except those without).
    public private(set) var wantsAttributes = false

    /// Bytes the kernel has room for.
    public private(set) var capacity = 0

    private var memory = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private(set) var used = 0

    private static let entryOutBytes = MemoryLayout<fuse_entry_out>.size
    /// `fuse_dirent` without its name.
    private static let direntBytes = 24

    init() {}

    deinit { memory.deallocate() }

    /// About how many entries with names of usual length fit.
    public var expectedEntries: Int {
        max(1, capacity / (Self.direntBytes + 24 + (wantsAttributes ? Self.entryOutBytes : 0)))
    }

    /// Adds a name without attributes; false when it does not fit: stop, it will be asked for again.
    /// `cookie`: where a listing goes on after this entry. `type`: DT_* of readdir(3).
    public func add(name: NameBytes, inode: UInt64, type: UInt8, cookie: UInt64) -> Bool {
        add(name: name, inode: inode, type: type, cookie: cookie, entry: nil)
    }

    /// Adds a name with what a lookup of it would answer; the attributes are left out where the kernel
    /// did not ask for them.
    public func add(name: NameBytes, entry: EntryReply, cookie: UInt64) -> Bool {
        let type = UInt8(truncatingIfNeeded: (entry.attributes.mode & 0o170000) >> 12)
        return add(name: name, inode: entry.attributes.inode, type: type, cookie: cookie, entry: entry)
    }

    func begin(capacity: Int, wantsAttributes: Bool) {
        self.capacity = capacity
        self.wantsAttributes = wantsAttributes
        used = 0
        guard memory.count < capacity else { return }
        memory.deallocate()
        memory = .allocate(byteCount: capacity, alignment: 4096)
    }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[..<used]) }

    /// The nodes whose lookups this answer counts.
    func forEachCountedNode(_ body: (NodeID) -> Void) {
        guard wantsAttributes else { return }
        var position = 0
        while position + Self.entryOutBytes + Self.direntBytes <= used {
            let node = memory.loadUnaligned(fromByteOffset: position, as: UInt64.self)
            if node != 0 { body(node) }
            let nameOffset = position + Self.entryOutBytes + 16
            let nameLength = Int(memory.loadUnaligned(fromByteOffset: nameOffset, as: UInt32.self))
            position += Self.padded(Self.entryOutBytes + Self.direntBytes + nameLength)
        }
    }

    private static func padded(_ length: Int) -> Int { (length + 7) & ~7 }

    private func add(name: NameBytes, inode: UInt64, type: UInt8, cookie: UInt64, entry: EntryReply?) -> Bool {
        let header = (wantsAttributes ? Self.entryOutBytes : 0) + Self.direntBytes
        let length = Self.padded(header + name.count)
        guard used + length <= capacity, let source = name.baseAddress, let base = memory.baseAddress else {
            return false
        }
        let start = base + used
        memset(start, 0, length)
        var position = start
        if wantsAttributes {
            if let entry { position.storeBytes(of: fuse_entry_out(entry), as: fuse_entry_out.self) }
            position += Self.entryOutBytes
        }
        position.storeBytes(of: inode, as: UInt64.self)
        position.storeBytes(of: cookie, toByteOffset: 8, as: UInt64.self)
        position.storeBytes(of: UInt32(name.count), toByteOffset: 16, as: UInt32.self)
        position.storeBytes(of: UInt32(type), toByteOffset: 20, as: UInt32.self)
        memcpy(position + Self.direntBytes, source, name.count)
        used += length
        return true
    }
}
