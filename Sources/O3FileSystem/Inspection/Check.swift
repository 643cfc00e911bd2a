import O3LSM

/// What a check has found.
public struct CheckReport: Equatable, Sendable {
    /// What is wrong, a sentence each; empty when nothing is.
    public var problems: [String] = []
    /// What is right and worth knowing: limits that are exceeded, estimates that are off.
    public var notes: [String] = []
    /// Data rows and inodes that there are.
    public var blocks: UInt64 = 0
    public var inodes: UInt64 = 0
}

extension FileSystem {
    /// What is wrong, in sentences: the problems of `inspect`.
    public func check(progress: (_ rows: UInt64) -> Void = { _ in }) throws(FileSystemError) -> [String] {
        try inspect(progress: progress).problems
    }

    /// Reads every row and says in sentences what is wrong, and how much there is beside the limits. On a file system
    /// that nobody changes meanwhile: files that are held open are not findings, half-seen changes may be.
    ///
    /// Memory: about 100 bytes for each inode. `progress` hears from time to time how many rows were read.
    public func inspect(progress: (_ rows: UInt64) -> Void = { _ in }) throws(FileSystemError) -> CheckReport {
        var checker = Checker(fileSystem: self)
        do throws(FileSystemError) {
            try checker.readInodes(progress)
            try checker.readDentries(progress)
            try checker.readData(progress)
            try checker.readOrphansAndAttributes(progress)
            try checker.readUnknown(progress)
            checker.compareCounts()
            checker.compareTotals()
            checker.findUnreachable()
        } catch {
            // What was found before the store refused to be read is worth hearing, and so is the refusal.
            checker.report("The check could not go on: \(error).")
        }
        return checker.result()
    }
}

/// One pass over all rows: what the inodes say is gathered first, then held against everything else.
private struct Checker {
    /// More findings than a person reads are only counted.
    private static let maximumFindings = 1000
    private static let rowsBetweenReports: UInt64 = 4096

    /// What an inode row says, and what was found of it.
    private struct Known {
        let type: FileType
        let linkCount: UInt32
        let size: UInt64
        let blocks: UInt64
        let parent: InodeNumber
        let flags: UInt32
        var names: UInt32 = 0
        var subdirectories: UInt32 = 0
        var entries: UInt64 = 0
        var foundBlocks: UInt64 = 0
        /// The directory an entry of this directory was found in.
        var foundParent: InodeNumber = 0
        var hasOrphanRow = false
    }

    private let fileSystem: FileSystem
    private var known: [InodeNumber: Known] = [:]
    private var sentences: [String] = []
    private var unreported = 0
    private var notes: [String] = []
    /// Data rows: those that inodes say they have, and those that there are.
    private var totals: (stated: UInt64, found: UInt64) = (0, 0)
    /// Inodes whose number of blocks is an estimate, and a wrong one.
    private var wrongEstimates = 0
    private var rows: UInt64 = 0

    init(fileSystem: FileSystem) { self.fileSystem = fileSystem }

    mutating func report(_ sentence: String) {
        if sentences.count < Self.maximumFindings { sentences.append(sentence) } else { unreported += 1 }
    }

    func result() -> CheckReport {
        CheckReport(
            problems: unreported == 0 ? sentences : sentences + ["There are \(unreported) more findings."],
            notes: notes, blocks: totals.found, inodes: UInt64(known.count))
    }

    /// The rows of one kind, in order.
    private mutating func forEachRow(
        _ kind: RowKind,
        _ progress: (UInt64) -> Void,
        _ body: (inout Checker, ParsedKey, _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Void
    ) throws(FileSystemError) {
        let cursor = try fileSystem.store.scan(kind)
        while cursor.isValid {
            if let key = ParsedKey(cursor.key) {
                body(&self, key, cursor.key, cursor.value)
            } else {
                report("There is a row that no file system writes: \(KeyDescription.describe(cursor.key)).")
            }
            rows += 1
            if rows % Self.rowsBetweenReports == 0 { progress(rows) }
            try cursor.advance()
        }
        progress(rows)
    }

    mutating func readInodes(_ progress: (UInt64) -> Void) throws(FileSystemError) {
        let unused = fileSystem.allocator.limit
        try forEachRow(.inode, progress) { checker, parsed, _, value in
            guard case .inode(let number) = parsed else { return }
            var problem = ""
            guard let row = Inode(value, failure: &problem) else {
                return checker.report("Inode \(number) does not decode: \(problem).")
            }
            if number == 0 || number >= unused {
                checker.report("Inode \(number) exists, but its number was never given out.")
            }
            checker.known[number] = Known(
                type: row.type,
                linkCount: row.linkCount,
                size: row.size,
                blocks: row.blocks,
                parent: row.parent,
                flags: row.flags
            )
        }
        if known[rootInode]?.type != .directory { report("The root directory (inode 1) is missing.") }
    }

    mutating func readDentries(_ progress: (UInt64) -> Void) throws(FileSystemError) {
        let nameHash = fileSystem.nameHash
        try forEachRow(.dentry, progress) { checker, parsed, key, value in
            guard case .dentry(let parent, let hash, let name) = parsed else { return }
            let label = KeyDescription.describe(key)
            guard let dentry = Dentry(value) else {
                return checker.report("The value of \(label) does not decode.")
            }
            if hash != nameHash(name) {
                checker.report("The key of \(label) holds another hash than that of its name, so it cannot be found.")
            }
            if name.contains(where: { $0 == 0 || $0 == 0x2f }) {
                checker.report("The name of \(label) holds a byte that no name may hold.")
            }
            if checker.known[parent]?.type == .directory {
                checker.known[parent]?.entries += 1
                if dentry.type == .directory { checker.known[parent]?.subdirectories += 1 }
            } else {
                checker.report("The parent of \(label) is no directory that exists.")
            }
            guard let target = checker.known[dentry.inode] else {
                return checker.report("\(label) names inode \(dentry.inode), which does not exist.")
            }
            if target.type != dentry.type {
                checker.report("\(label) says \(dentry.type), but inode \(dentry.inode) is a \(target.type).")
            }
            checker.known[dentry.inode]?.names += 1
            if target.type == .directory { checker.known[dentry.inode]?.foundParent = parent }
        }
    }

    mutating func readData(_ progress: (UInt64) -> Void) throws(FileSystemError) {
        let blockSize = UInt64(fileSystem.blockSize)
        try forEachRow(.data, progress) { checker, parsed, key, value in
            guard case .data(let number, let block) = parsed else { return }
            let label = KeyDescription.describe(key)
            guard let owner = checker.known[number] else {
                return checker.report("\(label) belongs to no inode.")
            }
            guard owner.type == .regular || owner.type == .symbolicLink else {
                return checker.report("\(label) belongs to a \(owner.type), which has no data.")
            }
            checker.known[number]?.foundBlocks += 1
            if value.count > blockSize {
                return checker.report("\(label) holds \(value.count) bytes, more than a block.")
            }
            let (start, overflow) = block.multipliedReportingOverflow(by: blockSize)
            if overflow || start >= owner.size || UInt64(value.count) > owner.size - start {
                checker.report("\(label) holds data beyond the size of its inode, \(owner.size) bytes.")
            }
        }
    }

    mutating func readOrphansAndAttributes(_ progress: (UInt64) -> Void) throws(FileSystemError) {
        try forEachRow(.orphan, progress) { checker, parsed, _, _ in
            guard case .orphan(let number) = parsed else { return }
            guard let row = checker.known[number] else {
                return checker.report("Orphan \(number) has no inode.")
            }
            checker.known[number]?.hasOrphanRow = true
            if row.linkCount > 0 { checker.report("Orphan \(number) has \(row.linkCount) links.") }
        }
        try forEachRow(.extendedAttribute, progress) { checker, parsed, key, value in
            guard case .extendedAttribute(let number, _) = parsed else { return }
            let label = KeyDescription.describe(key)
            guard let owner = checker.known[number] else {
                return checker.report("\(label) belongs to no inode.")
            }
            if owner.flags & Inode.Flag.extendedAttributes == 0 {
                checker.report("Inode \(number) does not know of \(label), so it cannot be read.")
            }
            if value.count > FileSystem.maximumAttributeBytes {
                checker.report("\(label) holds \(value.count) bytes, more than an attribute may.")
            }
        }
    }

    /// Keys between those of the known kinds.
    mutating func readUnknown(_ progress: (UInt64) -> Void) throws(FileSystemError) {
        var lower: [UInt8] = [0]
        let bounds: [[UInt8]?] = RowKind.allCases.map(\.rawValue).sorted().map { [$0] } + [nil]
        for upper in bounds {
            let cursor = try fileSystem.store.scan(from: lower, to: upper, fillCache: false)
            while cursor.isValid {
                report("There is a row that no file system writes: \(KeyDescription.describe(cursor.key)).")
                try cursor.advance()
            }
            if let kind = upper?.first { lower = [kind + 1] }
        }
        try forEachRow(.superblock, progress) { _, _, _, _ in }
    }

    mutating func compareCounts() {
        for (number, row) in known.sorted(by: { $0.key < $1.key }) {
            if row.type == .directory {
                compareDirectory(number, row)
            } else {
                if row.names != row.linkCount {
                    report("Inode \(number) has \(row.names) names, but says \(row.linkCount).")
                }
                totals.stated = totals.stated.addingReportingOverflow(row.blocks).partialValue
                totals.found += row.foundBlocks
                if row.foundBlocks == row.blocks {
                    // As it must be.
                } else if row.flags & Inode.Flag.estimatedBlocks != 0 {
                    wrongEstimates += 1
                } else {
                    report("Inode \(number) has \(row.foundBlocks) data blocks, but says \(row.blocks).")
                }
                if row.type == .symbolicLink, row.foundBlocks == 0 {
                    report("The target of the symbolic link, inode \(number), is missing.")
                }
            }
            if row.linkCount == 0, !row.hasOrphanRow {
                report("Inode \(number) has no name and no orphan row, so it would never be reclaimed.")
            }
        }
    }

    /// Holds what there is against the limits, which the daemon counts by what inodes say.
    mutating func compareTotals() {
        let limits = fileSystem.usage.limits
        if wrongEstimates > 0 {
            let consequence = limits.bytes == nil ? "." : ", so that the limit of bytes is not held exactly; a repair counts them."
            notes.append(
                "\(wrongEstimates) large sparse files have an estimated number of data blocks: all files say "
                    + "\(totals.stated), and have \(totals.found)" + consequence)
        }
        if let bytes = limits.bytes, totals.found > bytes / UInt64(fileSystem.blockSize) {
            notes.append(
                "There are \(totals.found) data blocks, more than the limit of \(bytes) bytes allows: no data can be added.")
        }
        if let inodes = limits.inodes, UInt64(known.count) > inodes {
            notes.append("There are \(known.count) inodes, more than the \(inodes) that the limit allows: none can be made.")
        }
    }

    private mutating func compareDirectory(_ number: InodeNumber, _ row: Known) {
        if row.entries != row.size {
            report("Directory \(number) has \(row.entries) entries, but says \(row.size).")
        }
        if row.linkCount > 0, row.subdirectories &+ 2 != row.linkCount {
            report("Directory \(number) has \(row.subdirectories) subdirectories, but \(row.linkCount) links.")
        }
        if number == rootInode {
            if row.parent != rootInode { report("The root's parent is \(row.parent).") }
            if row.names > 0 { report("The root directory has a name.") }
            return
        }
        if row.linkCount > 0, row.names != 1 {
            report("Directory \(number) has \(row.names) names instead of one.")
        }
        if row.names == 1, row.foundParent != row.parent {
            report("Directory \(number) is in directory \(row.foundParent), but says \(row.parent).")
        }
    }

    /// Directories that the root does not lead to, because their parents form a loop. (A missing name
    /// is reported with the counts.)
    mutating func findUnreachable() {
        var reached: Set<InodeNumber> = [rootInode]
        for (number, row) in known where row.type == .directory && row.names > 0 {
            var path: [InodeNumber] = []
            var onPath: Set<InodeNumber> = []
            var current = number
            while !reached.contains(current), onPath.insert(current).inserted {
                path.append(current)
                guard let parent = known[current]?.foundParent, parent != 0 else { break }
                current = parent
            }
            if !reached.contains(current), let parent = known[current]?.foundParent, parent != 0 {
                report("Directory \(number) cannot be reached from the root: its parents form a loop.")
            }
            // Each directory is walked once, whatever came of it.
            reached.formUnion(path)
        }
    }
}
