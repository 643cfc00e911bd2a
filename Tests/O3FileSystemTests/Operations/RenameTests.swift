import Glibc
import Testing

@testable import O3FileSystem

@Suite struct RenameTests {
    let fs: FileSystem
    let a: InodeNumber
    let b: InodeNumber

    init() throws {
        fs = try FileSystem(MemoryStore())
        a = try fs.mkdir(rootInode, "a").inode
        b = try fs.mkdir(rootInode, "b").inode
    }

    @Test func aFileMovesAndReplaces() throws {
        let one = try fs.touch(a, "f").inode
        let two = try fs.touch(b, "g").inode
        try fs.move(a, "f", a, "f2")
        #expect(try fs.find(a, "f2").inode == one)
        try fs.move(a, "f2", b, "g")
        #expect(try fs.find(b, "g").inode == one)
        expectErrno(ENOENT) { try fs.getAttributes(two) }
        #expect(try fs.names(a) == [])
        #expect(try fs.check() == [])
    }

    @Test func namesOfOneFileStayBoth() throws {
        let file = try fs.touch(a, "f").inode
        try fs.hardLink(file, b, "g")
        try fs.move(a, "f", b, "g")
        #expect(try fs.names(a) == ["f"])
        #expect(try fs.names(b) == ["g"])
        try fs.move(a, "f", a, "f")
        #expect(try fs.names(a) == ["f"])
        #expect(try fs.check() == [])
    }

    @Test func aDirectoryMovesWithAllBelow() throws {
        let sub = try fs.mkdir(a, "sub").inode
        try fs.touch(sub, "deep")
        try fs.move(a, "sub", b, "moved")
        #expect(try fs.resolve("/b/moved/deep").type == .regular)
        #expect(try fs.find(sub, "..").inode == b)
        #expect(try fs.getAttributes(a).linkCount == 2)
        #expect(try fs.getAttributes(b).linkCount == 3)
        #expect(try fs.check() == [])
    }

    @Test func aDirectoryReplacesOnlyAnEmptyOne() throws {
        let sub = try fs.mkdir(a, "sub").inode
        let full = try fs.mkdir(b, "full").inode
        try fs.touch(full, "x")
        try fs.mkdir(b, "empty")
        try fs.touch(b, "file")
        expectErrno(ENOTEMPTY) { try fs.move(a, "sub", b, "full") }
        expectErrno(ENOTDIR) { try fs.move(a, "sub", b, "file") }
        expectErrno(EISDIR) { try fs.move(b, "file", b, "empty") }
        try fs.move(a, "sub", b, "empty")
        #expect(try fs.find(b, "empty").inode == sub)
        #expect(try fs.getAttributes(b).linkCount == 4)
        #expect(try fs.check() == [])
    }

    @Test func aDirectoryCannotMoveIntoItself() throws {
        let sub = try fs.mkdir(a, "sub").inode
        let deep = try fs.mkdir(sub, "deep").inode
        expectErrno(EINVAL) { try fs.move(rootInode, "a", deep, "x") }
        expectErrno(EINVAL) { try fs.move(rootInode, "a", a, "x") }
        expectErrno(EINVAL) { try fs.move(a, "sub", deep, "x") }
        expectErrno(EINVAL) { try fs.move(rootInode, "a", deep, "missing", .noReplace) }
        expectErrno(ENOTEMPTY) { try fs.move(sub, "deep", rootInode, "a") }
        expectErrno(EINVAL) { try fs.move(sub, "deep", rootInode, "a", .exchange) }
        expectErrno(EINVAL) { try fs.move(rootInode, "a", sub, "deep", .exchange) }
        #expect(try fs.check() == [])
    }

    @Test func noReplaceRefuses() throws {
        let file = try fs.touch(a, "f").inode
        try fs.touch(b, "g")
        expectErrno(EEXIST) { try fs.move(a, "f", b, "g", .noReplace) }
        expectErrno(EEXIST) { try fs.move(a, "f", a, "f", .noReplace) }
        try fs.move(a, "f", b, "h", .noReplace)
        #expect(try fs.find(b, "h").inode == file)
    }

    @Test func exchangeSwapsFilesAndDirectories() throws {
        let file = try fs.touch(a, "f").inode
        let directory = try fs.mkdir(b, "d").inode
        try fs.touch(directory, "x")
        expectErrno(ENOENT) { try fs.move(a, "f", b, "missing", .exchange) }
        try fs.move(a, "f", b, "d", .exchange)
        #expect(try fs.find(a, "f").inode == directory)
        #expect(try fs.find(b, "d").inode == file)
        #expect(try fs.find(directory, "..").inode == a)
        #expect(try fs.getAttributes(a).linkCount == 3)
        #expect(try fs.getAttributes(b).linkCount == 2)
        try fs.move(b, "d", b, "d", .exchange)
        #expect(try fs.check() == [])
    }

    @Test func badNamesAndMissingPlacesAreRefused() throws {
        try fs.touch(a, "f")
        expectErrno(ENOENT) { try fs.move(a, "missing", b, "x") }
        expectErrno(ENOENT) { try fs.move(a, "f", 99, "x") }
        expectErrno(ENOENT) { try fs.move(99, "f", a, "x") }
        expectErrno(EINVAL) { try fs.move(a, ".", b, "x") }
        expectErrno(EINVAL) { try fs.move(a, "f", b, "..") }
        expectErrno(ENAMETOOLONG) { try fs.move(a, "f", b, String(repeating: "n", count: 256)) }
        let file = try fs.find(a, "f").inode
        expectErrno(ENOTDIR) { try fs.move(a, "f", file, "x") }
        #expect(try fs.check() == [])
    }

    @Test func aRemovedDirectoryTakesNothing() throws {
        let held = try fs.mkdir(rootInode, "held", retain: true).inode
        try fs.rmdir(rootInode, "held")
        #expect(try fs.getAttributes(held).linkCount == 0)
        #expect(try fs.list(held) == [])
        expectErrno(ENOENT) { try fs.touch(held, "x") }
        try fs.touch(a, "f")
        expectErrno(ENOENT) { try fs.move(a, "f", held, "x") }
        fs.forget(held, count: 1)
        expectErrno(ENOENT) { try fs.getAttributes(held) }
        #expect(try fs.check() == [])
    }
}
