import Glibc
import O3LSM

/// What a repair does, or would do.
public struct RepairReport: Equatable, Sendable {
    /// What is changed, a sentence each; more than a person reads are only counted.
    public internal(set) var changes: [String] = []
    /// What cannot be brought back, a sentence each.
    public internal(set) var losses: [String] = []
    public internal(set) var unlisted = 0

    /// Nothing to do.
    public init() {}

    public var isSound: Bool { changes.isEmpty && losses.isEmpty }
}

extension FileSystem {
    /// Makes the rows agree with each other again, so that `check` has nothing more to say: what is reachable
    /// stays where it is, what has lost its name goes to /lost+found, counts are made anew from what they count.
    ///
    /// With `dryRun` nothing is written. Nobody else may use the store, nor this object afterwards: open the file
    /// system again. A repair that is cut off is simply run again; each of its batches moves rows towards the end.
    /// Memory: about 300 bytes for each inode and each name.
    ///
    /// Rows that the engine cannot read are none of its business: it throws when it meets them.
    public func repair(dryRun: Bool, progress: (_ rows: UInt64) -> Void = { _ in }) throws(FileSystemError)
        -> RepairReport
    {
        var survey = RepairSurvey(fileSystem: self)
        try survey.read(progress)
        var plan = RepairPlan(survey)
        plan.make()
        if !dryRun { try plan.apply(to: store) }
        return plan.report
    }
}

/// What all rows say, in memory, with nothing of it believed yet.
struct RepairSurvey {
    /// Data rows of an inode.
    struct Data {
        var blocks: UInt64 = 0
        /// The end of its last row, in bytes of the file.
        var end: UInt64 = 0
    }

    struct Entry {
        var parent: InodeNumber
        var name: [UInt8]
        var inode: InodeNumber
        var type: FileType
        /// The key the row has, which may hold another hash than that of the name.
        var key: [UInt8]
    }

    let fileSystem: FileSystem
    private(set) var inodes: [InodeNumber: Inode] = [:]
    private(set) var entries: [Entry] = []
    private(set) var data: [InodeNumber: Data] = [:]
    private(set) var orphans: Set<InodeNumber> = []
    private(set) var attributed: Set<InodeNumber> = []
    /// Rows that nothing can be made of, and why.
    private(set) var useless: [(key: [UInt8], reason: String)] = []
    /// Data rows that are longer than a block.
    private(set) var tooLong: [(inode: InodeNumber, block: UInt64)] = []
    private var rows: UInt64 = 0

    init(fileSystem: FileSystem) { self.fileSystem = fileSystem }

    mutating func read(_ progress: (UInt64) -> Void) throws(FileSystemError) {
        let cursor = try fileSystem.store.scan(from: [0], to: nil, fillCache: false)
        while cursor.isValid {
            take(cursor.key, cursor.value)
            rows += 1
            if rows % 4096 == 0 { progress(rows) }
            try cursor.advance()
        }
        progress(rows)
    }

    private mutating func take(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        func discard(_ reason: String) { useless.append(([UInt8](key), reason)) }
        switch ParsedKey(key) {
        case nil: discard("no file system writes it")
        case .superblock?, .request?: break
        case .inode(let number)?:
            var problem = ""
            if number == 0 {
                discard("no inode has the number 0")
            } else if let row = Inode(value, failure: &problem) {
                inodes[number] = row
            } else {
                discard("it does not decode: \(problem)")
            }
        case .dentry(let parent, _, let name)?:
            guard let dentry = Dentry(value) else { return discard("its value is no entry") }
            guard !name.contains(where: { $0 == 0 || $0 == 0x2f }), !fileSystem.isDot(name), !fileSystem.isDotDot(name)
            else { return discard("nothing can have this name") }
            entries.append(
                Entry(parent: parent, name: [UInt8](name), inode: dentry.inode, type: dentry.type, key: [UInt8](key)))
        case .data(let number, let block)?:
            let blockSize = UInt64(fileSystem.blockSize)
            guard number != 0, block < FileSystem.maximumFileSize / blockSize else {
                return discard("no file reaches so far")
            }
            if value.count > fileSystem.blockSize { tooLong.append((number, block)) }
            data[number, default: Data()].blocks += 1
            let end = block * blockSize + min(blockSize, UInt64(value.count))
            data[number, default: Data()].end = max(data[number, default: Data()].end, end)
        case .orphan(let number)?: orphans.insert(number)
        case .extendedAttribute(let number, _)?:
            if value.count > FileSystem.maximumAttributeBytes { return discard("an attribute holds less") }
            attributed.insert(number)
        }
    }
}
