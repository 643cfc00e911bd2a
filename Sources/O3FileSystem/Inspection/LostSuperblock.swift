import Glibc
import O3LSM

extension FileSystem {
    /// Opens the file system in `store` for `repair`. A superblock that is lost, or does not decode, is made up from the
    /// other rows; the repair writes it.
    ///
    /// - Throws: as `init`; ENOENT for a store without any row.
    public static func openForRepair(_ store: any KeyValueStore, options: Options) throws(FileSystemError) -> FileSystem {
        var options = options
        options.formatIfEmpty = false
        do throws(FileSystemError) { return try FileSystem(store, options: options) } catch {
            switch error {
            case .corruptRow, .posix(ENOENT):
                options.superblock = try madeUpSuperblock(store)
                return try FileSystem(store, options: options)
            default: throw error
            }
        }
    }

    /// Whether there is a root directory and no superblock.
    public static func isSuperblockLost(_ store: any KeyValueStore) throws(FileSystemError) -> Bool {
        guard try store.fetch(.superblock) == nil else { return false }
        return try store.fetchInode(rootInode) != nil
    }

    /// A superblock that fits the rows. The key of its name hash is another one, so that every name gets a new key.
    private static func madeUpSuperblock(_ store: any KeyValueStore) throws(FileSystemError) -> Superblock {
        var longest = 0
        var greatest = rootInode
        var isEmpty = true
        let cursor = try store.scan(from: [0], to: nil, fillCache: false)
        while cursor.isValid {
            switch ParsedKey(cursor.key) {
            case .data(let number, _)?:
                (longest, greatest, isEmpty) = (max(longest, cursor.value.count), max(greatest, number), false)
            case .inode(let number)?, .dentry(let number, _, _)?:
                (greatest, isEmpty) = (max(greatest, number), false)
            default: break
            }
            try cursor.advance()
        }
        guard !isEmpty else { throw .notFound }
        // A file with more than one block has whole ones; what is shorter does not tell two sizes apart.
        var blockSize = Superblock.blockSizes.lowerBound
        while blockSize < longest, blockSize < Superblock.blockSizes.upperBound { blockSize *= 2 }
        return Superblock(
            blockSize: blockSize, nextInode: greatest + 1, nameHash: try NameHash.random(), birth: Timestamp.now())
    }
}
