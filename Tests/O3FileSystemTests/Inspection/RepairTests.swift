import Glibc
import O3LSM
import Testing

@testable import O3FileSystem

/// Rows are damaged behind the file system's back; a repair leaves nothing for `check` to say, and keeps what can
/// be kept.
@Suite struct RepairTests {
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
    }

    private func bytes(_ name: String) -> [UInt8] { [UInt8](name.utf8) }

    private func key(_ parent: InodeNumber, _ name: String) -> [UInt8] {
        bytes(name).withUnsafeBytes { fs.dentryKey(parent, $0).bytes }
    }

    private func put(_ parent: InodeNumber, _ name: String, _ inode: InodeNumber, _ type: FileType) {
        store.rows.put(key(parent, name), Dentry(inode: inode, type: type).withEncoded { [UInt8]($0) })
    }

    private func delete(_ key: [UInt8]) {
        let place = store.rows.position(key)
        if place < store.rows.keys.count, store.rows.keys[place] == key { store.rows.remove(place..<place + 1) }
    }

    private func change(_ number: InodeNumber, _ body: (inout Inode) -> Void) throws {
        var row = try #require(try store.fetchInode(number))
        body(&row)
        store.rows.put(RowKey.inode(number).bytes, row.withEncoded { [UInt8]($0) })
    }

    /// Without changing anything first, then in earnest; nothing is left to do.
    private func repair() throws -> (FileSystem, RepairReport) {
        let before = store.rows
        let planned = try FileSystem(store, options: quiet).repair(dryRun: true)
        #expect(store.rows.keys == before.keys && store.rows.values == before.values, "a dry run has changed rows")
        #expect(!planned.isSound)
        let done = try FileSystem(store, options: quiet).repair(dryRun: false)
        #expect(done.changes.count == planned.changes.count && done.losses == planned.losses)
        let again = try FileSystem(store, options: quiet)
        #expect(try again.check() == [])
        #expect(try again.repair(dryRun: true).isSound)
        return (try FileSystem(store), done)
    }

    /// Orphans are left alone, as by the command.
    private var quiet: FileSystem.Options {
        var options = FileSystem.Options()
        options.formatIfEmpty = false
        options.continuesEarlierMount = true
        return options
    }

    @Test func nothingToDo() throws {
        #expect(try fs.repair(dryRun: false) == RepairReport())
        #expect(try fs.check() == [])
    }

    @Test func countsAreMadeAnew() throws {
        try change(rootInode) { ($0.linkCount, $0.size) = (9, 5) }
        try change(directory) { $0.parent = 77 }
        try change(file) { ($0.linkCount, $0.blocks, $0.flags) = (7, 1, 0) }
        let (repaired, report) = try repair()
        #expect(report.losses == [])
        #expect(report.changes.count == 3)
        #expect(try repaired.find(rootInode, "d").inode == directory)
        #expect(try repaired.get(file, 0, 20_000) == pattern(10_000))
    }

    @Test(arguments: [true, false]) func aLostSuperblockIsMadeAnew(isGone: Bool) throws {
        if isGone { delete(RowKey.superblock.bytes) } else { store.rows.put(RowKey.superblock.bytes, [1, 2, 3]) }
        #expect(throws: FileSystemError.self, "formatted over what is there") { try FileSystem(store) }
        #expect(try FileSystem.isSuperblockLost(store) == isGone)
        let before = store.rows
        #expect(try !FileSystem.openForRepair(store, options: quiet).repair(dryRun: true).isSound)
        #expect(store.rows.keys == before.keys && store.rows.values == before.values, "a dry run has changed rows")
        let done = try FileSystem.openForRepair(store, options: quiet).repair(dryRun: false)
        #expect(done.losses == [])
        let repaired = try FileSystem(store)
        #expect(try repaired.check() == [])
        #expect(try repaired.find(directory, "f").inode == file)
        #expect(try repaired.get(file, 0, 20_000) == pattern(10_000))
        #expect(try repaired.touch(rootInode, "new").inode > file)
    }

    @Test func aDirectoryWithoutNameIsFoundAgain() throws {
        delete(key(rootInode, "d"))
        let (repaired, report) = try repair()
        let lost = try repaired.find(rootInode, "lost+found").inode
        #expect(try repaired.find(lost, "#\(directory)").inode == directory)
        #expect(try repaired.find(directory, "f").inode == file)
        #expect(report.changes.contains("Inode \(directory), a directory, is put into /lost+found as #\(directory)."))
    }

    @Test func danglingEntriesGo() throws {
        put(directory, "ghost", 900, .regular)
        put(directory, "again", rootInode, .directory)
        put(file, "below", file, .regular)
        let (repaired, report) = try repair()
        #expect(report.changes.contains("dentry \(directory)/\"ghost\" is removed: inode 900 does not exist."))
        #expect(try repaired.find(directory, "f").linkCount == 1)
    }

    @Test func aLostInodeIsMadeOfItsNameAndItsData() throws {
        delete(RowKey.inode(file).bytes)
        let (repaired, report) = try repair()
        #expect(try repaired.find(directory, "f").inode == file)
        let found = try repaired.get(file, 0, 20_000)
        #expect(found == pattern(10_000))
        #expect(report.changes.contains { $0.contains("Inode \(file) is made again, as a regular") })
    }

    @Test func aLostDirectoryIsMadeOfItsEntries() throws {
        store.rows.put(RowKey.inode(directory).bytes, [1])
        let (repaired, _) = try repair()
        #expect(try repaired.find(rootInode, "d").inode == directory)
        #expect(try repaired.find(directory, "f").inode == file)
    }

    @Test func dataOfNobodyBecomesAFile() throws {
        store.rows.put(RowKey.data(500, block: 1).bytes, [1, 2, 3])
        let (repaired, _) = try repair()
        let lost = try repaired.find(rootInode, "lost+found").inode
        let found = try repaired.find(lost, "#500")
        #expect(found.size == 4099)
        #expect(try repaired.get(500, 4096, 10) == [1, 2, 3])
        // Its number is not given out a second time.
        #expect(try repaired.touch(rootInode, "new").inode > 500)
    }

    /// A repair that needs new inode numbers writes the superblock, and leaves the rest of it as it is.
    @Test func limitsStay() throws {
        let value = try #require(store.rows.value(RowKey.superblock.bytes))
        var superblock = try value.withUnsafeBytes { try Superblock($0) }
        superblock.limits = Limits(bytes: 1 << 30, inodes: 1000)
        superblock.nextInode = file + 2
        store.rows.put(RowKey.superblock.bytes, superblock.encoded)
        store.rows.put(RowKey.data(500, block: 1).bytes, [1, 2, 3])
        _ = try repair()
        let now = try #require(store.rows.value(RowKey.superblock.bytes))
        let found = try now.withUnsafeBytes { try Superblock($0) }
        #expect(found.limits == superblock.limits && found.birth == superblock.birth)
        #expect(found.nextInode > 501)
    }

    @Test func dataBeyondTheSizeIsKept() throws {
        store.rows.put(RowKey.data(file, block: 9).bytes, [1])
        let (repaired, _) = try repair()
        #expect(try repaired.find(directory, "f").size == 9 * 4096 + 1)
    }

    @Test func rowsOfNobodyGo() throws {
        store.rows.put([0x7a, 1], [])
        store.rows.put(RowKey.orphan(501).bytes, [])
        store.rows.put(RowKey.orphan(file).bytes, [])
        store.rows.put(bytes("a").withUnsafeBytes { NameKey(extendedAttributeOf: 502, $0).bytes }, [])
        store.rows.put(RowKey.data(directory, block: 0).bytes, [1])
        let (repaired, report) = try repair()
        #expect(report.losses.count == 3)
        #expect(try repaired.find(directory, "f").inode == file)
    }

    @Test func aLoopIsCutOpen() throws {
        let inner = try fs.mkdir(directory, "inner").inode
        delete(key(rootInode, "d"))
        put(inner, "d", directory, .directory)
        let (repaired, _) = try repair()
        let lost = try repaired.find(rootInode, "lost+found").inode
        #expect(try repaired.find(lost, "#\(directory)").inode == directory)
        #expect(try repaired.find(directory, "inner").inode == inner)
    }

    /// Files that have lost their names, and directories that only name each other, in numbers that a walk over all
    /// names for each of them would not come to the end of.
    @Test(.timeLimit(.minutes(2))) func manyLostNames() throws {
        let now = Timestamp(seconds: 1, nanoseconds: 0)
        let files: ClosedRange<InodeNumber> = 1000...50_999
        // Taken out of the store meanwhile, which would copy them for each.
        var rows = store.rows
        for number in files {
            let row = Inode(mode: S_IFREG | 0o600, owner: .root, linkCount: 1, time: now)
            rows.put(RowKey.inode(number).bytes, row.withEncoded { [UInt8]($0) })
        }
        let first: InodeNumber = 60_000
        let loops: InodeNumber = 2_500
        for number in first..<(first + 2 * loops) {
            let other = number ^ 1
            var row = Inode(mode: S_IFDIR | 0o700, owner: .root, linkCount: 3, time: now)
            (row.parent, row.size) = (other, 1)
            rows.put(RowKey.inode(number).bytes, row.withEncoded { [UInt8]($0) })
            rows.put(key(other, "other"), Dentry(inode: number, type: .directory).withEncoded { [UInt8]($0) })
        }
        store.rows = rows
        let report = try FileSystem(store, options: quiet).repair(dryRun: false)
        #expect(report.losses == [])
        let repaired = try FileSystem(store)
        #expect(try repaired.check() == [])
        let lost = try repaired.find(rootInode, "lost+found")
        #expect(lost.size == UInt64(files.count) + loops && lost.linkCount == UInt32(2 + loops))
        #expect(try repaired.find(lost.inode, "#50999").inode == 50_999)
        let cut = try repaired.find(lost.inode, "#\(first)").inode
        #expect(try repaired.find(cut, "other").inode == first + 1)
    }

    @Test func aDirectoryKeepsTheNameItKnows() throws {
        let other = try fs.mkdir(rootInode, "other").inode
        put(other, "second", directory, .directory)
        let (repaired, _) = try repair()
        #expect(try repaired.find(rootInode, "d").inode == directory)
        #expect(try repaired.find(other, ".").size == 0)
    }

    @Test func theRootAndTheHashOfAName() throws {
        delete(RowKey.inode(rootInode).bytes)
        let value = try #require(store.rows.value(key(directory, "f")))
        delete(key(directory, "f"))
        store.rows.put(bytes("f").withUnsafeBytes { NameKey(dentryOf: directory, hash: 5, $0).bytes }, value)
        try change(directory) { $0.mode |= 0o1000 }
        let (repaired, _) = try repair()
        #expect(try repaired.find(rootInode, "d").inode == directory)
        #expect(try repaired.find(directory, "f").inode == file)
    }

    @Test func aFileNamedLostAndFoundIsNotOverwritten() throws {
        let inTheWay = try fs.touch(rootInode, "lost+found").inode
        delete(key(directory, "f"))
        let (repaired, _) = try repair()
        #expect(try repaired.find(rootInode, "lost+found").inode == inTheWay)
        let lost = try repaired.find(rootInode, "lost+found'").inode
        #expect(try repaired.find(lost, "#\(file)").inode == file)
    }

    /// Any rows removed, any values with a flipped bit: after a repair there is nothing left to say.
    @Test func anyDamageIsRepaired() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("RepairTests: seed \(seed)")
        var random = SplitMix(state: seed)
        for number in 0..<12 {
            let inner = try fs.mkdir(number % 2 == 0 ? rootInode : directory, "dir\(number)").inode
            let made = try fs.touch(inner, "file").inode
            try fs.put(made, UInt64(number * 3000), pattern(5000))
        }
        let sound = store.rows
        for round in 0..<300 {
            store.rows = sound
            for _ in 0..<(1 + Int(random.next() % 6)) {
                let place = Int(random.next() % UInt64(store.rows.keys.count))
                // Without a superblock there is no file system to repair.
                if store.rows.keys[place].first == RowKind.superblock.rawValue { continue }
                if random.next() % 2 == 0 {
                    store.rows.remove(place..<place + 1)
                } else if !store.rows.values[place].isEmpty {
                    var value = store.rows.values[place]
                    value[Int(random.next() % UInt64(value.count))] ^= UInt8(1) << UInt8(random.next() % 8)
                    store.rows.put(store.rows.keys[place], value)
                }
            }
            _ = try FileSystem(store, options: quiet).repair(dryRun: false)
            let found = try FileSystem(store, options: quiet).check()
            if !found.isEmpty { Issue.record("seed \(seed), round \(round): \(found)") }
            let rest = try FileSystem(store, options: quiet).repair(dryRun: true)
            if !rest.isSound { Issue.record("seed \(seed), round \(round): a second repair finds \(rest)") }
        }
    }
}

private struct SplitMix {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
