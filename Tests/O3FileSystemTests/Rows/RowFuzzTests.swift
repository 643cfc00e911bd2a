import Glibc
import O3LSM
import Testing

@testable import O3FileSystem

/// Rows and keys of which any bytes may be others: they are refused, or say exactly what their bytes say. Nothing is
/// read beyond them.
///
/// O3LSM_FUZZ_SECONDS and O3LSM_FUZZ_SEED as in FuzzTests.
@Suite struct RowFuzzTests {
    private static func environment(_ name: String) -> UInt64? { getenv(name).flatMap { UInt64(String(cString: $0)) } }

    private static func fuzz(_ name: String, _ corpus: [[UInt8]], _ accepts: ([UInt8]) -> Bool) {
        let seconds = environment("O3LSM_FUZZ_SECONDS") ?? 1
        let seed = environment("O3LSM_FUZZ_SEED") ?? .random(in: 1...1_000_000)
        var state = seed
        func below(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % bound
        }
        let end = time(nil) + Int(seconds) + 1
        var (executions, refused) = (0, 0)
        repeat {
            for _ in 0..<500 {
                var bytes = corpus[below(corpus.count)]
                for _ in 0...below(3) where !bytes.isEmpty {
                    let place = below(bytes.count)
                    switch below(6) {
                    case 0, 1: bytes[place] ^= 1 << UInt8(below(8))
                    case 2: bytes[place] = [0, 1, 0x7f, 0x80, 0xff][below(5)]
                    case 3: for index in place..<min(bytes.count, place + 8) { bytes[index] = 0xff }
                    case 4: bytes.removeLast(bytes.count - place)
                    default: bytes.insert(UInt8(below(256)), at: place)
                    }
                }
                executions += 1
                if !accepts(bytes) { refused += 1 }
            }
        } while time(nil) < end
        print("FuzzTests: \(name), seed \(seed): \(executions) executions, \(refused) refused")
        #expect(refused > 0)
    }

    @Test func inodes() {
        var row = Inode(mode: 0o100644, owner: Owner(uid: 7, gid: 8), linkCount: 1, time: Timestamp(seconds: 9, nanoseconds: 10))
        row.size = 123_456
        row.blocks = 30
        let directory = {
            var directory = row
            directory.mode = 0o040755
            directory.parent = 1
            return directory
        }()
        let corpus = [row, directory].map { $0.withEncoded { Array($0) } }
        Self.fuzz("inode rows", corpus) { bytes in
            var failure = ""
            guard let inode = bytes.withUnsafeBytes({ Inode($0, failure: &failure) }) else {
                #expect(!failure.isEmpty)
                return false
            }
            // Bytes 1 to 3 mean nothing.
            #expect(inode.withEncoded { Array($0) }[4...] == bytes[4...])
            return true
        }
    }

    @Test func dentries() {
        let corpus = [FileType.regular, .directory].map { Dentry(inode: 77, type: $0).withEncoded { Array($0) } }
        Self.fuzz("directory entries", corpus) { bytes in
            guard let dentry = bytes.withUnsafeBytes({ Dentry($0) }) else { return false }
            #expect(dentry.withEncoded { Array($0) } == bytes)
            return true
        }
    }

    @Test func keys() {
        let name = Array("name".utf8)
        let corpus =
            name.withUnsafeBytes { [NameKey(dentryOf: 5, hash: 99, $0).bytes, NameKey(extendedAttributeOf: 6, $0).bytes] }
            + [RowKey.inode(3).bytes, RowKey.data(4, block: 5).bytes, RowKey.orphan(6).bytes, RowKey.superblock.bytes]
        Self.fuzz("keys", corpus) { bytes in
            bytes.withUnsafeBytes { key in
                switch ParsedKey(key) {
                case nil: return false
                case .inode(let number): #expect(RowKey.inode(number).bytes == bytes)
                case .orphan(let number): #expect(RowKey.orphan(number).bytes == bytes)
                case .data(let number, let block): #expect(RowKey.data(number, block: block).bytes == bytes)
                case .dentry(let parent, let hash, let name):
                    #expect(NameKey(dentryOf: parent, hash: hash, name).bytes == bytes)
                case .extendedAttribute(let number, let name):
                    #expect(NameKey(extendedAttributeOf: number, name).bytes == bytes)
                case .superblock, .request: break
                }
                return true
            }
        }
    }

    @Test func superblocksAndLists() {
        let plain = Superblock(
            blockSize: 4096, nextInode: 9, nameHash: NameHash(key0: 1, key1: 2), birth: Timestamp(seconds: 1, nanoseconds: 2))
        Self.fuzz("superblocks", [plain.encoded]) { bytes in
            guard let found = bytes.withUnsafeBytes({ try? Superblock($0) }) else { return false }
            #expect(Superblock.isValid(blockSize: found.blockSize) && found.nextInode > rootInode)
            return true
        }
        var list: [UInt8] = [2, 0, 0, 0]
        for (tag, permissions, id) in [(1, 6, UInt32.max), (2, 4, 4001), (4, 4, UInt32.max), (16, 6, UInt32.max), (32, 4, UInt32.max)] {
            list += [UInt8(tag), 0, UInt8(permissions), 0] + withUnsafeBytes(of: id.littleEndian) { Array($0) }
        }
        Self.fuzz("access control lists", [list]) { bytes in
            guard let found = bytes.withUnsafeBytes({ AccessControlList($0) }) else { return false }
            #expect(found.encoded.count == bytes.count)
            return true
        }
    }
}
