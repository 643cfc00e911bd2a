import Testing

@testable import O3FileSystem
@testable import O3LSM

/// When `noteAccess` sets access times.
@Suite struct AccessTimeTests {
    private static func files(_ policy: AccessTimePolicy, directories: Bool = true, _ clock: ManualClock) throws -> FileSystem {
        var options = FileSystem.Options()
        options.clock = { clock.time }
        options.accessTimes = policy
        options.directoryAccessTimes = directories
        return try FileSystem(MemoryStore(), options: options)
    }

    private static func accessTime(_ files: FileSystem, _ inode: InodeNumber) throws -> Int64 {
        try files.getAttributes(inode).accessTime.seconds
    }

    @Test func relativeIsAfterAChangeOrADay() throws {
        let clock = ManualClock()
        clock.set(1000)
        let files = try Self.files(.relative, clock)
        let file = try files.touch(rootInode, "file").inode
        clock.set(1010)
        files.noteAccess(file)
        #expect(try Self.accessTime(files, file) == 1010)
        clock.set(1020)
        files.noteAccess(file)
        #expect(try Self.accessTime(files, file) == 1010)
        // Neither modification nor change time moves with it.
        #expect(try files.getAttributes(file).changeTime.seconds == 1000)
        var mode = AttributeChanges()
        mode.mode = 0o600
        clock.set(1030)
        _ = try files.setAttributes(file, mode)
        clock.set(1040)
        files.noteAccess(file)
        #expect(try Self.accessTime(files, file) == 1040)
        clock.set(1040 + 86_399)
        files.noteAccess(file)
        #expect(try Self.accessTime(files, file) == 1040)
        clock.set(1040 + 86_400)
        files.noteAccess(file)
        #expect(try Self.accessTime(files, file) == 1040 + 86_400)
    }

    @Test func alwaysAndNeverAreWhatTheySay() throws {
        let clock = ManualClock()
        for (policy, directories) in [(AccessTimePolicy.always, true), (.always, false), (.never, true)] {
            clock.set(1000)
            let files = try Self.files(policy, directories: directories, clock)
            let file = try files.touch(rootInode, "file").inode
            for time in [1010, 1020] as [Int64] {
                clock.set(time)
                files.noteAccess(file)
                files.noteAccess(rootInode)
                #expect(try Self.accessTime(files, file) == (policy == .always ? time : 1000))
                #expect(try Self.accessTime(files, rootInode) == (policy == .always && directories ? time : 1000))
            }
            // A file that is gone is no trouble.
            files.noteAccess(12_345)
        }
    }

    @Test func whatCannotBeSetAtOnceStays() throws {
        let clock = ManualClock()
        clock.set(1000)
        let store = MemoryStore()
        var options = FileSystem.Options()
        options.clock = { clock.time }
        let files = try FileSystem(store, options: options)
        let file = try files.touch(rootInode, "file").inode
        clock.set(1010)
        store.isFull = true
        files.noteAccess(file)
        #expect(try Self.accessTime(files, file) == 1000)
        store.isFull = false
        store.failWrites(.closed)
        files.noteAccess(file)
        #expect(try Self.accessTime(files, file) == 1000)
        store.failWrites(nil)
        let stripe = files.locks.stripe(of: file)
        files.locks.lock(stripe)
        let other = try BackgroundThread("test-reader") { files.noteAccess(file) }
        other.join()
        files.locks.unlock(stripe)
        #expect(try Self.accessTime(files, file) == 1000)
        files.noteAccess(file)
        #expect(try Self.accessTime(files, file) == 1010)
    }

    @Test func timesOutOfThisWorldAreNoTrouble() throws {
        let clock = ManualClock()
        clock.set(1000)
        let files = try Self.files(.relative, clock)
        let file = try files.touch(rootInode, "file").inode
        for seconds in [Int64.min, .max, 0, 2000] {
            var changes = AttributeChanges()
            changes.accessTime = .to(Timestamp(seconds: seconds))
            changes.modificationTime = .to(Timestamp(seconds: .max))
            _ = try files.setAttributes(file, changes)
            clock.set(1000)
            files.noteAccess(file)
            #expect(try Self.accessTime(files, file) == 1000)
        }
    }
}
