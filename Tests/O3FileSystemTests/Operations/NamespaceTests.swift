import Glibc
import O3LSM
import Testing

@testable import O3FileSystem

@Suite struct NamespaceTests {
    let store = MemoryStore()
    let fs: FileSystem

    init() throws { fs = try FileSystem(store) }

    private func expectSound(sourceLocation: SourceLocation = #_sourceLocation) throws {
        #expect(try fs.check() == [], sourceLocation: sourceLocation)
    }

    @Test func aNewFileSystemHasARoot() throws {
        let root = try fs.getAttributes(rootInode)
        #expect(root.type == .directory)
        #expect(root.mode == S_IFDIR | 0o755)
        #expect(root.linkCount == 2)
        #expect(try fs.list(rootInode, dots: true).map(\.name) == [".", ".."])
        #expect(try fs.find(rootInode, ".").inode == rootInode)
        #expect(try fs.find(rootInode, "..").inode == rootInode)
        try expectSound()
    }

    @Test func everyOperationIsOneBatch() throws {
        // The first creation also reserves inode numbers.
        let first = try fs.touch(rootInode, "first").inode
        var before = store.batchCount
        func one(_ what: String, _ body: () throws -> Void) throws {
            try body()
            #expect(store.batchCount == before + 1, "\(what)")
            before = store.batchCount
        }
        try one("mkdir") { try fs.mkdir(rootInode, "d") }
        try one("create") { try fs.touch(rootInode, "f") }
        try one("symlink") { try fs.symlink(rootInode, "s", to: "target") }
        try one("link") { try fs.hardLink(first, rootInode, "hard") }
        try one("write") { try fs.put(first, 100, pattern(1 << 20)) }
        try one("truncate") { try fs.resize(first, 5000) }
        try one("xattr") { try fs.setAttribute(first, "user.a", [1]) }
        try one("punch") { try fs.allocate(first, offset: 10, length: 5, mode: .punchHole) }
        try one("rename") { try fs.move(rootInode, "f", rootInode, "first") }
        try one("exchange") { try fs.move(rootInode, "d", rootInode, "first", .exchange) }
        try one("unlink") { try fs.remove(rootInode, "hard") }
        try one("rmdir") { try fs.rmdir(rootInode, "first") }
        try expectSound()
    }

    @Test func makingAFileFailsInTheRightOrder() throws {
        let file = try fs.touch(rootInode, "f").inode
        let long = String(repeating: "n", count: 256)
        expectErrno(ENAMETOOLONG) { try fs.touch(rootInode, long) }
        expectErrno(ENAMETOOLONG) { try fs.find(rootInode, long) }
        expectErrno(ENAMETOOLONG) { try fs.touch(99, long) }
        try fs.touch(rootInode, String(long.dropLast()))
        expectErrno(ENOENT) { try fs.touch(rootInode, "") }
        expectErrno(EEXIST) { try fs.mkdir(rootInode, ".") }
        expectErrno(EEXIST) { try fs.mkdir(rootInode, "..") }
        expectErrno(EINVAL) { try fs.touch(rootInode, "a/b") }
        expectErrno(EINVAL) { try fs.touch(rootInode, "a\0b") }
        expectErrno(EEXIST) { try fs.touch(rootInode, "f") }
        expectErrno(EEXIST) { try fs.mkdir(rootInode, "f") }
        expectErrno(EEXIST) { try fs.symlink(rootInode, "f", to: "x") }
        expectErrno(ENOTDIR) { try fs.touch(file, "x") }
        expectErrno(ENOTDIR) { try fs.find(file, "x") }
        expectErrno(ENOTDIR) { try fs.find(file, "..") }
        // A file handle is looked up so.
        #expect(try fs.find(file, ".").inode == file)
        for nobody in [99, 0, .max] as [InodeNumber] { expectErrno(ENOENT) { try fs.find(nobody, ".") } }
        expectErrno(ENOTDIR) { try fs.list(file) }
        expectErrno(ENOENT) { try fs.touch(99, "x") }
        expectErrno(ENOENT) { try fs.find(99, "x") }
        expectErrno(ENOENT) { try fs.find(rootInode, "missing") }
        expectErrno(ENOENT) { try fs.getAttributes(99) }
        expectErrno(ENOENT) { try fs.symlink(rootInode, "s", to: "") }
        expectErrno(ENAMETOOLONG) { try fs.symlink(rootInode, "s", to: String(repeating: "t", count: 4096)) }
        expectErrno(EINVAL) { try fs.mknod(rootInode, "n", mode: S_IFDIR | 0o755) }
        expectErrno(EINVAL) { try fs.mknod(rootInode, "n", mode: 0o030644) }
        try expectSound()
    }

    @Test func openWithoutExclusiveFindsWhatIsThere() throws {
        let file = try fs.touch(rootInode, "f")
        #expect(try fs.touch(rootInode, "f", exclusive: false).inode == file.inode)
        try fs.mkdir(rootInode, "d")
        expectErrno(EISDIR) { try fs.touch(rootInode, "d", exclusive: false) }
    }

    @Test func everyTypeOfNodeKeepsItsModeAndDevice() throws {
        for (name, type) in [
            ("reg", S_IFREG), ("fifo", S_IFIFO), ("sock", S_IFSOCK), ("chr", S_IFCHR), ("blk", S_IFBLK),
        ] {
            let node = try fs.mknod(rootInode, name, mode: type | 0o4640, rdev: 0x0103)
            #expect(node.mode == type | 0o4640)
            #expect(node.rdev == (type == S_IFCHR || type == S_IFBLK ? 0x0103 : 0))
            #expect(node.linkCount == 1 && node.uid == 1000 && node.gid == 100)
            #expect(try fs.find(rootInode, name) == node)
        }
        #expect(try fs.mknod(rootInode, "plain", mode: 0o600).mode == S_IFREG | 0o600)
        let types = try fs.list(rootInode).map { ($0.name, $0.type) }
        #expect(types.first { $0.0 == "fifo" }?.1 == .pipe)
        #expect(types.first { $0.0 == "sock" }?.1 == .socket)
        try expectSound()
    }

    @Test func symbolicLinksKeepTheirTarget() throws {
        let target = String(repeating: "t", count: 4095)
        let link = try fs.symlink(rootInode, "s", to: target)
        #expect(link.mode == S_IFLNK | 0o777)
        #expect(link.size == 4095)
        #expect(try fs.readSymbolicLink(link.inode) == [UInt8](target.utf8))
        expectErrno(EINVAL) { try fs.readSymbolicLink(rootInode) }
        expectErrno(ENOENT) { try fs.readSymbolicLink(99) }
        expectErrno(EINVAL) { try fs.resize(link.inode, 0) }
        try fs.remove(rootInode, "s")
        try expectSound()
    }

    @Test func hardLinksShareAFile() throws {
        let file = try fs.touch(rootInode, "a").inode
        let directory = try fs.mkdir(rootInode, "d").inode
        #expect(try fs.hardLink(file, directory, "b").linkCount == 2)
        try fs.put(file, 0, [1, 2, 3])
        #expect(try fs.get(fs.find(directory, "b").inode) == [1, 2, 3])
        expectErrno(EEXIST) { try fs.hardLink(file, directory, "b") }
        expectErrno(EPERM) { try fs.hardLink(directory, rootInode, "loop") }
        expectErrno(ENOENT) { try fs.hardLink(99, rootInode, "x") }
        expectErrno(ENOTDIR) { try fs.hardLink(file, file, "x") }
        try fs.remove(rootInode, "a")
        #expect(try fs.getAttributes(file).linkCount == 1)
        #expect(try fs.get(file) == [1, 2, 3])
        try fs.remove(directory, "b")
        expectErrno(ENOENT) { try fs.getAttributes(file) }
        try expectSound()
    }

    @Test func tooManyLinksAreRefused() throws {
        var options = FileSystem.Options()
        options.maximumLinks = 4
        let fs = try FileSystem(MemoryStore(), options: options)
        let file = try fs.touch(rootInode, "a").inode
        for index in 0..<3 { try fs.hardLink(file, rootInode, "l\(index)") }
        expectErrno(EMLINK) { try fs.hardLink(file, rootInode, "l3") }
        let one = try fs.mkdir(rootInode, "d0").inode
        try fs.mkdir(rootInode, "d1")
        expectErrno(EMLINK) { try fs.mkdir(rootInode, "d2") }
        try fs.mkdir(one, "sub")
        expectErrno(EMLINK) { try fs.move(one, "sub", rootInode, "sub") }
        #expect(try fs.check() == [])
    }

    @Test func unlinkAndRmdirMindTheType() throws {
        try fs.touch(rootInode, "f")
        let directory = try fs.mkdir(rootInode, "d").inode
        try fs.touch(directory, "x")
        expectErrno(EISDIR) { try fs.remove(rootInode, "d") }
        expectErrno(ENOTDIR) { try fs.rmdir(rootInode, "f") }
        expectErrno(ENOTEMPTY) { try fs.rmdir(rootInode, "d") }
        expectErrno(ENOENT) { try fs.remove(rootInode, "missing") }
        expectErrno(ENOENT) { try fs.rmdir(rootInode, "missing") }
        expectErrno(EINVAL) { try fs.rmdir(rootInode, ".") }
        expectErrno(ENOTEMPTY) { try fs.rmdir(directory, "..") }
        try fs.remove(directory, "x")
        #expect(try fs.getAttributes(rootInode).linkCount == 3)
        try fs.rmdir(rootInode, "d")
        #expect(try fs.getAttributes(rootInode).linkCount == 2)
        try expectSound()
    }

    @Test func setGroupIDDirectoriesHandOnTheirGroup() throws {
        let directory = try fs.mkdir(rootInode, "d", permissions: 0o2775, owner: Owner(uid: 1, gid: 50)).inode
        let file = try fs.touch(directory, "f")
        #expect(file.gid == 50 && file.uid == alice.uid && file.mode & S_ISGID == 0)
        let sub = try fs.mkdir(directory, "sub")
        #expect(sub.gid == 50 && sub.mode & S_ISGID != 0)
        #expect(try fs.touch(rootInode, "g").gid == alice.gid)
    }

    @Test func inodeNumbersAreNeverReused() throws {
        let store = MemoryStore()
        var seen: Set<InodeNumber> = [rootInode]
        for mount in 0..<5 {
            let fs = try FileSystem(store)
            for index in 0..<20 {
                let number = try fs.touch(rootInode, "f\(index)").inode
                #expect(seen.insert(number).inserted)
                try fs.remove(rootInode, "f\(index)")
            }
            // Every other mount ends without goodbye.
            if mount % 2 == 0 { try fs.close() }
        }
    }

    @Test func aStoreIsOpenedAsItWasMade() throws {
        let store = MemoryStore()
        var options = FileSystem.Options()
        options.formatIfEmpty = false
        expectErrno(ENOENT) { try FileSystem(store, options: options) }
        options.formatIfEmpty = true
        options.blockSize = 5000
        expectErrno(EINVAL) { try FileSystem(store, options: options) }
        options.blockSize = 16384
        options.rootPermissions = 0o1777
        options.rootOwner = alice
        #expect(try FileSystem(store, options: options).blockSize == 16384)
        let again = try FileSystem(store)
        #expect(again.blockSize == 16384)
        #expect(try again.getAttributes(rootInode).mode == S_IFDIR | 0o1777)
        #expect(try again.getAttributes(rootInode).uid == 1000)
    }

    @Test func engineErrorsKeepTheirNumberAndChangeNothing() throws {
        let file = try fs.touch(rootInode, "f").inode
        try fs.put(file, 0, pattern(100))
        let before = store.rows
        store.failWrites(.io(operation: "write", path: "sst/1", code: ENOSPC))
        expectErrno(ENOSPC) { try fs.touch(rootInode, "g") }
        expectErrno(ENOSPC) { try fs.put(file, 0, [9]) }
        expectErrno(ENOSPC) { try fs.remove(rootInode, "f") }
        expectErrno(ENOSPC) { try fs.move(rootInode, "f", rootInode, "h") }
        expectErrno(ENOSPC) { try fs.resize(file, 1) }
        expectErrno(ENOSPC) { try fs.hardLink(file, rootInode, "h") }
        store.failWrites(nil)
        #expect(store.rows.keys == before.keys && store.rows.values == before.values)
        #expect(try fs.getAttributes(file).size == 100)
        #expect(try fs.names(rootInode) == ["f"])
        try fs.touch(rootInode, "g")
        try expectSound()
    }
}
