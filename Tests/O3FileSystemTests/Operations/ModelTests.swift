import Glibc
import Synchronization
import Testing

@testable import O3FileSystem
@testable import O3LSM

/// Runs the same random operations on a file system and on the model, and compares answers and trees.
struct ModelRun {
    private var random: SeededGenerator
    private var model = ModelFileSystem()
    private var fs: FileSystem
    private let reopen: (FileSystem) throws -> FileSystem
    /// The model's number of each file → the file system's.
    private var inodes: [Int: InodeNumber] = [0: rootInode]
    private let label: String

    init(seed: UInt64, _ fs: FileSystem, reopen: @escaping (FileSystem) throws -> FileSystem) {
        random = SeededGenerator(seed: seed)
        self.fs = fs
        self.reopen = reopen
        label = "seed \(seed)"
    }

    mutating func run(steps: Int, reopenEvery: Int) throws {
        for step in 1...steps {
            try oneStep()
            if step % reopenEvery == 0 {
                try compare()
                fs = try reopen(fs)
            }
        }
        try compare()
        #expect(try fs.check() == [], "\(label)")
    }

    private mutating func number(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &random) }
    private mutating func name() -> String { "n\(number(12))" }
    private mutating func directory() -> Int { model.directories.randomElement(using: &random) ?? 0 }

    /// Both answer the same: nothing, or the same errno.
    private func both(_ what: String, _ first: () throws -> Void, _ second: () throws -> Void) {
        var codes: (Int32, Int32) = (0, 0)
        do { try first() } catch { codes.0 = (error as? ModelFileSystem.Failure)?.code ?? -1 }
        do { try second() } catch { codes.1 = (error as? FileSystemError)?.posixCode ?? -1 }
        #expect(codes.0 == codes.1, "\(what), \(label)")
    }

    private mutating func make(_ file: ModelFileSystem.File) {
        let parent = directory()
        let name = name()
        var model = model
        var made: Int?
        var inode: InodeNumber?
        both("make \(name)", { made = try model.make(parent, name, file) }) {
            let place = inodes[parent] ?? 0
            if file.isDirectory {
                inode = try fs.mkdir(place, name, permissions: file.mode).inode
            } else if let target = file.target {
                inode = try fs.symlink(place, name, to: target).inode
            } else {
                inode = try fs.touch(place, name, permissions: file.mode).inode
            }
        }
        self.model = model
        if let made { inodes[made] = inode }
    }

    private mutating func oneStep() throws {
        let kind = number(100)
        var model = model
        let fs = fs
        switch kind {
        case 0..<12: make(ModelFileSystem.File(mode: UInt32(number(0o1000))))
        case 12..<20: make(ModelFileSystem.File(isDirectory: true, mode: UInt32(number(0o1000))))
        case 20..<22: make(ModelFileSystem.File(target: "to/\(number(100))", mode: 0o777))
        case 22..<27:
            guard let file = Array(model.files.keys.sorted()).randomElement(using: &random) else { return }
            let parent = directory()
            let name = name()
            both("link", { try model.link(file, parent, name) }) {
                try fs.hardLink(inodes[file] ?? 0, inodes[parent] ?? 0, name)
            }
            self.model = model
        case 27..<35:
            let parent = directory()
            let name = name()
            both("unlink", { try model.unlink(parent, name) }) { try fs.remove(inodes[parent] ?? 0, name) }
            self.model = model
        case 35..<39:
            let parent = directory()
            let name = name()
            both("rmdir", { try model.rmdir(parent, name) }) { try fs.rmdir(inodes[parent] ?? 0, name) }
            self.model = model
        case 39..<55:
            let places = (directory(), name(), directory(), name())
            let mode: RenameMode = [.replace, .replace, .noReplace, .exchange][number(4)]
            both("rename \(places) \(mode)", { try model.rename(places.0, places.1, places.2, places.3, mode) }) {
                try fs.move(inodes[places.0] ?? 0, places.1, inodes[places.2] ?? 0, places.3, mode)
            }
            self.model = model
        default: try dataStep(kind)
        }
    }

    private mutating func dataStep(_ kind: Int) throws {
        guard let file = model.regulars.randomElement(using: &random), let inode = inodes[file] else { return }
        // Edges of blocks are where mistakes live.
        let edge = number(12) * 4096
        let offset = number(3) == 0 ? number(50_000) : max(0, edge + number(5) - 2)
        switch kind {
        case 55..<75:
            let length = [number(10), number(5000), 4096, number(30_000)][number(4)]
            let isZero = number(4) == 0
            let bytes = isZero ? [UInt8](repeating: 0, count: length) : pattern(length, number(255))
            model.write(file, offset, bytes)
            try fs.put(inode, UInt64(offset), bytes)
        case 75..<80:
            model.resize(file, offset)
            try fs.resize(inode, UInt64(offset))
        case 80..<85:
            let length = 1 + number(30_000)
            let mode: AllocationMode = [.punchHole, .zeroRange, .zeroRangeKeepSize][number(3)]
            model.zero(file, offset..<offset + length, extends: mode == .zeroRange)
            try fs.allocate(inode, offset: UInt64(offset), length: UInt64(length), mode: mode)
        case 85..<92:
            let length = number(60_000)
            let data = model.files[file]?.data ?? []
            let expected = offset < data.count ? [UInt8](data[offset..<min(data.count, offset + length)]) : []
            #expect(try fs.get(inode, UInt64(offset), length) == expected, "\(label)")
        case 92..<96:
            let name = "user.\(number(4))"
            let value: [UInt8]? = number(3) == 0 ? nil : pattern(number(300))
            var model = model
            both("xattr", { try model.setAttribute(file, name, value) }) {
                if let value {
                    try fs.setAttribute(inode, name, value)
                } else {
                    try fs.removeAttribute(inode, name)
                }
            }
            self.model = model
        default:
            var changes = AttributeChanges()
            changes.mode = UInt32(number(0o1000))
            model.setMode(file, changes.mode ?? 0)
            _ = try fs.setAttributes(inode, changes)
        }
    }

    /// Every file, entry, byte and attribute.
    private func compare() throws {
        for (number, file) in model.files {
            let inode = try #require(inodes[number])
            let attributes = try fs.getAttributes(inode)
            #expect(attributes.linkCount == UInt32(file.links), "\(label)")
            #expect(number == 0 || attributes.mode & 0o7777 == file.mode, "\(label)")
            if file.isDirectory {
                let listed = try fs.list(inode, limit: 5, attributes: true)
                let expected = file.entries.mapValues { inodes[$0] ?? 0 }
                #expect(
                    Dictionary(listed.map { ($0.name, $0.inode) }, uniquingKeysWith: { a, _ in a }) == expected,
                    "\(label)"
                )
                #expect(listed.count == file.entries.count && attributes.size == UInt64(listed.count), "\(label)")
                #expect(try number == 0 || fs.find(inode, "..").inode == inodes[file.parent], "\(label)")
            } else if let target = file.target {
                #expect(try fs.readSymbolicLink(inode) == [UInt8](target.utf8), "\(label)")
            } else {
                #expect(attributes.size == UInt64(file.data.count), "\(label)")
                #expect(try fs.get(inode) == file.data, "\(label)")
                #expect(attributes.blocks512 == expectedBlocks(file.data) * 8, "\(label)")
                let names = file.attributes.keys.sorted().flatMap { Array($0.utf8) + [UInt8(0)] }
                #expect(try fs.listExtendedAttributes(inode) == names, "\(label)")
                for (name, value) in file.attributes { #expect(try fs.getAttribute(inode, name) == value, "\(label)") }
            }
        }
    }

    private func expectedBlocks(_ data: [UInt8]) -> UInt64 {
        var count: UInt64 = 0
        for start in stride(from: 0, to: data.count, by: 4096)
        where data[start..<min(data.count, start + 4096)].contains(where: { $0 != 0 }) { count += 1 }
        return count
    }
}

@Suite struct ModelTests {
    @Test(arguments: [0, 65_536]) func randomOperationsAgreeWithTheModel(_ cachedInodes: Int) throws {
        var options = FileSystem.Options()
        options.cachedInodes = cachedInodes
        for _ in 0..<2 {
            let store = MemoryStore()
            let settings = options
            var run = ModelRun(
                seed: UInt64.random(in: 0...UInt64.max),
                try FileSystem(store, options: settings),
                reopen: { _ in try FileSystem(store, options: settings) }
            )
            try run.run(steps: 1200, reopenEvery: 300)
        }
    }
}

/// The same on the engine: flushed and compacted on the way, closed and opened, and killed: what an
/// operation did is there after the death of the process that did it.
@Suite struct DatabaseModelTests {
    @Test(arguments: [0, 65_536]) func randomOperationsAgreeWithTheModelOnTheEngine(_ cachedInodes: Int) throws {
        let temporary = TemporaryStore()
        var options = FileSystem.Options()
        options.cachedInodes = cachedInodes
        let settings = options
        let database = Mutex(try temporary.open())
        let first = try FileSystem(database.withLock { $0 }, options: settings)
        let round = Atomic<Int>(0)
        var run = ModelRun(seed: UInt64.random(in: 0...UInt64.max), first) { fileSystem in
            switch round.wrappingAdd(1, ordering: .relaxed).newValue % 4 {
            case 0:
                try database.withLock { try $0.flush() }
                return fileSystem
            case 1:
                try database.withLock { try $0.compact() }
                return fileSystem
            case let kind:
                if kind == 2 { try fileSystem.close() }
                return try database.withLock { database in
                    if kind == 2 { try database.close() } else { database.core.stopThreads() }
                    database = try temporary.open()
                    return try FileSystem(database, options: settings)
                }
            }
        }
        try run.run(steps: 1600, reopenEvery: 160)
        try database.withLock { try $0.close() }
    }
}
