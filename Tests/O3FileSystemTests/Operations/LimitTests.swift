import Glibc
import O3LSM
import Testing

@testable import O3FileSystem

/// Limits of bytes and inodes: never exceeded, counted exactly, kept with the store.
@Suite struct LimitTests {
    private func open(_ store: MemoryStore, blocks: UInt64? = nil, inodes: UInt64? = nil) throws -> FileSystem {
        var options = FileSystem.Options()
        options.maximumBytes = blocks.map { .to($0 * 4096) }
        options.maximumInodes = inodes.map { .to($0) }
        return try FileSystem(store, options: options)
    }

    @Test func whatIsTooMuchIsRefusedAndDoesNothing() throws {
        let fs = try open(MemoryStore(), blocks: 4, inodes: 4)
        let file = try fs.touch(rootInode, "file").inode
        try fs.put(file, 0, pattern(3 * 4096))
        expectErrno(ENOSPC) { try fs.put(file, 12288, pattern(4097)) }
        #expect(try fs.getAttributes(file).size == 12288)
        #expect(try fs.space().freeBlocks == 1)
        // What is there may be written again; holes cost nothing.
        try fs.put(file, 0, pattern(3 * 4096, 7))
        try fs.resize(file, 1 << 40)
        try fs.symlink(rootInode, "link", to: "file")
        #expect(try fs.space().freeBlocks == 0)
        expectErrno(ENOSPC) { try fs.symlink(rootInode, "other", to: "file") }
        expectErrno(ENOENT) { try fs.find(rootInode, "other") }
        // Inodes: the root, the file, the link, one more.
        #expect(try fs.space().freeInodes == 1)
        try fs.mkdir(rootInode, "dir")
        for name in ["a", "b"] { expectErrno(ENOSPC) { try fs.touch(rootInode, name) } }
        expectErrno(ENOSPC) { try fs.createUnnamed(in: rootInode, permissions: 0o600, owner: alice) }
        try fs.hardLink(file, rootInode, "hard")
        // What is freed can be used.
        try fs.remove(rootInode, "link")
        try fs.resize(file, 4096)
        #expect(try fs.space().freeBlocks == 3)
        try fs.touch(rootInode, "a")
        #expect(try fs.space().freeInodes == 0)
        #expect(try fs.space().totalInodes == 4)
        #expect(try fs.space().totalBlocks == 4)
        #expect(try fs.check() == [])
    }

    /// As much as fits, whatever the offset, the length and what is there already.
    @Test(arguments: 0..<40) func aWriteWritesWhatFits(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let limit = UInt64.random(in: 1...40, using: &random)
        let fs = try open(MemoryStore(), blocks: limit)
        let file = try fs.touch(rootInode, "file").inode
        let offset = UInt64.random(in: 0...20_000, using: &random)
        let wanted = pattern(Int.random(in: 1...200_000, using: &random), 3).map { $0 | 1 }
        let written = try wanted.withUnsafeBytes { try fs.writeFitting(file, offset: offset, $0) }
        let room = (offset / 4096 + limit) * 4096 - offset
        #expect(UInt64(written) == min(room, UInt64(wanted.count)))
        #expect(try fs.getAttributes(file).size == offset + UInt64(written))
        #expect(Array(try fs.get(file).dropFirst(Int(offset))) == Array(wanted[..<written]))
        if written < wanted.count {
            #expect(try fs.space().freeBlocks == 0)
            expectErrno(ENOSPC) {
                try wanted[written...].withUnsafeBytes { try fs.writeFitting(file, offset: offset + UInt64(written), $0) }
            }
        }
        #expect(try fs.check() == [])
    }

    /// fallocate(2) of what is there already takes no room; of the rest it does, to the block.
    @Test func onlyBlocksThatAreMissingNeedRoom() throws {
        let fs = try open(MemoryStore(), blocks: 8)
        let file = try fs.touch(rootInode, "file").inode
        func allocate(_ offset: UInt64, _ length: UInt64) throws {
            try fs.allocate(file, offset: offset, length: length, mode: .keepSize)
        }
        try fs.put(file, 0, pattern(6 * 4096))
        try allocate(0, 8 * 4096)
        try allocate(4095, 7 * 4096 + 1)
        expectErrno(ENOSPC) { try allocate(0, 8 * 4096 + 1) }
        expectErrno(ENOSPC) { try allocate(6 * 4096, 2 * 4096 + 1) }
        try allocate(6 * 4096 + 1, 2 * 4096 - 1)
        // Two bytes in two blocks, with room for one.
        try fs.put(file, 6 * 4096, pattern(4096))
        expectErrno(ENOSPC) { try allocate(8 * 4096 - 1, 2) }
        try allocate(7 * 4096 - 1, 2)
        // A sparse file: blocks 0, 2, 4, … of sixteen.
        try fs.resize(file, 0)
        for block in 0..<7 as Range<UInt64> { try fs.put(file, block * 2 * 4096, [1]) }
        #expect(try fs.space().freeBlocks == 1)
        try allocate(0, 3 * 4096)
        expectErrno(ENOSPC) { try allocate(0, 5 * 4096) }
        try allocate(2 * 4096, 3 * 4096)
        expectErrno(ENOSPC) { try allocate(12 * 4096, 3 * 4096) }
        #expect(try fs.check() == [])
    }

    @Test func limitsStayWithTheStore() throws {
        let store = MemoryStore()
        var fs = try FileSystem(store)
        #expect(try fs.space().totalInodes == 0)
        let file = try fs.touch(rootInode, "file").inode
        try fs.put(file, 0, pattern(8 * 4096))
        // Given later, for less than there is.
        fs = try open(store, blocks: 6, inodes: 100)
        #expect(try fs.space().freeBlocks == 0)
        #expect(try fs.space().freeInodes == 98)
        expectErrno(ENOSPC) { try fs.put(file, 40960, [1]) }
        try fs.resize(file, 4096)
        fs = try FileSystem(store)
        #expect(try fs.space().freeBlocks == 5)
        var options = FileSystem.Options()
        options.maximumBytes = .unlimited
        fs = try FileSystem(store, options: options)
        #expect(try fs.space().totalBlocks > 1 << 20)
        #expect(try fs.space().totalInodes == 100)
    }

    @Test func failedWritesTakeNothing() throws {
        let store = MemoryStore()
        let fs = try open(store, blocks: 10, inodes: 10)
        let file = try fs.touch(rootInode, "file").inode
        store.failWrites(.io(operation: "write", path: "wal", code: EIO))
        for _ in 0..<20 {
            expectErrno(EIO) { try fs.put(file, 0, pattern(4 * 4096)) }
            expectErrno(EIO) { try fs.touch(rootInode, "other") }
        }
        store.failWrites(nil)
        #expect(try fs.space().freeBlocks == 10)
        #expect(try fs.space().freeInodes == 8)
    }

    /// Whatever is done, the counts are what a new mount finds.
    @Test(arguments: [1, 2, 3]) func countsAreExact(run: UInt64) throws {
        let seed = run &* 0x51ed_2701 &+ UInt64(getpid())
        var random = SeededGenerator(seed: seed)
        let store = MemoryStore()
        let fs = try open(store, blocks: 120, inodes: 30)
        var held: [InodeNumber] = []
        for step in 0..<3000 {
            let name = "\(Int.random(in: 0..<20, using: &random))"
            let other = "\(Int.random(in: 0..<20, using: &random))"
            let offset = UInt64.random(in: 0..<100_000, using: &random)
            do throws(FileSystemError) {
                switch Int.random(in: 0..<12, using: &random) {
                case 0: held.append(try fs.touch(rootInode, name, retain: true).inode)
                case 1: try fs.mkdir(rootInode, name)
                case 2: try fs.symlink(rootInode, name, to: "somewhere")
                case 3: try fs.remove(rootInode, name)
                case 4: try fs.rmdir(rootInode, name)
                case 5: try fs.move(rootInode, name, rootInode, other, Bool.random(using: &random) ? .replace : .exchange)
                case 6: try fs.resize(try fs.find(rootInode, name).inode, offset)
                case 7:
                    try fs.allocate(
                        try fs.find(rootInode, name).inode, offset: offset, length: offset + 1, mode: .punchHole)
                case 8: if let inode = held.popLast() { fs.forget(inode, count: 1) }
                case 9: try fs.hardLink(try fs.find(rootInode, name).inode, rootInode, other)
                case 10:
                    held.append(try fs.createUnnamed(in: rootInode, permissions: 0o600, owner: alice).inode)
                default:
                    try fs.put(
                        try fs.find(rootInode, name).inode, offset,
                        pattern(Int.random(in: 1..<20_000, using: &random)))
                }
            } catch {
                guard case .posix = error else { throw error }
            }
            guard step % 50 == 0 else { continue }
            let found = try Usage(fs.usage.limits, blockSize: 4096, store)
            #expect(found.blockSpace?.free == fs.usage.blockSpace?.free, "seed \(seed) step \(step)")
            #expect(found.inodeSpace?.free == fs.usage.inodeSpace?.free, "seed \(seed) step \(step)")
        }
        #expect(try fs.check() == [])
    }

    @Test func manyWritersTogetherStayWithin() async throws {
        let store = MemoryStore()
        let fs = try open(store, blocks: 100, inodes: 60)
        await withTaskGroup(of: Void.self) { group in
            for writer in 0..<8 {
                group.addTask {
                    for index in 0..<50 {
                        guard let file = try? fs.touch(rootInode, "\(writer)-\(index)").inode else { continue }
                        try? fs.put(file, 0, pattern(3 * 4096))
                        if index % 3 == 0 { try? fs.remove(rootInode, "\(writer)-\(index)") }
                    }
                }
            }
        }
        let found = try Usage(Limits(bytes: 100 * 4096, inodes: 60), blockSize: 4096, store)
        #expect(try fs.space().freeBlocks == found.blockSpace?.free)
        #expect(try fs.space().freeInodes == found.inodeSpace?.free)
        #expect(try fs.names(rootInode).count <= 59)
        #expect(try fs.space().freeBlocks < 3)
        #expect(try fs.check() == [])
    }
}
