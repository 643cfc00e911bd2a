import O3LSM
import Testing

@testable import O3FileSystem

/// Each kind of damage is found, and said of the row it is in.
@Suite struct CheckTests {
    let store = MemoryStore()
    let fs: FileSystem
    let directory: InodeNumber
    let file: InodeNumber

    init() throws {
        fs = try FileSystem(store)
        directory = try fs.mkdir(rootInode, "d").inode
        file = try fs.touch(directory, "f").inode
        try fs.put(file, 0, pattern(10_000))
        try fs.setAttribute(file, "user.a", [1])
        try fs.symlink(rootInode, "s", to: "x")
        #expect(try fs.check() == [])
    }

    /// What `check` says after the rows were changed behind the file system's back.
    private func findings(_ damage: (inout MemoryStore.Rows) throws -> Void) throws -> [String] {
        try damage(&store.rows)
        return try FileSystem(store).check()
    }

    private func changeInode(
        _ number: InodeNumber,
        _ rows: inout MemoryStore.Rows,
        _ body: (inout Inode) -> Void
    ) throws {
        var row = try #require(try store.fetchInode(number))
        body(&row)
        rows.put(RowKey.inode(number).bytes, row.withEncoded { [UInt8]($0) })
    }

    private func delete(_ key: [UInt8], _ rows: inout MemoryStore.Rows) {
        let place = rows.position(key)
        if place < rows.keys.count, rows.keys[place] == key { rows.remove(place..<place + 1) }
    }

    @Test func undecodableInode() throws {
        let found = try findings { $0.put(RowKey.inode(file).bytes, [1]) }
        #expect(found.contains("Inode \(file) does not decode: its value has 1 bytes instead of 108."))
        #expect(found.contains("dentry \(directory)/\"f\" names inode \(file), which does not exist."))
    }

    private func limit(_ rows: inout MemoryStore.Rows, _ limits: Limits) throws {
        let value = try #require(rows.value(RowKey.superblock.bytes))
        var superblock = try value.withUnsafeBytes { try Superblock($0) }
        superblock.limits = limits
        rows.put(RowKey.superblock.bytes, superblock.encoded)
    }

    /// An estimate that is off is no damage, but worth knowing where a limit counts with it.
    @Test func estimatesAreCounted() throws {
        let found = try findings { rows in
            try changeInode(file, &rows) {
                $0.blocks = 7
                $0.flags |= Inode.Flag.estimatedBlocks
            }
        }
        #expect(found == [])
        let sentence = "1 large sparse files have an estimated number of data blocks: all files say 8, and have 4"
        #expect(try FileSystem(store).inspect().notes == [sentence + "."])
        let limited = try findings { try limit(&$0, Limits(bytes: 1 << 20)) }
        #expect(limited == [])
        let consequence = ", so that the limit of bytes is not held exactly; a repair counts them."
        #expect(try FileSystem(store).inspect().notes == [sentence + consequence])
        #expect(!(try FileSystem(store).repair(dryRun: false).isSound))
        let report = try FileSystem(store).inspect()
        #expect(report == CheckReport(problems: [], notes: [], blocks: 4, inodes: 4))
        #expect(try FileSystem(store).space().freeBlocks == 256 - 4)
    }

    @Test func totalsAreHeldAgainstTheLimits() throws {
        let found = try findings { try limit(&$0, Limits(bytes: 3 * 4096, inodes: 3)) }
        #expect(found == [])
        #expect(
            try FileSystem(store).inspect().notes == [
                "There are 4 data blocks, more than the limit of 12288 bytes allows: no data can be added.",
                "There are 4 inodes, more than the 3 that the limit allows: none can be made.",
            ])
    }

    @Test func wrongLinkCount() throws {
        let found = try findings { rows in try changeInode(file, &rows) { $0.linkCount = 2 } }
        #expect(found == ["Inode \(file) has 1 names, but says 2."])
    }

    @Test func wrongDirectoryCounts() throws {
        let found = try findings { rows in
            try changeInode(rootInode, &rows) {
                $0.linkCount = 9
                $0.size = 5
            }
        }
        #expect(found == ["Directory 1 has 2 entries, but says 5.", "Directory 1 has 1 subdirectories, but 9 links."])
    }

    @Test func wrongParent() throws {
        let found = try findings { rows in try changeInode(directory, &rows) { $0.parent = 77 } }
        #expect(found == ["Directory \(directory) is in directory 1, but says 77."])
    }

    @Test func dataBeyondTheSize() throws {
        let found = try findings { $0.put(RowKey.data(file, block: 9).bytes, [1]) }
        #expect(found.contains("data \(file)/block 9 holds data beyond the size of its inode, 10000 bytes."))
        #expect(found.contains("Inode \(file) has 4 data blocks, but says 3."))
    }

    @Test func rowsOfNobody() throws {
        let found = try findings { rows in
            rows.put(RowKey.data(500, block: 0).bytes, [1])
            rows.put(RowKey.orphan(501).bytes, [])
            rows.put([0x7a, 1], [])
            rows.put([0x69, 1], [])
            let name: [UInt8] = [0x61]
            rows.put(name.withUnsafeBytes { NameKey(extendedAttributeOf: 502, $0).bytes }, [])
        }
        #expect(found.contains("data 500/block 0 belongs to no inode."))
        #expect(found.contains("Orphan 501 has no inode."))
        #expect(found.contains("xattr 502/\"a\" belongs to no inode."))
        #expect(found.contains("There is a row that no file system writes: unknown key 7a01."))
        #expect(found.contains("There is a row that no file system writes: unknown key 6901."))
        #expect(found.count == 5)
    }

    @Test func nameLost() throws {
        let found = try findings { rows in
            let name = [UInt8]("d".utf8)
            delete(name.withUnsafeBytes { fs.dentryKey(rootInode, $0).bytes }, &rows)
            try changeInode(rootInode, &rows) {
                $0.linkCount = 2
                $0.size = 1
            }
        }
        #expect(found == ["Directory \(directory) has 0 names instead of one."])
    }

    @Test func aLoopOfDirectories() throws {
        let inner = try fs.mkdir(directory, "inner").inode
        try fs.mkdir(rootInode, "other")
        // d is taken from the root and put below its own child.
        let found = try findings { rows in
            let name = [UInt8]("d".utf8)
            delete(name.withUnsafeBytes { fs.dentryKey(rootInode, $0).bytes }, &rows)
            rows.put(
                name.withUnsafeBytes { fs.dentryKey(inner, $0).bytes },
                Dentry(inode: directory, type: .directory).withEncoded { [UInt8]($0) }
            )
            try changeInode(rootInode, &rows) {
                $0.linkCount = 3
                $0.size = 2
            }
            try changeInode(inner, &rows) {
                $0.linkCount = 3
                $0.size = 1
            }
            try changeInode(directory, &rows) { $0.parent = inner }
        }
        #expect(found.count == 1)
        #expect(found.first?.contains("cannot be reached from the root: its parents form a loop.") == true)
        // And nothing that walks upwards hangs.
        expectErrno(5) { try FileSystem(store).move(rootInode, "other", inner, "x") }
    }

    @Test func wrongHashAndType() throws {
        let found = try findings { rows in
            let name = [UInt8]("g".utf8)
            rows.put(
                name.withUnsafeBytes { NameKey(dentryOf: rootInode, hash: 5, $0).bytes },
                Dentry(inode: file, type: .directory).withEncoded { [UInt8]($0) }
            )
        }
        #expect(
            found.contains("The key of dentry 1/\"g\" holds another hash than that of its name, so it cannot be found.")
        )
        #expect(found.contains("dentry 1/\"g\" says directory, but inode \(file) is a regular."))
    }

    @Test func rowsOfAPath() throws {
        let keys = try fs.rows(forPath: "/d/f").map { KeyDescription.describe($0) }
        #expect(
            keys == [
                "dentry \(directory)/\"f\"", "inode \(file)", "xattr \(file)/\"user.a\"", "data \(file)/block 0",
                "data \(file)/block 1", "data \(file)/block 2",
            ]
        )
        #expect(try fs.rows(forPath: "/d/f", limit: 4).count == 4)
        #expect(try fs.rows(forPath: "/").map { KeyDescription.describe($0) }.count == 3)
        #expect(fs.key(describedBy: "dentry \(directory)/\"f\"") == (try fs.rows(forPath: "/d/f").first))
        expectErrno(2) { try fs.rows(forPath: "/d/missing") }
        expectErrno(20) { try fs.rows(forPath: "/d/f/x") }
    }
}
