import CSystem
import FUSE
import Glibc
import Testing

/// Every operation of the protocol, through the system calls that cause it.
@Suite(.enabled(if: TestMount.isPossible)) struct OperationTests {
    @Test(arguments: [false, true]) func dataComesBackAsWritten(hasOpen: Bool) throws {
        let mount = try TestMount(hasOpen: hasOpen)
        let bytes = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> ($0 % 3 == 0 ? 20 : 3)) }
        try writeFile(mount["file"], bytes)
        #expect(try status(mount["file"]).st_size == 3_000_000)
        // The second reader must not be served from what the writer left in the page cache.
        try dropCache(mount["file"])
        #expect(try readFile(mount["file"]) == bytes)
        try check(truncate(mount["file"], 1000))
        #expect(try readFile(mount["file"]) == Array(bytes[..<1000]))
        try check(truncate(mount["file"], 2000))
        #expect(try readFile(mount["file"]) == bytes[..<1000] + [UInt8](repeating: 0, count: 1000))
        let calls = mount.files.calls("open")
        // Declined once for files and once for directories; asked for each otherwise.
        #expect(hasOpen ? calls >= 3 : calls <= 2)
    }

    @Test func requestsAreAsLargeAsAgreed() throws {
        let mount = try TestMount()
        let bytes = [UInt8](repeating: 7, count: 4 << 20)
        try writeFile(mount["big"], bytes)
        #expect(mount.files.state.withLock { $0.largestWrite } == 1 << 20)
        let descriptor = try check(open(mount["big"], O_RDONLY | o3_O_DIRECT))
        defer { close(descriptor) }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        #expect(read(descriptor, buffer.baseAddress, buffer.count) == 4 << 20)
        #expect(buffer.allSatisfy { $0 == 7 })
        #expect(mount.files.state.withLock { $0.largestRead } == 1 << 20)
    }

    @Test func namesAreMadeAndRemoved() throws {
        let mount = try TestMount()
        #expect(code { try check(open(mount["none"], O_RDONLY)) } == ENOENT)
        try check(mkdir(mount["dir"], 0o750))
        #expect(try status(mount["dir"]).st_mode == S_IFDIR | 0o750)
        #expect(code { try check(mkdir(mount["dir"], 0o750)) } == EEXIST)
        try writeFile(mount["dir/a"], [1, 2, 3])
        try check(link(mount["dir/a"], mount["dir/b"]))
        #expect(try status(mount["dir/a"]).st_nlink == 2)
        try check(symlink("dir/a", mount["soft"]))
        var target = [CChar](repeating: 0, count: 100)
        #expect(readlink(mount["soft"], &target, 100) == 5)
        #expect(try readFile(mount["soft"]) == [1, 2, 3])
        try check(mkfifo(mount["pipe"], 0o600))
        #expect(try status(mount["pipe"]).st_mode == S_IFIFO | 0o600)
        if geteuid() == 0 {
            try check(mknod(mount["null"], S_IFCHR | 0o600, 0x103))
            #expect(try status(mount["null"]).st_rdev == 0x103)
        }
        #expect(code { try check(rmdir(mount["dir"])) } == ENOTEMPTY)
        try check(rename(mount["dir/a"], mount["c"]))
        #expect(o3_renameat2(mount["c"], mount["dir/b"], o3_RENAME_NOREPLACE) == -EEXIST)
        try writeFile(mount["d"], [9])
        #expect(o3_renameat2(mount["c"], mount["d"], o3_RENAME_EXCHANGE) == 0)
        #expect(try readFile(mount["c"]) == [9])
        #expect(try readFile(mount["d"]) == [1, 2, 3])
        try check(unlink(mount["dir/b"]))
        try check(rmdir(mount["dir"]))
        #expect(code { try check(unlink(mount["dir"])) } == ENOENT)
    }

    @Test func attributesAreSet() throws {
        let mount = try TestMount()
        try writeFile(mount["file"], [1])
        try check(chmod(mount["file"], 0o4711))
        #expect(try status(mount["file"]).st_mode == S_IFREG | 0o4711)
        if geteuid() == 0 {
            try check(chown(mount["file"], 12, 34))
            #expect(try status(mount["file"]).st_uid == 12)
            #expect(try status(mount["file"]).st_gid == 34)
        }
        var times = [timespec(tv_sec: -5, tv_nsec: 1), timespec(tv_sec: 1 << 33, tv_nsec: 999_999_999)]
        try check(utimensat(AT_FDCWD, mount["file"], &times, 0))
        let found = try status(mount["file"])
        #expect(found.st_atim.tv_sec == -5 && found.st_atim.tv_nsec == 1)
        #expect(found.st_mtim.tv_sec == 1 << 33 && found.st_mtim.tv_nsec == 999_999_999)
        var space = statvfs()
        try check(statvfs(mount.path, &space))
        #expect(space.f_bfree == 500 && space.f_bavail == 400 && space.f_blocks == 1000 && space.f_files == 77)
    }

    @Test func directoriesAreListedWholeAndOnce() throws {
        let mount = try TestMount()
        let expected = (0..<1500).map { "entry-\($0)-" + String(repeating: "x", count: $0 % 200) }
        for name in expected { try check(mknod(mount[name], S_IFREG | 0o644, 0)) }
        #expect(try names(mount.path) == expected)
        // From the kernel's cache, and through stat of each.
        #expect(try names(mount.path) == expected)
        #expect(mount.files.calls("readdirplus") > 0)
        for name in expected.prefix(100) { #expect(try status(mount[name]).st_mode == S_IFREG | 0o644) }
        for name in expected { try check(unlink(mount[name])) }
        #expect(try names(mount.path).isEmpty)
    }

    @Test func extendedAttributes() throws {
        let mount = try TestMount()
        try writeFile(mount["file"], [1])
        let file = mount["file"]
        #expect(getxattr(file, "user.a", nil, 0) == -1 && errno == ENODATA)
        #expect(setxattr(file, "user.a", "value", 5, 0) == 0)
        #expect(setxattr(file, "user.a", "value", 5, 1) == -1 && errno == EEXIST)
        #expect(setxattr(file, "user.b", "value", 5, 2) == -1 && errno == ENODATA)
        #expect(setxattr(file, "user.b", "", 0, 0) == 0)
        var buffer = [UInt8](repeating: 0, count: 100)
        #expect(getxattr(file, "user.a", &buffer, 100) == 5)
        #expect(buffer[..<5] == Array("value".utf8)[...])
        #expect(getxattr(file, "user.a", &buffer, 4) == -1 && errno == ERANGE)
        #expect(getxattr(file, "user.b", nil, 0) == 0)
        #expect(listxattr(file, nil, 0) == 14)
        #expect(removexattr(file, "user.a") == 0)
        #expect(removexattr(file, "user.a") == -1 && errno == ENODATA)
    }

    @Test func filesAreSynchronizedAllocatedAndSearched() throws {
        let mount = try TestMount()
        try writeFile(mount["file"], [1, 1, 0, 0, 5])
        let descriptor = try check(open(mount["file"], O_RDWR))
        defer { close(descriptor) }
        try check(fsync(descriptor))
        try check(fdatasync(descriptor))
        #expect(mount.files.calls("fsync") == 1 && mount.files.calls("fdatasync") == 1)
        #expect(lseek(descriptor, 0, o3_SEEK_HOLE) == 2)
        #expect(lseek(descriptor, 2, o3_SEEK_DATA) == 4)
        #expect(lseek(descriptor, 5, o3_SEEK_DATA) == -1 && errno == ENXIO)
        #expect(o3_fallocate(descriptor, 0, 0, 100) == 0)
        #expect(try status(mount["file"]).st_size == 100)
        #expect(o3_fallocate(descriptor, o3_FALLOC_FL_KEEP_SIZE, 0, 100) == -EOPNOTSUPP)
        #expect(pwrite(descriptor, "x", 1, 1 << 31) == -1 && errno == EFBIG)
        let directory = try check(open(mount.path, O_RDONLY | O_DIRECTORY))
        defer { close(directory) }
        try check(fsync(directory))
        #expect(mount.files.calls("fsyncdir") == 1)
    }

    @Test func unlinkedFilesLiveWhileOpen() throws {
        let mount = try TestMount()
        try writeFile(mount["file"], [1, 2, 3])
        let descriptor = try check(open(mount["file"], O_RDWR))
        try check(unlink(mount["file"]))
        #expect(pwrite(descriptor, "abc", 3, 3) == 3)
        var buffer = [UInt8](repeating: 0, count: 10)
        #expect(pread(descriptor, &buffer, 10, 0) == 6)
        close(descriptor)
        for _ in 0..<200 where mount.files.state.withLock({ $0.nodes.count }) > 1 { usleep(5000) }
        #expect(mount.files.state.withLock { $0.nodes.count } == 1)
    }

    @Test func memoryMapsAreSharedWithReads() throws {
        let mount = try TestMount()
        try writeFile(mount["file"], [UInt8](repeating: 1, count: 8192))
        let descriptor = try check(open(mount["file"], O_RDWR))
        defer { close(descriptor) }
        let mapped = mmap(nil, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
        let memory = try #require(mapped == MAP_FAILED ? nil : mapped)
        memory.storeBytes(of: 42, toByteOffset: 5000, as: UInt8.self)
        try check(msync(memory, 8192, MS_SYNC))
        #expect(try readFile(mount["file"])[5000] == 42)
        #expect(mount.files.state.withLock { $0.nodes[2]?.data[5000] } == 42)
        munmap(memory, 8192)
    }

    @Test(arguments: [false, true]) func setUserIDIsDroppedByOthersWrites(writebackCache: Bool) throws {
        guard geteuid() == 0 else { return }
        let mount = try TestMount {
            $0.clearsPrivilegesWhenTold = true
            $0.writebackCache = writebackCache
        }
        try check(chmod(mount.path, 0o777))
        try writeFile(mount["file"], [1])
        try check(chmod(mount["file"], 0o4777))
        try asUser(1000) {
            let descriptor = try check(open(mount["file"], O_WRONLY))
            defer { close(descriptor) }
            try check(pwrite(descriptor, "x", 1, 0))
        }
        #expect(try status(mount["file"]).st_mode & 0o7777 == 0o777)
        try check(chmod(mount["file"], 0o4777))
        try asUser(1000) { try check(truncate(mount["file"], 0)) }
        #expect(try status(mount["file"]).st_mode & 0o7777 == 0o777)
    }

    /// Runs `body` with the file access of another user.
    private func asUser(_ uid: uid_t, _ body: () throws -> Void) throws {
        try onOwnThread {
            let before = o3_setfsuid(uid)
            defer { _ = o3_setfsuid(UInt32(bitPattern: before)) }
            try body()
        }
    }
}
