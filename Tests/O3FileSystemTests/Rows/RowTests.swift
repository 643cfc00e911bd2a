import O3LSM
import Testing

@testable import O3FileSystem

@Suite struct RowTests {
    @Test func keysSortByKindInodeAndBlock() {
        #expect(RowKey.inode(0x0102).bytes == [0x69, 0, 0, 0, 0, 0, 0, 1, 2])
        #expect(RowKey.data(1, block: 2).bytes == [0x62] + [0, 0, 0, 0, 0, 0, 0, 1] + [0, 0, 0, 0, 0, 0, 0, 2])
        #expect(RowKey.orphan(.max).bytes == [0x6f] + [UInt8](repeating: 0xff, count: 8))
        #expect(RowKey.superblock.bytes == [0x73])
        let name: [UInt8] = [0x61]
        let key = name.withUnsafeBytes {
            NameKey(dentryOf: 0x1122_3344_5566_7788, hash: 0x00aa_bbcc_ddee_ff01, $0).bytes
        }
        #expect(
            key == [0x64, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 1, 0x61]
        )
    }

    @Test func inodeSurvivesEncoding() {
        var row = Inode(
            mode: 0o100644,
            owner: Owner(uid: 7, gid: 8),
            linkCount: 9,
            time: Timestamp(seconds: -5, nanoseconds: 999_999_999)
        )
        row.size = 1 << 40
        row.blocks = 1 << 20
        row.rdev = 0x0801
        row.flags = Inode.Flag.extendedAttributes
        row.generation = 3
        row.changeTime = Timestamp(seconds: .max, nanoseconds: 1)
        var problem = ""
        let copy = row.withEncoded { bytes -> Inode? in
            #expect(bytes.count == 108)
            return Inode(bytes, failure: &problem)
        }
        #expect(copy == row, "\(problem)")
    }

    /// Any one changed byte either still decodes to a lawful row or is refused: never a trap.
    @Test func damagedInodesAreRefusedOrLawful() {
        let row = Inode(mode: 0o040755, owner: .root, linkCount: 2, time: Timestamp(seconds: 1))
        var directory = row
        directory.parent = 1
        let bytes = directory.withEncoded { [UInt8]($0) }
        for index in bytes.indices {
            for bit in 0..<8 {
                var damaged = bytes
                damaged[index] ^= 1 << bit
                var problem = ""
                let decoded = damaged.withUnsafeBytes { Inode($0, failure: &problem) }
                #expect(decoded != nil || !problem.isEmpty)
                if index == 0 { #expect(decoded == nil) }
            }
        }
        for count in 0..<bytes.count {
            var problem = ""
            #expect(bytes[..<count].withUnsafeBytes { Inode($0, failure: &problem) } == nil)
        }
    }

    @Test func superblockSurvivesEncodingAndRefusesDamage() throws {
        var block = Superblock(
            blockSize: 8192,
            nextInode: 77,
            nameHash: NameHash(key0: 1, key1: 2),
            birth: Timestamp(seconds: 5, nanoseconds: 6)
        )
        #expect(try withBytes(of: block.encoded) { (bytes) throws(FileSystemError) in try Superblock(bytes) } == block)
        #expect(block.encoded.count == Superblock.encodedLength)
        for limits in [Limits(bytes: 5), Limits(inodes: 6), Limits(bytes: .max, inodes: 1)] {
            block.limits = limits
            #expect(
                try withBytes(of: block.encoded) { (bytes) throws(FileSystemError) in try Superblock(bytes) } == block)
        }
        for (index, value) in [(0, UInt8(0)), (4, 9), (8, 1), (16, 1), (23, 0x80)] {
            var damaged = block.encoded
            damaged[index] = value
            expectErrno(5) { try withBytes(of: damaged) { (bytes) throws(FileSystemError) in try Superblock(bytes) } }
        }
    }

    /// So that numbers from a row can be counted on: nothing adds as much as is left above.
    @Test(arguments: [inodeNumberEnd, 1 << 63, .max - 1, .max]) func numbersBeyondTheLastAreRefused(number: InodeNumber) {
        let keys = [RowKey.inode(number), .orphan(number), .data(number, block: 0)].map(\.bytes)
        let name = [UInt8]("name".utf8).withUnsafeBytes {
            [NameKey(dentryOf: number, hash: 1, $0).bytes, NameKey(extendedAttributeOf: number, $0).bytes]
        }
        for key in keys + name { #expect(key.withUnsafeBytes { ParsedKey($0) } == nil) }
        #expect(Dentry(inode: number, type: .regular).withEncoded { Dentry($0) } == nil)
        #expect(Dentry(inode: inodeNumberEnd - 1, type: .regular).withEncoded { Dentry($0) } != nil)
    }

    @Test func theLastInodeNumbersAreNotGivenOutTwice() throws {
        let store = MemoryStore()
        _ = try FileSystem(store)
        func start(at next: InodeNumber) throws -> FileSystem {
            let value = try #require(store.rows.value(RowKey.superblock.bytes))
            var superblock = try withBytes(of: value) { (bytes) throws(FileSystemError) in try Superblock(bytes) }
            superblock.nextInode = next
            var rows = store.rows
            rows.put(RowKey.superblock.bytes, superblock.encoded)
            store.rows = rows
            return try FileSystem(store)
        }
        let almost = try start(at: inodeNumberEnd - 65_536)
        #expect(try almost.touch(rootInode, "last").inode == inodeNumberEnd - 65_536)
        #expect(try FileSystem(store).names(rootInode) == ["last"])
        expectErrno(28) { try start(at: inodeNumberEnd).touch(rootInode, "none") }
        expectErrno(5) { try start(at: inodeNumberEnd + 1) }
    }

    /// The reference values of SipHash-1-3 with the key 00 01 … 0f, cut to 56 bits.
    @Test func nameHashIsStable() {
        let hash = NameHash(key0: 0x0706_0504_0302_0100, key1: 0x0f0e_0d0c_0b0a_0908)
        func of(_ bytes: [UInt8]) -> UInt64 { bytes.withUnsafeBytes { hash($0) } }
        #expect(of([]) == 0xabac_0158_050f_c4dc & NameHash.mask)
        #expect(of([0]) == 0xc9f4_9bf3_7d57_ca93 & NameHash.mask)
    }

    @Test func cookiesArePositiveAndAscend() {
        #expect(
            DirectoryCookie(DirectoryCookie(hash: NameHash.mask, seen: 127).rawValue)
                == DirectoryCookie(hash: NameHash.mask, seen: 127)
        )
        #expect(DirectoryCookie(hash: NameHash.mask, seen: 127).rawValue <= UInt64(Int64.max))
        #expect(DirectoryCookie(hash: 1, seen: 1).rawValue > DirectoryCookie.afterParent)
        for cookie in 0...2 as ClosedRange<UInt64> {
            #expect(DirectoryCookie(cookie) == DirectoryCookie(hash: 0, seen: 0))
        }
    }

    @Test func keysAreDescribedAndParsed() {
        let hash = NameHash(key0: 1, key1: 2)
        for text in [
            "superblock", "inode 5", "orphan 9223372036854775806", "data 5/block 0", "dentry 1/\"etc\"",
            "xattr 5/\"user.note\"", "dentry 1/\"a\\x22b\\x5c\\xff\"", "dentry 3/\"a/b\"",
        ] {
            let key = KeyDescription.parse(text, hash)
            #expect(key.map { KeyDescription.describe($0) } == text)
        }
        for text in [
            "", "inode", "inode x", "data 5", "data 5/5", "dentry 1/etc", "dentry 1/\"\"", "dentry 1/\"\\xg0\"",
            "what 1",
        ] {
            #expect(KeyDescription.parse(text, hash) == nil, "\(text)")
        }
        #expect(KeyDescription.describe([0x69, 1]) == "unknown key 6901")
        #expect(KeyDescription.describe(RowKey.orphan(1 << 63).bytes) == "unknown key 6f8000000000000000")
    }
}
