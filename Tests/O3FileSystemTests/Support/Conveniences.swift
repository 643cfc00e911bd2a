import Glibc
import O3LSM
import Testing

@testable import O3FileSystem

let alice = Owner(uid: 1000, gid: 100)

/// The operations with names as strings and data as arrays.
extension FileSystem {
    private func bytes<Result>(
        _ text: String,
        _ body: (UnsafeRawBufferPointer) throws(FileSystemError) -> Result
    ) throws(FileSystemError) -> Result {
        try withBytes(of: [UInt8](text.utf8), body)
    }

    func find(_ parent: InodeNumber, _ name: String, retain: Bool = false) throws(FileSystemError) -> Attributes {
        try bytes(name) { (name) throws(FileSystemError) in try lookup(parent, name, retain: retain) }
    }
    @discardableResult
    func mkdir(
        _ parent: InodeNumber,
        _ name: String,
        permissions: UInt32 = 0o755,
        owner: Owner = alice,
        retain: Bool = false
    ) throws(FileSystemError) -> Attributes {
        try bytes(name) { (name) throws(FileSystemError) in
            try makeDirectory(in: parent, name, permissions: permissions, owner: owner, retain: retain)
        }
    }
    @discardableResult
    func touch(
        _ parent: InodeNumber,
        _ name: String,
        permissions: UInt32 = 0o644,
        owner: Owner = alice,
        exclusive: Bool = true,
        retain: Bool = false
    ) throws(FileSystemError) -> Attributes {
        try bytes(name) { (name) throws(FileSystemError) in
            try create(
                in: parent,
                name,
                permissions: permissions,
                owner: owner,
                exclusive: exclusive,
                retain: retain
            )
        }
    }
    @discardableResult
    func mknod(
        _ parent: InodeNumber,
        _ name: String,
        mode: UInt32,
        rdev: UInt32 = 0
    ) throws(FileSystemError) -> Attributes {
        try bytes(name) { (name) throws(FileSystemError) in
            try makeNode(in: parent, name, mode: mode, rdev: rdev, owner: alice)
        }
    }
    @discardableResult
    func symlink(_ parent: InodeNumber, _ name: String, to target: String) throws(FileSystemError) -> Attributes {
        try bytes(name) { (name) throws(FileSystemError) in
            try bytes(target) { (target) throws(FileSystemError) in
                try makeSymbolicLink(in: parent, name, target: target, owner: alice)
            }
        }
    }
    @discardableResult
    func hardLink(_ inode: InodeNumber, _ parent: InodeNumber, _ name: String) throws(FileSystemError) -> Attributes {
        try bytes(name) { (name) throws(FileSystemError) in try link(inode, in: parent, name) }
    }
    func remove(_ parent: InodeNumber, _ name: String) throws(FileSystemError) {
        try bytes(name) { (name) throws(FileSystemError) in try unlink(in: parent, name) }
    }
    func rmdir(_ parent: InodeNumber, _ name: String) throws(FileSystemError) {
        try bytes(name) { (name) throws(FileSystemError) in try removeDirectory(in: parent, name) }
    }
    func move(
        _ parent: InodeNumber,
        _ name: String,
        _ newParent: InodeNumber,
        _ newName: String,
        _ mode: RenameMode = .replace
    ) throws(FileSystemError) {
        try bytes(name) { (name) throws(FileSystemError) in
            try bytes(newName) { (newName) throws(FileSystemError) in
                try rename(from: parent, name, to: newParent, newName, mode: mode)
            }
        }
    }
    func put(_ inode: InodeNumber, _ offset: UInt64, _ data: [UInt8]) throws(FileSystemError) {
        try withBytes(of: data) { (data) throws(FileSystemError) in try write(inode, offset: offset, data) }
    }
    func get(_ inode: InodeNumber, _ offset: UInt64 = 0, _ length: Int = 1 << 30) throws(FileSystemError) -> [UInt8] {
        let sink = ReadSink()
        try read(inode, offset: offset, length: length, into: sink)
        let result = sink.copy()
        #expect(result.count == sink.count)
        return result
    }
    @discardableResult
    func resize(_ inode: InodeNumber, _ size: UInt64) throws(FileSystemError) -> Attributes {
        var changes = AttributeChanges()
        changes.size = size
        return try setAttributes(inode, changes)
    }
    func setAttribute(
        _ inode: InodeNumber,
        _ name: String,
        _ value: [UInt8],
        _ mode: ExtendedAttributeMode = .createOrReplace
    ) throws(FileSystemError) {
        try bytes(name) { (name) throws(FileSystemError) in
            try withBytes(of: value) { (value) throws(FileSystemError) in
                try setExtendedAttribute(inode, name, value, mode: mode)
            }
        }
    }
    func getAttribute(_ inode: InodeNumber, _ name: String) throws(FileSystemError) -> [UInt8] {
        try bytes(name) { (name) throws(FileSystemError) in try getExtendedAttribute(inode, name).copy() }
    }
    func removeAttribute(_ inode: InodeNumber, _ name: String) throws(FileSystemError) {
        try bytes(name) { (name) throws(FileSystemError) in try removeExtendedAttribute(inode, name) }
    }

    struct Listed: Equatable {
        var name: String
        var inode: InodeNumber
        var type: FileType
        var cookie: UInt64
        var attributes: Attributes?
    }

    /// The whole directory, `limit` entries a call, without "." and "..".
    func list(
        _ inode: InodeNumber,
        limit: Int = 1000,
        attributes: Bool = false,
        dots: Bool = false
    ) throws(FileSystemError) -> [Listed] {
        var all: [Listed] = []
        var cookie: UInt64 = 0
        while true {
            var taken = 0
            try readDirectory(inode, after: cookie, attributes: attributes, expected: limit) { entry in
                guard taken < limit else { return false }
                taken += 1
                cookie = entry.cookie
                all.append(
                    Listed(
                        name: String(decoding: entry.name, as: UTF8.self),
                        inode: entry.inode,
                        type: entry.type,
                        cookie: entry.cookie,
                        attributes: entry.attributes
                    )
                )
                return true
            }
            if taken == 0 { break }
        }
        return dots ? all : all.filter { $0.name != "." && $0.name != ".." }
    }

    func names(_ inode: InodeNumber) throws(FileSystemError) -> [String] { try list(inode).map(\.name).sorted() }
}

/// Expects the call to fail with this errno.
func expectErrno<Result>(
    _ code: Int32,
    sourceLocation: SourceLocation = #_sourceLocation,
    _ body: () throws -> Result
) {
    do {
        let result = try body()
        Issue.record("expected errno \(code), got \(result)", sourceLocation: sourceLocation)
    } catch let error as FileSystemError {
        #expect(error.posixCode == code, "\(error)", sourceLocation: sourceLocation)
    } catch {
        Issue.record("unexpected \(error)", sourceLocation: sourceLocation)
    }
}

/// Numbers that a seed reproduces (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

/// `count` bytes, none of them zero, that tell their seed.
func pattern(_ count: Int, _ seed: Int = 1) -> [UInt8] {
    let period = patternPeriod[(seed % 255)...] + patternPeriod[..<(seed % 255)]
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 255)
    while bytes.count < count { bytes += period }
    bytes.removeSubrange(count...)
    return bytes
}

private let patternPeriod = (0..<255).map { UInt8($0 * 31 % 255 + 1) }
