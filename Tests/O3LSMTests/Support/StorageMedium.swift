@testable import O3LSM

/// A recorded history as the medium sees it: goes through its operations one by one and can say after each what
/// may be there when power comes back. Used by one thread.
///
/// Bytes are certain once their file was synced, names once their directory was. Of the rest anything may be
/// there: any of the writes, in any order, each torn at 512 bytes; any of the creations, renames and unlinks. But a rename
/// from one directory to another is there or not, in both of them; and a directory takes no other one's place.
struct StorageMedium {
    /// What becomes of that which was not synced.
    enum Loss: CustomStringConvertible {
        case everything
        case nothing
        /// The names survive and the bytes do not: files that are there and empty, or hold their former life.
        case bytes
        case names
        /// A random part of the writes, torn, and of each directory the changes up to a random one.
        case torn(UInt64)
        /// The same, but any of the changes of a directory may be missing, not only the last ones.
        case shuffled(UInt64)

        var description: String {
            switch self {
            case .everything: "all that was not synced is lost"
            case .nothing: "nothing is lost"
            case .bytes: "unsynced bytes are lost, names are not"
            case .names: "unsynced names are lost, bytes are not"
            case .torn(let seed): "torn, seed \(seed)"
            case .shuffled(let seed): "shuffled, seed \(seed)"
            }
        }
    }

    private static let sectorBytes = 512

    private enum Write {
        case truncate
        case bytes(offset: Int, [UInt8])
    }

    private struct File {
        var durable: [UInt8] = []
        /// Since the last sync, in order.
        var pending: [Write] = []
    }

    private enum Node: Equatable {
        case file(RecordedStorage.FileNumber)
        case directory(Int)
    }

    private enum NameChange {
        case link(String, Node)
        case rename(String, String)
        case exchange(String, String)
        case unlink(String)
        /// The two sides of a rename into another directory.
        case moveOut(String, move: Int)
        case moveIn(String, Node, move: Int)

        var move: Int? {
            switch self {
            case .moveOut(_, let move), .moveIn(_, _, let move): move
            default: nil
            }
        }
    }

    private struct Directory {
        var durable: [String: Node] = [:]
        /// Since the last sync, in order.
        var pending: [NameChange] = []
    }

    private var files: [RecordedStorage.FileNumber: File] = [:]
    private var directories: [Int: Directory] = [0: Directory()]
    /// The directories by the paths that they have for who uses the storage now.
    private var paths: [String: Int] = ["/": 0]
    private var names: [String: RecordedStorage.FileNumber] = [:]
    private var moves = 0
    /// What the work has noted.
    private(set) var marks: Set<String> = []
    /// Batches whose write had been called, and the last one that a sync which had returned covered.
    private(set) var begun = 0
    private(set) var synced = 0

    /// Nothing is there.
    init() {}

    /// All that was there before a history, and how far the work was.
    init(_ start: RecordedStorage.Start, begun: Int, synced: Int) {
        for path in start.directories.sorted() where path != "/" { makeDirectory(path) }
        for (path, number) in start.names {
            files[number] = File(durable: start.contents[number] ?? [])
            names[path] = number
            change(path) { .link($0, .file(number)) }
        }
        for number in directories.keys { sync(directory: number) }
        (self.begun, self.synced) = (begun, synced)
    }

    /// - Returns: whether the operation changed storage, so that this is another point to cut at.
    mutating func apply(_ operation: RecordedStorage.Operation) -> Bool {
        switch operation {
        case .createDirectory(let path): makeDirectory(path)
        case .create(let path, let number):
            files[number] = File()
            names[path] = number
            change(path) { .link($0, .file(number)) }
        case .truncate(let number): files[number]?.pending.append(.truncate)
        case .write(let number, let offset, let bytes):
            files[number]?.pending.append(.bytes(offset: offset, bytes))
        case .sync(let number):
            guard let file = files[number] else { break }
            files[number] = File(durable: file.pending.reduce(into: file.durable) { Self.apply($1, to: &$0) })
        case .rename(let source, let destination): rename(source, destination)
        case .exchange(let path, let other):
            let (_, name) = Self.split(other)
            change(path) { .exchange($0, name) }
            let aside = path + ".exchanged"
            for (from, to) in [(path, aside), (other, path), (aside, other)] { move(from, to: to) }
        case .link(let number, let path):
            names[path] = number
            change(path) { .link($0, .file(number)) }
        case .unlink(let path):
            names[path] = nil
            change(path) { .unlink($0) }
        case .removeDirectory(let path):
            paths[path] = nil
            change(path) { .unlink($0) }
        case .syncDirectory(let path):
            if let number = paths[path] { sync(directory: number) }
        case .progress(let begun, let synced):
            (self.begun, self.synced) = (begun, synced)
            return false
        case .mark(let name):
            marks.insert(name)
            return false
        }
        return true
    }

    private mutating func makeDirectory(_ path: String) {
        guard paths[path] == nil else { return }
        let number = directories.count
        paths[path] = number
        directories[number] = Directory()
        change(path) { .link($0, .directory(number)) }
    }

    private mutating func rename(_ source: String, _ destination: String) {
        let (from, to) = (Self.split(source), Self.split(destination))
        if from.directory == to.directory {
            change(source) { .rename($0, to.name) }
        } else if let node = paths[source].map({ Node.directory($0) }) ?? names[source].map({ .file($0) }) {
            moves += 1
            let number = moves
            change(source) { .moveOut($0, move: number) }
            change(destination) { .moveIn($0, node, move: number) }
        }
        move(source, to: destination)
    }

    private mutating func move(_ source: String, to destination: String) {
        func isMoved(_ path: String) -> Bool { path == source || path.hasPrefix(source + "/") }
        for path in paths.keys where isMoved(path) {
            paths[destination + path.dropFirst(source.count)] = paths.removeValue(forKey: path)
        }
        for path in names.keys where isMoved(path) {
            names[destination + path.dropFirst(source.count)] = names.removeValue(forKey: path)
        }
    }

    /// The other side of a rename from or into this directory is on the medium with it, and all that precedes it there.
    private mutating func sync(directory number: Int) {
        guard var directory = directories[number] else { return }
        let pending = directory.pending
        for change in pending { Self.apply(change, to: &directory.durable) }
        directory.pending = []
        directories[number] = directory
        let moved = Set(pending.compactMap(\.move))
        for (other, directory) in directories {
            guard let last = directory.pending.lastIndex(where: { $0.move.map(moved.contains) ?? false }) else { continue }
            for change in directory.pending[...last] { Self.apply(change, to: &directories[other, default: Directory()].durable) }
            directories[other]?.pending.removeFirst(last + 1)
        }
    }

    /// What is there after a loss, all of it synced.
    func survivor(_ loss: Loss) -> MemoryStorage {
        var random = SeededRandom(0)
        switch loss {
        case .torn(let seed), .shuffled(let seed): random = SeededRandom(seed)
        default: break
        }
        var contents: [RecordedStorage.FileNumber: [UInt8]] = [:]
        for (number, file) in files.sorted(by: { $0.key < $1.key }) {
            contents[number] = Self.surviving(file, loss, &random)
        }
        var isKept: [Bool] = []
        for _ in 0...moves { isKept.append(Self.isKept(loss, &random)) }
        let result = MemoryStorage()
        func build(_ number: Int, _ path: String) {
            // A directory that is there already is no error, and nothing else can go wrong in memory.
            if number != 0 { try? result.createDirectory(path) }
            let names = surviving(directories[number] ?? Directory(), loss, isKept, &random)
            for (name, node) in names.sorted(by: { $0.key < $1.key }) {
                switch node {
                case .file(let file): result.set(path + "/" + name, to: contents[file] ?? [])
                case .directory(let below): build(below, path + "/" + name)
                }
            }
        }
        build(0, "")
        return result
    }

    private static func isKept(_ loss: Loss, _ random: inout SeededRandom) -> Bool {
        switch loss {
        case .everything, .names: false
        case .nothing, .bytes: true
        case .torn, .shuffled: random.below(2) == 0
        }
    }

    private func surviving(
        _ directory: Directory, _ loss: Loss, _ isMoveKept: [Bool], _ random: inout SeededRandom
    ) -> [String: Node] {
        var names = directory.durable
        let pending = directory.pending
        var kept = pending.count
        if case .torn = loss { kept = random.below(pending.count + 1) }
        for (index, change) in pending.enumerated() {
            let isKept: Bool
            if let move = change.move {
                isKept = isMoveKept[move]
            } else if case .torn = loss {
                isKept = index < kept
            } else {
                isKept = Self.isKept(loss, &random)
            }
            if isKept { Self.apply(change, to: &names) }
        }
        return names
    }

    private mutating func change(_ path: String, _ make: (String) -> NameChange) {
        let (directory, name) = Self.split(path)
        guard let number = paths[directory] else { return }
        directories[number]?.pending.append(make(name))
    }

    private static func surviving(_ file: File, _ loss: Loss, _ random: inout SeededRandom) -> [UInt8] {
        var bytes = file.durable
        for write in file.pending {
            switch loss {
            case .everything, .bytes: break
            case .nothing, .names: apply(write, to: &bytes)
            case .torn, .shuffled: applyInPart(write, to: &bytes, &random)
            }
        }
        return bytes
    }

    private static func apply(_ write: Write, to bytes: inout [UInt8]) {
        switch write {
        case .truncate: bytes = []
        case .bytes(let offset, let new): put(new[...], at: offset, in: &bytes)
        }
    }

    /// Whole, not at all, a beginning, or any of its sectors.
    private static func applyInPart(_ write: Write, to bytes: inout [UInt8], _ random: inout SeededRandom) {
        let choice = random.below(4)
        guard choice > 0, case .bytes(let offset, let new) = write else {
            if choice > 1 { apply(write, to: &bytes) }
            return
        }
        guard choice > 1 else { return apply(write, to: &bytes) }
        // Sectors are those of the file, not those of the write.
        let tornAt = offset / sectorBytes + random.below((offset + new.count) / sectorBytes - offset / sectorBytes + 1)
        var start = offset
        while start < offset + new.count {
            let sector = start / sectorBytes
            let end = min((sector + 1) * sectorBytes, offset + new.count)
            let isKept = choice == 2 ? sector < tornAt : random.below(2) == 0
            if isKept { put(new[start - offset..<end - offset], at: start, in: &bytes) }
            start = end
        }
    }

    private static func put(_ new: ArraySlice<UInt8>, at offset: Int, in bytes: inout [UInt8]) {
        if bytes.count < offset + new.count {
            bytes += [UInt8](repeating: 0, count: offset + new.count - bytes.count)
        }
        bytes.replaceSubrange(offset..<offset + new.count, with: new)
    }

    private static func apply(_ change: NameChange, to names: inout [String: Node]) {
        switch change {
        case .link(let name, let node): names[name] = node
        case .unlink(let name), .moveOut(let name, _): names[name] = nil
        case .moveIn(let name, let node, _): names[name] = node
        case .rename(let source, let destination):
            // Its source may be one of the creations that were lost.
            guard let node = names[source] else { return }
            if case .directory = node, names[destination] != nil { return }
            names[source] = nil
            names[destination] = node
        case .exchange(let name, let other):
            guard let first = names[name], let second = names[other] else { return }
            (names[name], names[other]) = (second, first)
        }
    }

    private static func split(_ path: String) -> (directory: String, name: String) {
        guard let slash = path.lastIndex(of: "/") else { return (".", path) }
        if slash == path.startIndex { return ("/", String(path.dropFirst())) }
        return (String(path[..<slash]), String(path[path.index(after: slash)...]))
    }
}
