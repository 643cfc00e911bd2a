import Dispatch
import Glibc
import O3LSM
import Synchronization
import Testing

@testable import O3FileSystem

@Suite struct ListingTests {
    let store = MemoryStore()
    let fs: FileSystem
    let directory: InodeNumber

    init() throws {
        fs = try FileSystem(store)
        directory = try fs.mkdir(rootInode, "d").inode
    }

    @Test(arguments: [true, false]) func oneDamagedInodeHidesNoOther(inEngine: Bool) throws {
        let inodes = try (0..<10).map { try self.fs.touch(directory, "f\($0)").inode }
        if inEngine {
            store.damage(.inode(inodes[4]))
        } else {
            var rows = store.rows
            rows.put(RowKey.inode(inodes[4]).bytes, [1, 2, 3])
            store.rows = rows
        }
        let fs = try FileSystem(store)
        let listed = try fs.list(directory, attributes: true)
        #expect(listed.map(\.inode).sorted() == inodes)
        for entry in listed {
            #expect(entry.attributes?.inode == (entry.inode == inodes[4] ? nil : entry.inode))
        }
        expectErrno(EIO) { try fs.find(directory, "f4") }
        #expect(try fs.find(directory, "f5").inode == inodes[5])
    }

    @Test(arguments: [1, 2, 3, 7, 100]) func aListingInPartsIsTheWholeOnce(_ limit: Int) throws {
        let wanted = (0..<50).map { "file-\($0)" }
        for name in wanted { try fs.touch(directory, name) }
        let listed = try fs.list(directory, limit: limit, dots: true)
        #expect(listed.map(\.name).prefix(2) == [".", ".."])
        #expect(listed[0].inode == directory && listed[1].inode == rootInode)
        #expect(listed.dropFirst(2).map(\.name).sorted() == wanted.sorted())
        #expect(listed.map(\.cookie) == listed.map(\.cookie).sorted())
        #expect(Set(listed.map(\.cookie)).count == listed.count)
        for entry in listed.dropFirst(2) { #expect(try fs.find(directory, entry.name).inode == entry.inode) }
    }

    @Test func attributesComeAlongAndAreTheFilesOwn() throws {
        for index in 0..<300 { try fs.touch(directory, "f\(index)", permissions: UInt32(index)) }
        let cold = try FileSystem(store)
        for fs in [fs, cold] {
            let listed = try fs.list(directory, limit: 70, attributes: true)
            #expect(listed.count == 300)
            for entry in listed { #expect(try fs.find(directory, entry.name) == entry.attributes) }
        }
    }

    /// What is there throughout is listed exactly once, whatever comes and goes between two parts.
    @Test func cookiesOutliveOtherEntries() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SeededGenerator(seed: seed)
        let stable = (0..<200).map { "stable-\($0)" }
        for name in stable { try fs.touch(directory, name) }
        var passing: [String] = []
        var seen: [String] = []
        var cookie: UInt64 = 0
        var step = 0
        while true {
            var taken = 0
            try fs.readDirectory(directory, after: cookie, attributes: step % 2 == 0, expected: 5) { entry in
                guard taken < 5 else { return false }
                taken += 1
                cookie = entry.cookie
                seen.append(String(decoding: entry.name, as: UTF8.self))
                return true
            }
            if taken == 0 { break }
            for _ in 0..<3 {
                step += 1
                try fs.touch(directory, "passing-\(step)")
                passing.append("passing-\(step)")
                if Bool.random(using: &random), let victim = passing.randomElement(using: &random) {
                    try fs.remove(directory, victim)
                    passing.removeAll { $0 == victim }
                }
            }
        }
        #expect(seen.filter { $0.hasPrefix("stable") }.sorted() == stable.sorted(), "seed \(seed)")
        #expect(Set(seen).count == seen.count, "seed \(seed)")
    }

    /// Entries whose hashes collide (as no names do here: the rows are made by hand) keep their order.
    @Test func collidingEntriesAreListedOneByOne() throws {
        var rows = store.rows
        for index in 0..<20 {
            let name = [UInt8]("n\(index + 10)".utf8)
            let key = name.withUnsafeBytes { NameKey(dentryOf: directory, hash: 77 + UInt64(index / 10), $0).bytes }
            rows.put(key, Dentry(inode: 50 + UInt64(index), type: .regular).withEncoded { [UInt8]($0) })
        }
        var row = try fs.getAttributes(directory)
        row.size = 20
        store.rows = rows
        // The directory must not say that it is empty.
        try fs.touch(directory, "one more")
        for limit in [1, 3, 100] {
            let names = try fs.list(directory, limit: limit).map(\.name)
            #expect(names.filter { $0.hasPrefix("n") } == (10..<30).map { "n\($0)" })
        }
    }

    @Test func listedFilesAreRetainedIfTaken() throws {
        for index in 0..<10 { try fs.touch(directory, "f\(index)") }
        var taken: [InodeNumber] = []
        try fs.readDirectory(directory, after: 0, attributes: true, retain: true) { entry in
            guard taken.count < 6 else { return false }
            taken.append(entry.inode)
            return true
        }
        // "." and ".." are not counted, nor what did not fit.
        #expect(fs.lookups.inodeCount == 4)
        for inode in taken.dropFirst(2) {
            #expect(fs.lookups.isRetained(inode))
            fs.forget(inode, count: 1)
        }
        #expect(fs.lookups.inodeCount == 0)
    }
}

@Suite struct OrphanTests {
    let store = MemoryStore()

    @Test func anOpenFileLivesUntilItIsForgotten() throws {
        let fs = try FileSystem(store)
        let file = try fs.touch(rootInode, "f", retain: true).inode
        _ = try fs.find(rootInode, "f", retain: true)
        try fs.put(file, 0, pattern(300_000))
        try fs.setAttribute(file, "user.a", [1])
        try fs.remove(rootInode, "f")
        expectErrno(ENOENT) { try fs.find(rootInode, "f") }
        #expect(try fs.getAttributes(file).linkCount == 0)
        #expect(try fs.get(file) == pattern(300_000))
        try fs.put(file, 0, [9])
        #expect(try fs.get(file, 0, 1) == [9])
        #expect(try fs.check() == [])
        fs.forget(file, count: 1)
        #expect(try fs.getAttributes(file).linkCount == 0)
        fs.forget(file, count: 1)
        expectErrno(ENOENT) { try fs.getAttributes(file) }
        #expect(store.rows.keys.count == 2)
    }

    @Test func theNextMountReclaimsWhatACrashLeft() throws {
        let fs = try FileSystem(store)
        let file = try fs.touch(rootInode, "f", retain: true).inode
        try fs.put(file, 0, pattern(10_000))
        let directory = try fs.mkdir(rootInode, "d", retain: true).inode
        try fs.rmdir(rootInode, "d")
        try fs.remove(rootInode, "f")
        let unnamed = try fs.createUnnamed(in: rootInode, permissions: 0o600, owner: alice).inode
        let next = try FileSystem(store)
        #expect(try next.get(file) == pattern(10_000))
        next.reclaimOrphans()
        for inode in [file, directory, unnamed] { expectErrno(ENOENT) { try next.getAttributes(inode) } }
        #expect(store.rows.keys.count == 2)
        #expect(try next.check() == [])
    }

    /// They are looked for a thousand at a time; those that are retained are passed by.
    @Test func manyAreReclaimedAndNoneIsMissed() throws {
        let fs = try FileSystem(store)
        let unnamed = try (0..<2500).map { _ in
            try fs.createUnnamed(in: rootInode, permissions: 0o600, owner: alice).inode
        }
        fs.reclaimOrphans()
        for inode in unnamed { #expect(try fs.getAttributes(inode).linkCount == 0) }
        try FileSystem(store).reclaimOrphans()
        #expect(store.rows.keys.count == 2)
    }

    /// A program goes on creating and deleting files while those of the mount before are reclaimed.
    @Test func reclaimingRunsBesideTheMount() throws {
        let old = try FileSystem(store)
        for _ in 0..<2500 { _ = try old.createUnnamed(in: rootInode, permissions: 0o600, owner: alice) }
        let fs = try FileSystem(store)
        let stopped = Atomic(false)
        let failures = Mutex<[String]>([])
        DispatchQueue.concurrentPerform(iterations: 3) { index in
            if index == 0 {
                fs.reclaimOrphans()
                stopped.store(true, ordering: .releasing)
                return
            }
            do {
                repeat {
                    let unnamed = try fs.createUnnamed(in: rootInode, permissions: 0o600, owner: alice).inode
                    let named = try fs.touch(rootInode, "f\(index)", retain: true).inode
                    try fs.put(named, 0, [UInt8(index)])
                    try fs.remove(rootInode, "f\(index)")
                    guard try fs.getAttributes(unnamed).linkCount == 0, try fs.get(named) == [UInt8(index)] else {
                        throw FileSystemError.notFound
                    }
                    fs.forget(unnamed, count: 1)
                    fs.forget(named, count: 1)
                } while !stopped.load(ordering: .acquiring)
            } catch { failures.withLock { $0.append("\(error)") } }
        }
        #expect(failures.withLock { $0 } == [])
        #expect(store.rows.keys.count == 2)
        #expect(try fs.check() == [])
    }

    @Test func aStoreThatClosesMeanwhileIsNoTrouble() throws {
        let old = try FileSystem(store)
        _ = try old.createUnnamed(in: rootInode, permissions: 0o600, owner: alice)
        var options = FileSystem.Options()
        options.report = { Issue.record("\($0)") }
        let fs = try FileSystem(store, options: options)
        store.failWrites(.closed)
        fs.reclaimOrphans()
        store.failWrites(nil)
        fs.reclaimOrphans()
        #expect(store.rows.keys.count == 2)
    }

    /// The end of a mount left files without a name.
    @Test func orphansStayWhereNothingCanBeWritten() throws {
        let old = try FileSystem(store)
        let file = try old.touch(rootInode, "f", retain: true).inode
        try old.put(file, 0, [1])
        try old.touch(rootInode, "g")
        try old.remove(rootInode, "f")
        store.failWrites(.readOnly(reason: "it was opened so"))
        var options = FileSystem.Options()
        options.formatIfEmpty = false
        options.isReadOnly = true
        options.report = { Issue.record("\($0)") }
        let fs = try FileSystem(store, options: options)
        fs.reclaimOrphans()
        #expect(try fs.names(rootInode) == ["g"])
        #expect(try fs.check() == [])
        store.failWrites(nil)
        let next = try FileSystem(store)
        next.reclaimOrphans()
        expectErrno(ENOENT) { try next.getAttributes(file) }
    }

    @Test func whatCannotBeReclaimedIsReportedAndStays() throws {
        let old = try FileSystem(store)
        let inodes = try (0..<4).map { try old.touch(rootInode, "f\($0)", retain: true).inode }
        for index in 0..<4 { try old.remove(rootInode, "f\(index)") }
        var rows = store.rows
        rows.put(RowKey.inode(inodes[1]).bytes, [1, 2, 3])
        store.rows = rows
        store.damage(.inode(inodes[2]))
        let troubles = Mutex<[FileSystemError]>([])
        var options = FileSystem.Options()
        options.report = { error in troubles.withLock { $0.append(error) } }
        let fs = try FileSystem(store, options: options)
        fs.reclaimOrphans()
        for inode in [inodes[0], inodes[3]] { expectErrno(ENOENT) { try fs.getAttributes(inode) } }
        for inode in [inodes[1], inodes[2]] { expectErrno(EIO) { try fs.getAttributes(inode) } }
        #expect(troubles.withLock { $0.map(\.posixCode) } == [EIO, EIO])
        #expect(troubles.withLock { $0[0].description }.contains("inode \(inodes[1])"))
        // Nor does a store that is full keep its files from being read.
        try fs.touch(rootInode, "held", retain: true)
        try fs.remove(rootInode, "held")
        store.failWrites(.io(operation: "write", path: "wal", code: ENOSPC))
        let full = try FileSystem(store, options: options)
        full.reclaimOrphans()
        #expect(try full.names(rootInode) == [])
        #expect(troubles.withLock { $0.contains { $0.posixCode == ENOSPC } })
    }

    @Test func aContinuedMountKeepsWhatTheKernelMayHold() throws {
        let old = try FileSystem(store)
        let file = try old.touch(rootInode, "f", retain: true).inode
        let other = try old.touch(rootInode, "g", retain: true).inode
        try old.remove(rootInode, "f")
        var options = FileSystem.Options()
        options.continuesEarlierMount = true
        let fs = try FileSystem(store, options: options)
        fs.reclaimOrphans()
        #expect(try fs.getAttributes(file).linkCount == 0)
        // Known to the kernel, not here: unlinked without being deleted.
        try fs.remove(rootInode, "g")
        #expect(try fs.getAttributes(other).linkCount == 0)
        fs.forget(file, count: 1)
        expectErrno(ENOENT) { try fs.getAttributes(file) }
        // Looked up here once more, and that taken back: the kernel may still hold it.
        fs.lookups.retain(other)
        fs.forget(other, count: 1)
        #expect(try fs.getAttributes(other).linkCount == 0)
        fs.forget(other, count: 2)
        expectErrno(ENOENT) { try fs.getAttributes(other) }
        let new = try fs.touch(rootInode, "new", retain: true).inode
        try fs.remove(rootInode, "new")
        fs.forget(new, count: 1)
        expectErrno(ENOENT) { try fs.getAttributes(new) }
        #expect(try fs.check() == [])
    }

    @Test func anUnnamedFileCanBeNamed() throws {
        let fs = try FileSystem(store)
        let file = try fs.createUnnamed(in: rootInode, permissions: 0o600, owner: alice)
        #expect(file.linkCount == 0)
        try fs.put(file.inode, 0, [1])
        #expect(try fs.hardLink(file.inode, rootInode, "named").linkCount == 1)
        fs.forget(file.inode, count: 1)
        #expect(try fs.get(fs.find(rootInode, "named").inode) == [1])
        #expect(try fs.check() == [])
        expectErrno(ENOTDIR) { try fs.createUnnamed(in: file.inode, permissions: 0o600, owner: alice) }
    }

    @Test func aReplacedOpenFileIsAnOrphan() throws {
        let fs = try FileSystem(store)
        let file = try fs.touch(rootInode, "f", retain: true).inode
        try fs.touch(rootInode, "g")
        try fs.move(rootInode, "g", rootInode, "f")
        #expect(try fs.getAttributes(file).linkCount == 0)
        fs.forget(file, count: 1)
        expectErrno(ENOENT) { try fs.getAttributes(file) }
        #expect(try fs.check() == [])
    }
}
