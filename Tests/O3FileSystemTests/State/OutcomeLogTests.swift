import Glibc
import Testing

@testable import O3FileSystem

@Suite struct OutcomeLogTests {
    private let store = MemoryStore()

    private func fileSystem(generation: UInt64?, _ counts: Int32? = nil) throws -> FileSystem {
        var options = FileSystem.Options()
        options.generation = generation
        options.continuesEarlierMount = (generation ?? 0) > 0
        options.lookupCounts = counts
        return try FileSystem(store, options: options)
    }

    private func makeDirectory(_ fs: FileSystem, _ name: String, _ unique: UInt64, slot: UInt16) throws {
        var name = name
        try name.withUTF8 { name in
            _ = try fs.makeDirectory(
                in: rootInode, UnsafeRawBufferPointer(name), permissions: 0o755, owner: .root,
                request: RequestTicket(unique: unique, slot: slot))
        }
    }

    private func isDone(_ fs: FileSystem, _ unique: UInt64) -> Bool {
        fs.isDone(RequestTicket(unique: unique, slot: 0))
    }

    @Test func theLastRequestOfEachSlotIsRemembered() throws {
        let first = try fileSystem(generation: 0)
        try makeDirectory(first, "a", 2, slot: 0)
        try makeDirectory(first, "b", 4, slot: 1)
        try makeDirectory(first, "c", 6, slot: 0)
        // One that fails has done nothing.
        #expect(throws: FileSystemError.self) { try makeDirectory(first, "a", 8, slot: 2) }
        let second = try fileSystem(generation: 1)
        #expect(!isDone(second, 2) && isDone(second, 4) && isDone(second, 6) && !isDone(second, 8))
        // What the first had done may still be asked for when the second dies, until all is answered.
        try makeDirectory(second, "d", 10, slot: 0)
        let third = try fileSystem(generation: 2)
        #expect(isDone(third, 4) && isDone(third, 6) && isDone(third, 10))
        try third.forgetEarlierRequests()
        try makeDirectory(third, "e", 12, slot: 5)
        let fourth = try fileSystem(generation: 3)
        #expect(!isDone(fourth, 6) && !isDone(fourth, 10) && isDone(fourth, 12))
        #expect(try fourth.check() == [])
    }

    /// A process that ends while the mount does not: by an upgrade, or because it could not begin to serve.
    @Test func whatWasDoneOutlastsAProcessThatLeaves() throws {
        let first = try fileSystem(generation: 0)
        try makeDirectory(first, "a", 2, slot: 0)
        try fileSystem(generation: 1).close(goesOn: true)
        let third = try fileSystem(generation: 2)
        #expect(isDone(third, 2))
        try third.close()
        #expect(!isDone(try fileSystem(generation: 3), 2))
    }

    /// Operations that must not be done twice.
    enum Operation: String, CaseIterable {
        case makeNode, makeDirectory, makeSymbolicLink, link, unlink, removeDirectory
        case rename, renameNoReplace, exchange, whiteout, setAttribute, removeAttribute
    }

    private func perform(_ operation: Operation, _ fs: FileSystem, _ unique: UInt64) throws {
        let request = RequestTicket(unique: unique, slot: UInt16(unique % 8))
        func named<Value>(_ name: String, _ body: (UnsafeRawBufferPointer) throws -> Value) rethrows -> Value {
            var name = name
            return try name.withUTF8 { try body(UnsafeRawBufferPointer($0)) }
        }
        func rename(_ mode: RenameMode, to other: String, whiteout: Owner? = nil) throws {
            try named("file") { name in
                try named(other) {
                    try fs.rename(from: rootInode, name, to: rootInode, $0, mode: mode, whiteout: whiteout, request: request)
                }
            }
        }
        let file = { try fs.find(rootInode, "file").inode }
        switch operation {
        case .makeNode:
            _ = try named("new") { try fs.makeNode(in: rootInode, $0, mode: S_IFIFO | 0o600, owner: .root, request: request) }
        case .makeDirectory: try makeDirectory(fs, "new", unique, slot: request.slot)
        case .makeSymbolicLink:
            _ = try named("new") { name in
                try named("target") {
                    try fs.makeSymbolicLink(in: rootInode, name, target: $0, owner: .root, request: request)
                }
            }
        case .link: _ = try named("new") { try fs.link(try file(), in: rootInode, $0, request: request) }
        case .unlink: try named("file") { try fs.unlink(in: rootInode, $0, request: request) }
        case .removeDirectory: try named("directory") { try fs.removeDirectory(in: rootInode, $0, request: request) }
        case .rename: try rename(.replace, to: "new")
        case .renameNoReplace: try rename(.noReplace, to: "new")
        case .exchange: try rename(.exchange, to: "other")
        case .whiteout: try rename(.replace, to: "new", whiteout: .root)
        case .setAttribute:
            try named("user.new") { name in
                try named("value") {
                    try fs.setExtendedAttribute(try file(), name, $0, mode: .create, request: request)
                }
            }
        case .removeAttribute:
            try named("user.old") { try fs.removeExtendedAttribute(try file(), $0, request: request) }
        }
    }

    @Test(arguments: Operation.allCases) func eachOperationIsRemembered(operation: Operation) throws {
        let first = try fileSystem(generation: 0)
        let file = try first.touch(rootInode, "file").inode
        try first.touch(rootInode, "other")
        try first.mkdir(rootInode, "directory")
        try first.setAttribute(file, "user.old", [1])
        // One that fails is not: it may fail again.
        store.failWrites(.readOnly(reason: "for a while"))
        #expect(throws: FileSystemError.self) { try perform(operation, first, 2) }
        store.failWrites(nil)
        try perform(operation, first, 4)
        let rows = store.rows
        let second = try fileSystem(generation: 1)
        #expect(!isDone(second, 2) && isDone(second, 4))
        // What was done is there, with the number, in one batch: there is nothing else that a death could leave.
        #expect(store.rows.keys == rows.keys && store.rows.values == rows.values)
        #expect(try second.check() == [])
        // Of the second time each would fail, or, as an exchange, take the first back.
        let isRepeatable = operation == .exchange || operation == .whiteout
        if !isRepeatable { #expect(throws: FileSystemError.self) { try perform(operation, second, 6) } }
    }

    @Test func aNewMountRemembersNothing() throws {
        try makeDirectory(try fileSystem(generation: 0), "a", 2, slot: 0)
        let rows = store.rows.keys.count
        #expect(!isDone(try fileSystem(generation: 0), 2))
        #expect(store.rows.keys.count == rows - 1)
        // Nobody goes on after a mount without generations: nothing is written.
        try makeDirectory(try fileSystem(generation: nil), "b", 2, slot: 0)
        #expect(store.rows.keys.count == rows + 1)
    }

    @Test func orphansLastAsLongAsTheKernelHoldsThem() throws {
        let first = try fileSystem(generation: 0)
        let held = try first.touch(rootInode, "held", retain: true).inode
        let other = try first.touch(rootInode, "other", retain: true).inode
        try first.touch(rootInode, "unknown")
        try first.remove(rootInode, "held")
        try first.remove(rootInode, "other")
        let second = try fileSystem(generation: 1, dup(try #require(first.lookupCountsDescriptor)))
        second.reclaimOrphans()
        #expect(try second.getAttributes(held).linkCount == 0)
        second.forget(held, count: 1)
        expectErrno(ENOENT) { try second.getAttributes(held) }
        // Known to nobody: gone at once, though it is older than this process.
        let unknown = try second.find(rootInode, "unknown").inode
        try second.remove(rootInode, "unknown")
        expectErrno(ENOENT) { try second.getAttributes(unknown) }
        // Forgotten, and the process died before it could delete it.
        _ = second.lookups.release(other, 1)
        let third = try fileSystem(generation: 2, dup(try #require(second.lookupCountsDescriptor)))
        third.reclaimOrphans()
        expectErrno(ENOENT) { try third.getAttributes(other) }
        #expect(try third.check() == [])
    }
}
