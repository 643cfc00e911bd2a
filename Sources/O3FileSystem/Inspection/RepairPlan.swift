import Glibc
import O3LSM

/// What is to be done about a survey: first which inodes there are, then which names lead to them, then what
/// has no name any more, and last the counts, which follow from all that.
struct RepairPlan {
    private typealias Entry = RepairSurvey.Entry

    /// One row to put, or to delete where the value is nil.
    private struct Change {
        var key: [UInt8]
        var value: [UInt8]?
    }

    private static let maximumSentences = 1000
    private static let changesPerBatch = 512
    static let lostAndFound = [UInt8]("lost+found".utf8)

    private let survey: RepairSurvey
    private let fileSystem: FileSystem
    private let now: Timestamp
    private(set) var report = RepairReport()

    private var inodes: [InodeNumber: Inode]
    private var entries: [Entry] = []
    private var rebuilt: Set<InodeNumber> = []
    /// Keys of all dentry rows there are, and whose entries they are.
    private let keys: Set<[UInt8]>
    private let parents: Set<InodeNumber>
    private var changes: [Change] = []
    /// /lost+found, once it is needed, and the names in it.
    private var lostDirectory: InodeNumber?
    private var lostNames: Set<[UInt8]> = []
    /// No number from here on is in use.
    private var unused: InodeNumber

    init(_ survey: RepairSurvey) {
        self.survey = survey
        fileSystem = survey.fileSystem
        now = survey.fileSystem.options.clock()
        inodes = survey.inodes
        unused = survey.fileSystem.allocator.limit
        keys = Set(survey.entries.map(\.key))
        parents = Set(survey.entries.map(\.parent))
    }

    mutating func make() {
        discardUseless()
        rebuildInodes()
        settleEntries()
        reattach()
        settleCounts()
        settleSuperblock()
    }

    /// Writes the plan, in batches, and returns when it survives power loss.
    func apply(to store: any KeyValueStore) throws(FileSystemError) {
        // A data row that is too long is cut: what is beyond a block was never readable.
        for (number, block) in survey.tooLong {
            guard let value = try store.fetch(.data(number, block: block)) else { continue }
            let batch = WriteBatch()
            withExtendedLifetime(value) {
                batch.put(.data(number, block: block), UnsafeRawBufferPointer(rebasing: value.bytes.prefix(fileSystem.blockSize)))
            }
            try store.apply(batch)
        }
        var start = 0
        while start < changes.count {
            let batch = WriteBatch()
            for change in changes[start..<min(start + Self.changesPerBatch, changes.count)] {
                if let value = change.value { batch.put(change.key, value) } else { batch.delete(change.key) }
            }
            try store.apply(batch)
            start += Self.changesPerBatch
        }
        for number in survey.data.keys.sorted() where inodes[number].map({ !Self.hasData($0) }) ?? true {
            let batch = WriteBatch()
            batch.deleteRange(.first(.data, of: number), .first(.data, of: number + 1))
            try store.apply(batch)
        }
        for number in survey.attributed.sorted() where inodes[number] == nil {
            let batch = WriteBatch()
            batch.deleteRange(.first(.extendedAttribute, of: number), .first(.extendedAttribute, of: number + 1))
            try store.apply(batch)
        }
        do throws(EngineError) { try store.sync() } catch { throw .engine(error) }
    }

    // MARK: Saying it

    private mutating func say(_ sentence: String) {
        if report.changes.count < Self.maximumSentences { report.changes.append(sentence) } else { report.unlisted += 1 }
    }
    private mutating func mourn(_ sentence: String) {
        if report.losses.count < Self.maximumSentences { report.losses.append(sentence) } else { report.unlisted += 1 }
    }
    private static func label(_ entry: Entry) -> String {
        entry.name.withUnsafeBytes { KeyDescription.dentry(entry.parent, $0) }
    }

    private mutating func put(_ key: [UInt8], _ value: [UInt8]) { changes.append(Change(key: key, value: value)) }
    private mutating func delete(_ key: [UInt8]) { changes.append(Change(key: key, value: nil)) }

    // MARK: Inodes

    private static func hasData(_ row: Inode) -> Bool { row.isRegular || row.isSymbolicLink }

    private mutating func discardUseless() {
        for row in survey.useless {
            mourn("\(KeyDescription.describe(row.key)) is removed: \(row.reason).")
            delete(row.key)
        }
        for (number, block) in survey.tooLong { say("data \(number)/block \(block) is cut to the size of a block.") }
    }

    /// Inodes whose rows are gone, of which names or data are left, with what those tell of them.
    private mutating func rebuildInodes() {
        if inodes[rootInode]?.isDirectory != true { rebuild(rootInode, .directory, "the root directory") }
        var types: [InodeNumber: FileType] = [:]
        for entry in survey.entries where inodes[entry.inode] == nil { types[entry.inode] = entry.type }
        // Whoever has entries was a directory, whatever else is said of it.
        for entry in survey.entries where inodes[entry.parent] == nil { types[entry.parent] = .directory }
        for number in survey.data.keys where inodes[number] == nil && types[number] == nil { types[number] = .regular }
        for (number, type) in types.sorted(by: { $0.key < $1.key }) {
            let bytes = survey.data[number]?.end ?? 0
            switch type {
            case .directory where parents.contains(number):
                rebuild(number, .directory, "it has entries")
            case .regular where bytes > 0, .symbolicLink where bytes > 0: rebuild(number, type, "it has data")
            default: break  // Nothing is left of it but a name.
            }
        }
        for (number, row) in inodes where row.isSymbolicLink && survey.data[number] == nil {
            mourn("The symbolic link, inode \(number), is removed: its target is lost.")
            inodes[number] = nil
        }
    }

    private mutating func rebuild(_ number: InodeNumber, _ type: FileType, _ reason: String) {
        var row = Inode(
            mode: type.modeBits | (type == .directory ? 0o700 : type == .symbolicLink ? 0o777 : 0o600),
            owner: fileSystem.options.rootOwner, linkCount: 1, time: now)
        if number == rootInode { row.mode = S_IFDIR | 0o755 }
        if type == .directory { row.parent = rootInode } else { row.size = survey.data[number]?.end ?? 0 }
        inodes[number] = row
        rebuilt.insert(number)
        say("Inode \(number) is made again, as a \(type): \(reason). Its owner, permissions and times are lost.")
    }

    // MARK: Names

    private mutating func settleEntries() {
        var names: Set<[UInt8]> = []
        var firstNames: [InodeNumber: Int] = [:]
        for var entry in survey.entries {
            let label = Self.label(entry)
            guard let target = inodes[entry.inode], entry.inode != rootInode else {
                drop(entry, entry.inode == rootInode ? "the root has no name" : "inode \(entry.inode) does not exist")
                continue
            }
            guard inodes[entry.parent]?.isDirectory == true else {
                drop(entry, "inode \(entry.parent) is no directory")
                continue
            }
            let key = entry.name.withUnsafeBytes { fileSystem.dentryKey(entry.parent, $0).bytes }
            if key != entry.key || names.contains(key) {
                if names.contains(key) || keys.contains(key) && key != entry.key {
                    drop(entry, "there is another entry of this name")
                    continue
                }
                say("The key of \(label) is made anew from its name.")
                delete(entry.key)
                entry.key = key
                put(key, Dentry(inode: entry.inode, type: target.type).withEncoded { [UInt8]($0) })
            } else if target.type != entry.type {
                say("\(label) says \(target.type), not \(entry.type).")
                put(key, Dentry(inode: entry.inode, type: target.type).withEncoded { [UInt8]($0) })
            }
            entry.type = target.type
            if target.isDirectory {
                if let first = firstNames[entry.inode] {
                    // The one that the directory itself knows of stays.
                    guard target.parent == entry.parent, entries[first].parent != entry.parent else {
                        drop(entry, "directory \(entry.inode) has another name")
                        continue
                    }
                    drop(entries[first], "directory \(entry.inode) has another name")
                    entries[first] = entry
                    names.insert(key)
                    continue
                }
                firstNames[entry.inode] = entries.count
            }
            names.insert(key)
            entries.append(entry)
        }
    }

    private mutating func drop(_ entry: Entry, _ reason: String) {
        say("\(Self.label(entry)) is removed: \(reason).")
        delete(entry.key)
    }

    // MARK: What has no name

    /// Everything that the root does not lead to gets a name in /lost+found.
    private mutating func reattach() {
        var named: Set<InodeNumber> = []
        for entry in entries { named.insert(entry.inode) }
        let used = Set(entries.map(\.parent))
        for (number, row) in inodes.sorted(by: { $0.key < $1.key }) where number != rootInode && !named.contains(number) {
            // Deleted, and only its orphan row to tell may be missing: see the counts.
            if row.linkCount == 0, !row.isDirectory || !used.contains(number) { continue }
            adopt(number, row)
        }
        cutLoops()
    }

    /// What is left are directories that are named by each other only: each loop loses one name, and what hangs on it
    /// is reached from /lost+found then.
    private mutating func cutLoops() {
        var children: [InodeNumber: [InodeNumber]] = [:]
        var places: [InodeNumber: Int] = [:]
        for (place, entry) in entries.enumerated() where entry.type == .directory {
            children[entry.parent, default: []].append(entry.inode)
            places[entry.inode] = place
        }
        var reached: Set<InodeNumber> = []
        func reach(_ start: InodeNumber) {
            guard reached.insert(start).inserted else { return }
            var waiting = [start]
            while let next = waiting.popLast() {
                for child in children[next] ?? [] where reached.insert(child).inserted { waiting.append(child) }
            }
        }
        reach(rootInode)
        var dropped: Set<Int> = []
        for number in inodes.keys.sorted() {
            guard let row = inodes[number], row.isDirectory, row.linkCount > 0, !reached.contains(number) else { continue }
            if let place = places[number] {
                drop(entries[place], "the root does not lead to it")
                dropped.insert(place)
            }
            adopt(number, row)
            reach(number)
        }
        guard !dropped.isEmpty else { return }
        entries = entries.enumerated().filter { !dropped.contains($0.offset) }.map(\.element)
    }

    private mutating func adopt(_ number: InodeNumber, _ row: Inode) {
        let directory = lostDirectory ?? findLostDirectory()
        var name = [UInt8]("#\(number)".utf8)
        while lostNames.contains(name) { name.append(0x27) }
        lostNames.insert(name)
        if row.linkCount == 0 { inodes[number]?.linkCount = 2 }
        add(name, in: directory, number, row.type)
        say("Inode \(number), a \(row.type), is put into /lost+found as \(String(decoding: name, as: UTF8.self)).")
    }

    /// The directory of what has lost its name, made if there is none; its names are `lostNames` from here on.
    private mutating func findLostDirectory() -> InodeNumber {
        var taken: [[UInt8]: Entry] = [:]
        for entry in entries where entry.parent == rootInode { taken[entry.name] = entry }
        var name = Self.lostAndFound
        // A file of this name may be in the way.
        while let entry = taken[name], entry.type != .directory { name.append(0x27) }
        if let found = taken[name] {
            lostDirectory = found.inode
            lostNames = Set(entries.lazy.filter { $0.parent == found.inode }.map(\.name))
            return found.inode
        }
        let number = freeNumber()
        var row = Inode(mode: S_IFDIR | 0o700, owner: fileSystem.options.rootOwner, linkCount: 2, time: now)
        row.parent = rootInode
        inodes[number] = row
        rebuilt.insert(number)
        add(name, in: rootInode, number, .directory)
        say("The directory /\(String(decoding: name, as: UTF8.self)), inode \(number), is made.")
        lostDirectory = number
        return number
    }

    /// The next number; where a row has the last one there is, any that is free.
    private mutating func freeNumber() -> InodeNumber {
        unused = max(unused, (inodes.keys.max() ?? rootInode) + 1)
        if unused < inodeNumberEnd {
            defer { unused += 1 }
            return unused
        }
        var number = rootInode + 1
        while inodes[number] != nil { number += 1 }
        return number
    }

    private mutating func add(_ name: [UInt8], in parent: InodeNumber, _ number: InodeNumber, _ type: FileType) {
        let key = name.withUnsafeBytes { fileSystem.dentryKey(parent, $0).bytes }
        entries.append(Entry(parent: parent, name: name, inode: number, type: type, key: key))
        put(key, Dentry(inode: number, type: type).withEncoded { [UInt8]($0) })
    }

    // MARK: Counts

    private mutating func settleCounts() {
        struct Found {
            var names: UInt32 = 0
            var entries: UInt64 = 0
            var subdirectories: UInt32 = 0
            var parent: InodeNumber = 0
        }
        var found: [InodeNumber: Found] = [:]
        for entry in entries {
            found[entry.inode, default: Found()].names += 1
            found[entry.inode, default: Found()].parent = entry.parent
            found[entry.parent, default: Found()].entries += 1
            if entry.type == .directory { found[entry.parent, default: Found()].subdirectories += 1 }
        }
        for (number, old) in inodes.sorted(by: { $0.key < $1.key }) {
            let counts = found[number, default: Found()]
            var row = old
            if row.isDirectory {
                row.size = counts.entries
                row.parent = number == rootInode ? rootInode : counts.parent == 0 ? old.parent : counts.parent
                row.linkCount = number == rootInode || counts.names > 0 ? 2 + counts.subdirectories : 0
                row.blocks = 0
            } else {
                row.linkCount = counts.names
                settleData(number, &row)
            }
            if survey.attributed.contains(number) { row.flags |= Inode.Flag.extendedAttributes }
            settleOrphan(number, row)
            guard row != survey.inodes[number] else { continue }
            if !rebuilt.contains(number) { describe(number, survey.inodes[number] ?? old, row) }
            put(RowKey.inode(number).bytes, row.withEncoded { [UInt8]($0) })
        }
        for number in survey.inodes.keys.sorted() where inodes[number] == nil { delete(RowKey.inode(number).bytes) }
        for number in survey.orphans.sorted() where inodes[number] == nil {
            say("orphan \(number) is removed: it has no inode.")
            delete(RowKey.orphan(number).bytes)
        }
        for number in survey.attributed.sorted() where inodes[number] == nil {
            mourn("The attributes of inode \(number) are removed: it does not exist.")
        }
        for number in survey.data.keys.sorted() {
            guard let row = inodes[number], !Self.hasData(row) else { continue }
            mourn("The data of inode \(number) is removed: a \(row.type) has none.")
        }
    }

    private func settleData(_ number: InodeNumber, _ row: inout Inode) {
        guard Self.hasData(row) else {
            row.blocks = 0
            return
        }
        let data = survey.data[number] ?? RepairSurvey.Data()
        // Bytes that are there are not thrown away: the size gives way.
        row.size = max(row.size, data.end)
        row.blocks = data.blocks
        row.flags &= ~Inode.Flag.estimatedBlocks
    }

    private mutating func settleOrphan(_ number: InodeNumber, _ row: Inode) {
        let isOrphan = row.linkCount == 0
        guard isOrphan != survey.orphans.contains(number) else { return }
        if isOrphan {
            say("Inode \(number) has no name and says so: it is left to be reclaimed by the next mount.")
            put(RowKey.orphan(number).bytes, [])
        } else {
            say("orphan \(number) is removed: it has a name.")
            delete(RowKey.orphan(number).bytes)
        }
    }

    private mutating func describe(_ number: InodeNumber, _ old: Inode, _ new: Inode) {
        var parts: [String] = []
        if old.linkCount != new.linkCount { parts.append("links \(new.linkCount), not \(old.linkCount)") }
        if old.size != new.size {
            parts.append("\(new.isDirectory ? "entries" : "size") \(new.size), not \(old.size)")
        }
        if old.blocks != new.blocks { parts.append("blocks \(new.blocks), not \(old.blocks)") }
        if old.parent != new.parent { parts.append("parent \(new.parent), not \(old.parent)") }
        if old.flags != new.flags { parts.append("flags \(new.flags), not \(old.flags)") }
        say("Inode \(number): \(parts.joined(separator: "; ")).")
    }

    /// No number that is in use may be given out again.
    private mutating func settleSuperblock() {
        let limit = fileSystem.allocator.limit
        unused = max(unused, (inodes.keys.max() ?? rootInode) + 1)
        let isLost = fileSystem.options.superblock != nil
        if isLost { say("The superblock is made anew, and with it the key of every name.") }
        guard unused > limit || isLost else { return }
        if survey.inodes.keys.contains(where: { $0 >= limit }) {
            say("The next inode number is \(unused), not \(limit).")
        }
        var superblock = fileSystem.allocator.superblock
        superblock.nextInode = unused
        // First of all: a repair that is cut off must not leave numbers that are given out twice.
        changes.insert(Change(key: RowKey.superblock.bytes, value: superblock.encoded), at: 0)
    }
}
