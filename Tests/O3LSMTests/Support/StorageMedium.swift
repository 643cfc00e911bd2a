@testable import O3LSM

/// A recorded history as the medium sees it: goes through its operations one by one and can say after each what
/// may be there when power comes back. Used by one thread.
///
/// Bytes are certain once their file was synced, names once their directory was. Of the rest anything may be
/// there: any of the writes, in any order, each torn at 512 bytes; any of the creations, renames and unlinks.
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

    private enum NameChange {
        case link(String, RecordedStorage.FileNumber)
        case rename(String, String)
        case unlink(String)
    }

    private struct Directory {
        var durable: [String: RecordedStorage.FileNumber] = [:]
        var pending: [NameChange] = []
    }

    private var files: [RecordedStorage.FileNumber: File] = [:]
    private var directories: [String: Directory] = [:]
    /// Those whose own name no sync of their parent has covered; they go with all that is in them.
    private var unsyncedDirectories: Set<String> = []
    /// Batches whose write had been called, and the last one that a sync which had returned covered.
    private(set) var begun = 0
    private(set) var synced = 0

    /// Nothing is there.
    init() {}

    /// All that was there before a history, and how far the work was.
    init(_ start: RecordedStorage.Start, begun: Int, synced: Int) {
        for path in start.directories { directories[path] = Directory() }
        for (path, number) in start.names {
            let (directory, name) = Self.split(path)
            directories[directory, default: Directory()].durable[name] = number
            files[number] = File(durable: start.contents[number] ?? [])
        }
        (self.begun, self.synced) = (begun, synced)
    }

    /// - Returns: whether the operation changed storage, so that this is another point to cut at.
    mutating func apply(_ operation: RecordedStorage.Operation) -> Bool {
        switch operation {
        case .createDirectory(let path):
            guard directories[path] == nil else { break }
            directories[path] = Directory()
            unsyncedDirectories.insert(path)
        case .create(let path, let number):
            files[number] = File()
            change(path) { .link($0, number) }
        case .truncate(let number): files[number]?.pending.append(.truncate)
        case .write(let number, let offset, let bytes):
            files[number]?.pending.append(.bytes(offset: offset, bytes))
        case .sync(let number):
            guard let file = files[number] else { break }
            files[number] = File(durable: file.pending.reduce(into: file.durable) { Self.apply($1, to: &$0) })
        case .rename(let source, let destination):
            let (_, name) = Self.split(destination)
            change(source) { .rename($0, name) }
        case .unlink(let path): change(path) { .unlink($0) }
        case .syncDirectory(let path):
            unsyncedDirectories = unsyncedDirectories.filter { Self.split($0).directory != path }
            guard var directory = directories[path] else { break }
            for change in directory.pending { Self.apply(change, to: &directory.durable) }
            directory.pending = []
            directories[path] = directory
        case .progress(let begun, let synced):
            (self.begun, self.synced) = (begun, synced)
            return false
        }
        return true
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
        let result = MemoryStorage()
        var lost: Set<String> = []
        for (path, directory) in directories.sorted(by: { $0.key < $1.key }) {
            if lost.contains(Self.split(path).directory) || isLost(path, loss, &random) {
                lost.insert(path)
                continue
            }
            var names = directory.durable
            let pending = directory.pending
            switch loss {
            case .everything, .names: break
            case .nothing, .bytes: for change in pending { Self.apply(change, to: &names) }
            case .torn: for change in pending.prefix(random.below(pending.count + 1)) { Self.apply(change, to: &names) }
            case .shuffled: for change in pending where random.below(2) == 0 { Self.apply(change, to: &names) }
            }
            // A directory that is there already is no error, and nothing else can go wrong in memory.
            try? result.createDirectory(path)
            for (name, number) in names { result.set(path + "/" + name, to: contents[number] ?? []) }
        }
        return result
    }

    private func isLost(_ directory: String, _ loss: Loss, _ random: inout SeededRandom) -> Bool {
        guard unsyncedDirectories.contains(directory) else { return false }
        switch loss {
        case .everything, .names: return true
        case .nothing, .bytes: return false
        case .torn, .shuffled: return random.below(2) == 0
        }
    }

    private mutating func change(_ path: String, _ make: (String) -> NameChange) {
        let (directory, name) = Self.split(path)
        directories[directory, default: Directory()].pending.append(make(name))
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

    private static func apply(_ change: NameChange, to names: inout [String: RecordedStorage.FileNumber]) {
        switch change {
        case .link(let name, let number): names[name] = number
        case .unlink(let name): names[name] = nil
        case .rename(let source, let destination):
            // Its source may be one of the creations that were lost.
            if let number = names.removeValue(forKey: source) { names[destination] = number }
        }
    }

    private static func split(_ path: String) -> (directory: String, name: String) {
        guard let slash = path.lastIndex(of: "/") else { return (".", path) }
        if slash == path.startIndex { return ("/", String(path.dropFirst())) }
        return (String(path[..<slash]), String(path[path.index(after: slash)...]))
    }
}
