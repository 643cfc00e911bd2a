import FUSE
import Glibc
import Testing

/// How mounts begin and end.
@Suite(.enabled(if: TestMount.isPossible)) struct SessionTests {
    @Test func aMountBeginsAndEndsOnce() throws {
        let mount = try TestMount()
        let entry = try #require(MountTable.entry(at: mount.session.mountPoint))
        #expect(entry.type == "fuse.test")
        #expect(entry.source == "memory")
        mount.end()
        #expect(MountTable.entry(at: mount.session.mountPoint) == nil)
        #expect(mount.files.state.withLock { $0.started == 1 && $0.stopped == 1 })
    }

    @Test func unmountingFromOutsideEndsTheSession() throws {
        let mount = try TestMount()
        try writeFile(mount["file"], [1])
        #expect(MountTable.unmount(mount.path) == nil)
        mount.waitForEnd()
        #expect(mount.files.state.withLock { $0.stopped } == 1)
    }

    @Test func aBusyMountIsCutOff() throws {
        let mount = try TestMount()
        try writeFile(mount["file"], [1, 2, 3])
        let descriptor = try check(open(mount["file"], O_RDWR))
        defer { close(descriptor) }
        #expect(MountTable.unmount(mount.path) == Errno(EBUSY))
        mount.end()
        #expect(MountTable.entry(at: mount.session.mountPoint) == nil)
        var byte: UInt8 = 0
        #expect(pwrite(descriptor, &byte, 1, 0) == -1)
    }

    @Test func aDetachedMountServesItsLastUser() throws {
        let mount = try TestMount()
        try writeFile(mount["file"], [1, 2, 3])
        let descriptor = try check(open(mount["file"], O_RDWR))
        #expect(umount2(mount.path, 2) == 0)
        var buffer = [UInt8](repeating: 0, count: 3)
        #expect(pread(descriptor, &buffer, 3, 0) == 3)
        // Now without a mount in the tree, but with a user: the end must still come.
        mount.end()
        close(descriptor)
    }

    /// Threads end one after another, and are joined, while those that still serve are asked to stop.
    @Test func threadsThatHaveEndedAreLeftAlone() throws {
        let clients = 12
        let mount = try TestMount { $0.threads = 16 }
        let descriptors = try (0..<clients).map { try check(open(mount["file-\($0)"], O_RDWR | O_CREAT, 0o644)) }
        defer { for descriptor in descriptors { close(descriptor) } }
        mount.files.delay(of: "fsync", microseconds: 500_000)
        try inParallel(clients + 2) { client in
            switch client {
            case 0..<clients:
                usleep(UInt32(client) * 25_000)
                fsync(descriptors[client])
            case clients: mount.waitForEnd()
            default:
                usleep(350_000)
                try check(umount2(mount.path, Int32(MNT_DETACH)))
                mount.session.unmount()
            }
        }
    }

    @Test func mountingFailsInOneSentence() {
        let error = #expect(throws: SessionError.self) {
            _ = try Session(MemoryFileSystem(), mountPoint: "/nonexistent/mount")
        }
        #expect(error?.description == "cannot use /nonexistent/mount as a mount point: No such file or directory")
        let unknown = #expect(throws: SessionError.self) {
            var options = SessionOptions()
            options.mountOptions = ["no_such_option"]
            _ = try Session(MemoryFileSystem(), mountPoint: "/tmp", options)
        }
        #expect(unknown?.description.contains("no_such_option") == true)
    }

    @Test(arguments: [1, 8]) func manyThreadsAtOnce(threads: Int) throws {
        let mount = try TestMount { $0.threads = threads }
        try inParallel(8) { client in
            for round in 0..<150 {
                let path = mount["file-\(client)-\(round % 7)"]
                let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: client &* 31 &+ round), count: 5000 + round)
                try writeFile(path, bytes)
                guard try readFile(path) == bytes else { throw Errno(EIO) }
                if round % 3 == 0 { try check(unlink(path)) }
            }
        }
    }

    @Test func aRequestThatBlocksDoesNotHoldUpOthers() throws {
        let mount = try TestMount { $0.threads = 4 }
        for name in ["a", "b", "slow"] { try writeFile(mount[name], [1]) }
        mount.files.delay(of: "fsync", microseconds: 300_000)
        let clock = ContinuousClock()
        var longest = Duration.zero
        try inParallel(4) { client in
            if client > 0 {
                let descriptor = try check(open(mount["slow"], O_RDWR))
                defer { close(descriptor) }
                try check(fsync(descriptor))
            } else {
                usleep(50_000)
                for round in 0..<50 {
                    let start = clock.now
                    try check(chmod(mount["a"], UInt32(0o600 + round % 8)))
                    longest = max(longest, clock.now - start)
                }
            }
        }
        #expect(longest < .milliseconds(150), "three blocked requests held up a fourth for \(longest)")
    }

    @Test func theWritebackCacheLosesNothingAtUnmount() throws {
        let mount = try TestMount { $0.writebackCache = true }
        let bytes = (0..<2_000_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        try writeFile(mount["file"], bytes)
        #expect(MountTable.unmount(mount.path) == nil)
        mount.waitForEnd()
        let stored = mount.files.state.withLock { state in state.nodes.values.first { !$0.data.isEmpty }?.data }
        #expect(stored == bytes)
    }
}
