import Glibc
import O3LSM
import Testing

@testable import O3FileSystem

@Suite struct DataTests {
    let store = MemoryStore()
    let fs: FileSystem
    let file: InodeNumber

    init() throws {
        fs = try FileSystem(store)
        file = try fs.touch(rootInode, "f").inode
    }

    private var blocks: UInt64 { get throws { try fs.getAttributes(file).blocks512 / 8 } }

    @Test func partialWritesKeepTheRest() throws {
        try fs.put(file, 0, pattern(10_000, 1))
        try fs.put(file, 4000, pattern(200, 2))
        var expected = pattern(10_000, 1)
        expected.replaceSubrange(4000..<4200, with: pattern(200, 2))
        #expect(try fs.get(file) == expected)
        #expect(try blocks == 3)
        #expect(try fs.get(file, 4095, 2) == [UInt8](expected[4095..<4097]))
        #expect(try fs.get(file, 9_999, 100) == [expected[9_999]])
        #expect(try fs.get(file, 10_000) == [])
        #expect(try fs.get(file, 1 << 50) == [])
        #expect(try fs.check() == [])
    }

    @Test func gapsReadAsZeros() throws {
        try fs.put(file, 100, [7])
        try fs.put(file, 100_000, [8])
        var expected = [UInt8](repeating: 0, count: 100_001)
        expected[100] = 7
        expected[100_000] = 8
        #expect(try fs.get(file) == expected)
        #expect(try blocks == 2)
        #expect(try fs.check() == [])
    }

    @Test func zeroBlocksAreHoles() throws {
        try fs.put(file, 0, [UInt8](repeating: 0, count: 8192))
        #expect(try blocks == 0)
        #expect(try fs.getAttributes(file).size == 8192)
        try fs.put(file, 0, pattern(40_960))
        #expect(try blocks == 10)
        try fs.put(file, 4096, [UInt8](repeating: 0, count: 28_672))
        #expect(try blocks == 3)
        #expect(try fs.get(file, 4096, 28_672) == [UInt8](repeating: 0, count: 28_672))
        // Only part of a block turns to zeros, and then all of it.
        try fs.put(file, 0, [UInt8](repeating: 0, count: 4095))
        #expect(try blocks == 3)
        try fs.put(file, 4095, [0])
        #expect(try blocks == 2)
        // A sparse file knows which blocks come back.
        try fs.put(file, 0, pattern(40_960, 3))
        #expect(try blocks == 10)
        #expect(try fs.get(file) == pattern(40_960, 3))
        #expect(try fs.check() == [])
    }

    @Test func truncationForgetsWhatItCuts() throws {
        try fs.put(file, 0, pattern(10_000))
        try fs.resize(file, 5000)
        try fs.resize(file, 10_000)
        #expect(try fs.get(file) == [UInt8](pattern(10_000)[..<5000]) + [UInt8](repeating: 0, count: 5000))
        #expect(try blocks == 2)
        try fs.resize(file, 4096)
        #expect(try blocks == 1)
        try fs.resize(file, 0)
        #expect(try blocks == 0)
        #expect(try fs.get(file) == [])
        // Extending over the short last block, then writing beyond.
        try fs.put(file, 0, [1, 2, 3])
        try fs.put(file, 6, [4])
        #expect(try fs.get(file) == [1, 2, 3, 0, 0, 0, 4])
        #expect(try fs.check() == [])
        expectErrno(EFBIG) { try fs.resize(file, 1 << 63) }
        expectErrno(EISDIR) { try fs.resize(rootInode, 0) }
    }

    @Test(arguments: [1, 63, 64, 65, 200]) func largeTruncations(_ kept: Int) throws {
        let data = pattern(300 * 4096)
        try fs.put(file, 0, data)
        let before = store.operationCount
        try fs.resize(file, UInt64(kept * 4096 + 10))
        // Cut one by one, or by one range tombstone; and the inode, and the partial block.
        let gone = 300 - kept - 1
        #expect(store.operationCount - before == (gone <= 64 ? gone : 1) + 2)
        #expect(try fs.get(file) == [UInt8](data[..<(kept * 4096 + 10)]))
        #expect(try blocks == UInt64(kept + 1))
        #expect(try fs.check() == [])
    }

    @Test func sparseTruncationsCountOrEstimate() throws {
        // Every other block of a large file.
        for block in 0..<6000 { try fs.put(file, UInt64(block * 2 * 4096), [1]) }
        #expect(try blocks == 6000)
        try fs.resize(file, 10_000 * 4096)
        #expect(try blocks == 5000)
        #expect(try fs.check() == [])
        // More than 4096 rows go: estimated from here on, and still sound.
        try fs.resize(file, 1000 * 4096)
        #expect(try blocks == 500)
        #expect(try fs.check() == [])
        try fs.put(file, 4096, [1])
        try fs.put(file, 0, [UInt8](repeating: 0, count: 4096))
        #expect(try fs.get(file, 0, 4097) == [UInt8](repeating: 0, count: 4096) + [1])
        // Exact again once nothing is left.
        try fs.resize(file, 0)
        #expect(try blocks == 0)
        try fs.put(file, 0, pattern(8192))
        #expect(try blocks == 2)
        #expect(try fs.check() == [])
    }

    /// What an estimate says too much must not outlast the blocks it is about.
    @Test func aCutFileHasNoMoreBlocksThanItsSizeHolds() throws {
        var options = FileSystem.Options()
        options.maximumBytes = .to(1 << 30)
        let fs = try FileSystem(store, options: options)
        func expectReadable(_ size: UInt64, atMost most: UInt64) throws {
            let found = try FileSystem(store).getAttributes(file)
            #expect(found.size == size && found.blocks512 / 8 <= most)
            let counted = try Usage(fs.usage.limits, blockSize: 4096, store)
            #expect(fs.usage.blockSpace?.free == counted.blockSpace?.free)
            #expect(try fs.check() == [])
        }
        // A hole and more rows than are counted; what is left of them is taken for evenly spread.
        for part in 0..<5 as Range<UInt64> { try fs.put(file, (5 + part) * 4 << 20, pattern(4 << 20)) }
        try fs.resize(file, 256 << 10)
        try expectReadable(256 << 10, atMost: 64)
        try fs.resize(file, 1)
        try expectReadable(1, atMost: 1)
        try fs.put(file, 0, [1])
        try expectReadable(1, atMost: 1)
        try fs.resize(file, 0)
        try expectReadable(0, atMost: 0)
        #expect(fs.usage.blockSpace?.free == fs.usage.blockSpace?.total)
        try fs.put(file, 0, pattern(8192))
        #expect(try fs.getAttributes(file).blocks512 == 16)
        try expectReadable(8192, atMost: 2)
    }

    /// As above, in one cut less: the estimate of a file that goes altogether.
    @Test func aFileThatIsEmptiedHasNoBlocks() throws {
        for part in 0..<5 as Range<UInt64> { try fs.put(file, (5 + part) * 4 << 20, pattern(4 << 20)) }
        try fs.resize(file, 256 << 10)
        try fs.resize(file, 0)
        #expect(try FileSystem(store).getAttributes(file).blocks512 == 0)
        try fs.remove(rootInode, "f")
        #expect(try fs.check() == [])
    }

    @Test func oneCopyTellsItsLengthIn32Bits() throws {
        let other = try fs.touch(rootInode, "g").inode
        try fs.resize(file, 5 << 30)
        try fs.put(file, (5 << 30) - 1, [7])
        var copied: UInt64 = 0
        while copied < 5 << 30 {
            let step = try fs.copyRange(from: file, at: copied, to: other, at: copied, length: (5 << 30) - copied)
            try #require(step > 0 && step <= 1 << 30)
            copied += step
        }
        #expect(try fs.getAttributes(other).size == 5 << 30)
        #expect(try fs.get(other, (5 << 30) - 2, 2) == [0, 7])
        #expect(try fs.check() == [])
    }

    @Test func deletingALargeFileIsConstantWork() throws {
        try fs.put(file, 0, pattern(1 << 20))
        try fs.setAttribute(file, "user.a", [1])
        let before = store.operationCount
        try fs.remove(rootInode, "f")
        // dentry, inode, parent, data range, xattr range.
        #expect(store.operationCount - before == 5)
        #expect(store.rows.keys.count == 2)  // superblock and root
        #expect(try fs.check() == [])
    }

    @Test func allocationAsInFallocate() throws {
        try fs.put(file, 0, pattern(20_000))
        try fs.allocate(file, offset: 30_000, length: 10, mode: .keepSize)
        #expect(try fs.getAttributes(file).size == 20_000)
        try fs.allocate(file, offset: 20_000, length: 10_000, mode: .extend)
        #expect(try fs.getAttributes(file).size == 30_000)
        var expected = pattern(20_000) + [UInt8](repeating: 0, count: 10_000)
        #expect(try fs.get(file) == expected)

        func punch(_ range: Range<Int>, _ mode: AllocationMode) throws {
            try fs.allocate(file, offset: UInt64(range.lowerBound), length: UInt64(range.count), mode: mode)
            if mode == .zeroRange, range.upperBound > expected.count {
                expected += [UInt8](repeating: 0, count: range.upperBound - expected.count)
            }
            for index in range where index < expected.count { expected[index] = 0 }
            #expect(try fs.get(file) == expected)
            #expect(try fs.check() == [])
        }
        try punch(100..<200, .punchHole)
        try punch(4000..<4100, .punchHole)
        try punch(4096..<8192, .punchHole)
        try punch(8000..<17_000, .punchHole)
        try punch(19_000..<50_000, .punchHole)
        try punch(0..<10, .zeroRangeKeepSize)
        try punch(29_000..<35_000, .zeroRange)
        try punch(0..<4096, .zeroRangeKeepSize)
        expectErrno(EINVAL) { try fs.allocate(file, offset: 0, length: 0, mode: .extend) }
        expectErrno(EFBIG) { try fs.allocate(file, offset: 1 << 62, length: 1 << 62, mode: .extend) }
        expectErrno(ENOSPC) { try fs.allocate(file, offset: 0, length: 1 << 31, mode: .extend) }
        expectErrno(EISDIR) { try fs.allocate(rootInode, offset: 0, length: 1, mode: .extend) }
        let pipe = try fs.mknod(rootInode, "p", mode: S_IFIFO | 0o600).inode
        expectErrno(ENODEV) { try fs.allocate(pipe, offset: 0, length: 1, mode: .extend) }
    }

    @Test func seekingFindsDataAndHoles() throws {
        try fs.put(file, 8192, pattern(4096))
        try fs.resize(file, 20_000)
        #expect(try fs.seek(file, from: 0, to: .data) == 8192)
        #expect(try fs.seek(file, from: 9000, to: .data) == 9000)
        #expect(try fs.seek(file, from: 0, to: .hole) == 0)
        #expect(try fs.seek(file, from: 9000, to: .hole) == 12_288)
        expectErrno(ENXIO) { try fs.seek(file, from: 12_288, to: .data) }
        expectErrno(ENXIO) { try fs.seek(file, from: 20_000, to: .hole) }
        try fs.put(file, 12_288, pattern(20_000 - 12_288))
        #expect(try fs.seek(file, from: 9000, to: .hole) == 20_000)
    }

    @Test func onlyRegularFilesHaveData() throws {
        let pipe = try fs.mknod(rootInode, "p", mode: S_IFIFO | 0o600).inode
        expectErrno(EISDIR) { try fs.get(rootInode) }
        expectErrno(EISDIR) { try fs.put(rootInode, 0, [1]) }
        expectErrno(EINVAL) { try fs.get(pipe) }
        expectErrno(EINVAL) { try fs.put(pipe, 0, [1]) }
        expectErrno(ENOENT) { try fs.get(99) }
        expectErrno(EFBIG) { try fs.put(file, UInt64(Int64.max), [1]) }
        expectErrno(EFBIG) { try fs.put(file, .max, [1]) }
        try fs.put(file, UInt64(Int64.max) - 1, [1])
        #expect(try fs.getAttributes(file).size == UInt64(Int64.max))
        try fs.remove(rootInode, "f")
        #expect(try fs.check() == [])
    }

    @Test func damagedRowsAreEIOAndNamed() throws {
        try fs.put(file, 0, pattern(4096))
        var rows = store.rows
        rows.put(RowKey.data(file, block: 0).bytes, pattern(5000))
        store.rows = rows
        expectErrno(EIO) { try fs.get(file) }
        #expect(
            throws: FileSystemError.corruptRow(
                row: "data \(file)/block 0",
                problem: "it has 5000 bytes of at most 4096"
            )
        ) { try fs.get(file) }
        rows.put(RowKey.inode(file).bytes, [1, 2, 3])
        store.rows = rows
        let reopened = try FileSystem(store)
        expectErrno(EIO) { try reopened.getAttributes(file) }
        expectErrno(EIO) { try reopened.find(rootInode, "f") }
    }
}

@Suite struct AttributeTests {
    @Test func timesFollowTheRules() throws {
        let clock = ManualClock()
        var options = FileSystem.Options()
        options.clock = { clock.time }
        let fs = try FileSystem(MemoryStore(), options: options)
        let directory = try fs.mkdir(rootInode, "d").inode
        clock.set(10)
        let file = try fs.touch(directory, "f").inode
        func times(_ inode: InodeNumber) throws -> [Int64] {
            let a = try fs.getAttributes(inode)
            return [a.accessTime.seconds, a.modificationTime.seconds, a.changeTime.seconds, a.birthTime.seconds]
        }
        #expect(try times(file) == [10, 10, 10, 10])
        #expect(try times(directory) == [0, 10, 10, 0])
        clock.set(20)
        try fs.put(file, 0, [1])
        _ = try fs.get(file)
        #expect(try times(file) == [10, 20, 20, 10])
        #expect(try times(directory) == [0, 10, 10, 0])
        clock.set(30)
        try fs.hardLink(file, directory, "g")
        #expect(try times(file) == [10, 20, 30, 10])
        #expect(try times(directory) == [0, 30, 30, 0])
        clock.set(40)
        try fs.move(directory, "g", rootInode, "h")
        #expect(try times(file) == [10, 20, 40, 10])
        #expect(try times(directory) == [0, 40, 40, 0])
        #expect(try times(rootInode) == [0, 40, 40, 0])
        clock.set(50)
        try fs.remove(rootInode, "h")
        #expect(try times(file) == [10, 20, 50, 10])
        clock.set(60)
        try fs.resize(file, 100)
        #expect(try times(file) == [10, 60, 60, 10])
        clock.set(70)
        var changes = AttributeChanges()
        changes.mode = 0o600
        _ = try fs.setAttributes(file, changes)
        #expect(try times(file) == [10, 60, 70, 10])
        changes = AttributeChanges()
        changes.accessTime = .to(Timestamp(seconds: -7, nanoseconds: 3))
        changes.modificationTime = .now
        clock.set(80)
        #expect(try fs.setAttributes(file, changes).accessTime == Timestamp(seconds: -7, nanoseconds: 3))
        #expect(try times(file) == [-7, 80, 80, 10])
        changes.changeTime = Timestamp(seconds: 5)
        #expect(try fs.setAttributes(file, changes).changeTime == Timestamp(seconds: 5))
        changes.accessTime = .to(Timestamp(seconds: 0, nanoseconds: 1_000_000_000))
        expectErrno(EINVAL) { try fs.setAttributes(file, changes) }
        clock.set(90)
        try fs.setAttribute(file, "user.x", [1])
        #expect(try times(file) == [-7, 80, 90, 10])
        // Nothing written, nothing changed.
        try fs.put(file, 0, [])
        #expect(try times(file) == [-7, 80, 90, 10])
    }

    @Test func privilegesGoWithTheOwnerAndTheContent() throws {
        let fs = try FileSystem(MemoryStore())
        let file = try fs.touch(rootInode, "f", permissions: 0o6755).inode
        var changes = AttributeChanges()
        changes.uid = 5
        let changed = try fs.setAttributes(file, changes)
        #expect(changed.uid == 5 && changed.gid == alice.gid && changed.mode == S_IFREG | 0o755)
        changes.mode = 0o6755
        #expect(try fs.setAttributes(file, changes).mode == S_IFREG | 0o6755)
        try withBytes(of: [1]) { (bytes) throws(FileSystemError) in
            try fs.write(file, offset: 0, bytes)
        }
        #expect(try fs.getAttributes(file).mode == S_IFREG | 0o6755)
        try withBytes(of: [1]) { (bytes) throws(FileSystemError) in
            try fs.write(file, offset: 0, bytes, clearsPrivileges: true)
        }
        #expect(try fs.getAttributes(file).mode == S_IFREG | 0o755)
        // Mandatory locking's old sign: set-group-ID without group execution stays.
        changes = AttributeChanges()
        changes.mode = 0o2644
        _ = try fs.setAttributes(file, changes)
        changes = AttributeChanges()
        changes.gid = 7
        #expect(try fs.setAttributes(file, changes).mode == S_IFREG | 0o2644)
        let directory = try fs.mkdir(rootInode, "d", permissions: 0o2755).inode
        #expect(try fs.setAttributes(directory, changes).mode == S_IFDIR | 0o2755)
    }

    @Test func extendedAttributes() throws {
        let store = MemoryStore()
        let fs = try FileSystem(store)
        let file = try fs.touch(rootInode, "f").inode
        expectErrno(ENODATA) { try fs.getAttribute(file, "user.a") }
        expectErrno(ENODATA) { try fs.setAttribute(file, "user.a", [1], .replace) }
        try fs.setAttribute(file, "user.a", [1], .create)
        expectErrno(EEXIST) { try fs.setAttribute(file, "user.a", [2], .create) }
        try fs.setAttribute(file, "user.a", [2], .replace)
        try fs.setAttribute(file, "user.b", [])
        #expect(try fs.getAttribute(file, "user.a") == [2])
        #expect(try fs.getAttribute(file, "user.b") == [])
        #expect(try fs.listExtendedAttributes(file) == [UInt8]("user.a\0user.b\0".utf8))
        #expect(try fs.listExtendedAttributes(rootInode) == [])
        let longest = String(repeating: "n", count: 255)
        try fs.setAttribute(file, longest, pattern(65_536))
        #expect(try fs.getAttribute(file, longest) == pattern(65_536))
        expectErrno(ERANGE) { try fs.setAttribute(file, longest + "n", [1]) }
        expectErrno(ERANGE) { try fs.setAttribute(file, "", [1]) }
        expectErrno(E2BIG) { try fs.setAttribute(file, "user.c", pattern(65_537)) }
        expectErrno(ENOENT) { try fs.setAttribute(99, "user.c", [1]) }
        expectErrno(ENOENT) { try fs.listExtendedAttributes(99) }
        try fs.removeAttribute(file, "user.a")
        expectErrno(ENODATA) { try fs.removeAttribute(file, "user.a") }
        #expect(try fs.check() == [])
        try fs.remove(rootInode, "f")
        #expect(store.rows.keys.count == 2)
    }
}

/// A clock that stands still until it is set.
final class ManualClock: @unchecked Sendable {
    private(set) var time = Timestamp(seconds: 0)
    func set(_ seconds: Int64) { time = Timestamp(seconds: seconds) }
}
