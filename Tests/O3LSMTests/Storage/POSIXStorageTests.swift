import Glibc
import Testing

@testable import O3LSM

@Suite struct POSIXStorageTests {
    private let directory: TemporaryDirectory
    private let storage = POSIXStorage()

    init() throws { directory = try TemporaryDirectory() }

    private func path(_ name: String) -> String { directory.path + "/" + name }

    private func append(_ file: any WritableFile, _ bytes: [UInt8]) throws {
        try bytes.withEngineBytes { (bytes) throws(EngineError) in try file.append(bytes) }
    }

    private func contents(_ name: String) throws -> [UInt8] {
        let file = try storage.openForReading(path(name))
        var bytes = [UInt8](repeating: 0, count: Int(file.size) + 10)
        var failure: EngineError?
        let count = bytes.withUnsafeMutableBytes { buffer -> Int in
            do throws(EngineError) { return try file.read(at: 0, into: buffer) } catch {
                failure = error
                return 0
            }
        }
        if let failure { throw failure }
        return Array(bytes.prefix(count))
    }

    @Test func appendsOfEverySizeArrive() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededRandom(seed)
        let file = try storage.create(path("f"))
        var model: [UInt8] = []
        for _ in 0..<60 {
            let size =
                [0, 1, 100, 5000, 200_000, (256 << 10) - 1, 256 << 10, 600_000].randomElement(using: &generator) ?? 0
            let bytes = [UInt8](repeating: UInt8.random(in: 0...255, using: &generator), count: size)
            try append(file, bytes)
            model += bytes
            #expect(file.size == UInt64(model.count))
            switch Int.random(in: 0..<8, using: &generator) {
            case 0: try file.flush()
            case 1: try file.sync()
            default: break
            }
        }
        try file.close()
        #expect(try contents("f") == model)
        #expect(try storage.fileSize(path("f")) == UInt64(model.count))
        #expect(throws: EngineError.self) { try file.flush() }
    }

    @Test func onlyRegularFilesAreOpened() throws {
        let file = try storage.create(path("f"))
        try append(file, [1, 2, 3])
        try file.close()
        #expect(symlink(path("f"), path("link")) == 0)
        #expect(symlink(path("nowhere"), path("dangling")) == 0)
        #expect(mkfifo(path("pipe"), 0o600) == 0)
        #expect(mkdir(path("directory"), 0o700) == 0)
        for name in ["link", "dangling", "pipe", "directory"] {
            #expect(throws: EngineError.self, "\(name)") { _ = try storage.create(path(name)) }
            #expect(throws: EngineError.self, "\(name)") { _ = try storage.reuse(path(name)) }
            #expect(throws: EngineError.self, "\(name)") { _ = try storage.openForReading(path(name)) }
        }
        #expect(try contents("f") == [1, 2, 3])
        #expect(!storage.exists(path("nowhere")))
    }

    @Test func aDirectoryThatEverybodyWritesToHoldsNoStore() throws {
        #expect(chmod(directory.path, 0o777) == 0)
        let error = #expect(throws: EngineError.self) { _ = try storage.lock(path("LOCK")) }
        #expect(error?.description.contains("everybody may write") ?? false)
        #expect(chmod(directory.path, 0o775) == 0)
        _ = try storage.lock(path("LOCK"))
    }

    @Test(.enabled(if: geteuid() == 0, "needs root, to give a directory to others"))
    func aDirectoryThatAGroupWritesToHoldsNoStore() throws {
        #expect(chown(directory.path, 0, 1) == 0 && chmod(directory.path, 0o775) == 0)
        let error = #expect(throws: EngineError.self) { _ = try storage.lock(path("LOCK")) }
        #expect(error?.description.contains("the members of group 1 may write") ?? false)
        #expect(chmod(directory.path, 0o755) == 0)
        _ = try storage.lock(path("LOCK"))
    }

    @Test func whoseDirectoriesAreTrusted() {
        #expect(OwnDirectory.mayHoldStore(owner: 1000, user: 1000) && OwnDirectory.mayHoldStore(owner: 0, user: 1000))
        #expect(OwnDirectory.mayHoldStore(owner: 1000, user: 0) && !OwnDirectory.mayHoldStore(owner: 1001, user: 1000))
        #expect(OwnDirectory.isTrusted(owner: 1000, parentOwner: 0, user: 1000))
        #expect(OwnDirectory.isTrusted(owner: 1000, parentOwner: 1000, user: 0))
        #expect(!OwnDirectory.isTrusted(owner: 1000, parentOwner: 0, user: 0))
        #expect(!OwnDirectory.isTrusted(owner: 0, parentOwner: 0, user: 1000))
        #expect(!OwnDirectory.isTrusted(owner: 1001, parentOwner: 1001, user: 1000))
    }

    @Test func treesAreRemovedWithoutFollowingLinks() throws {
        for name in ["kept", "tree", "tree/a", "tree/a/b"] { try storage.createNewDirectory(path(name)) }
        for name in ["kept/f", "tree/f", "tree/a/b/f"] { try storage.create(path(name)).close() }
        #expect(symlink(path("kept"), path("tree/a/link")) == 0 && symlink(path("kept"), path("link")) == 0)
        for attempt in [{ try storage.removeTree(path("link")) }, { try storage.removeTree(path("link/")) },
            { try storage.checkOwn(path("link")) }, { try storage.createDirectory(path("link")) },
            { try storage.createNewDirectory(path("tree")) }, { try storage.checkOwn(path("kept/f")) }]
        {
            #expect(throws: EngineError.self) { try attempt() }
        }
        try storage.removeTree(path("tree"))
        #expect(!storage.exists(path("tree")))
        #expect(try storage.list(directory.path).sorted() == ["kept", "link"])
        #expect(try storage.list(path("kept")) == ["f"])
    }

    @Test(.enabled(if: geteuid() == 0, "needs root, to give a directory to others"))
    func directoriesOfOthersAreLeftAlone() throws {
        for name in ["theirs", "theirs/below"] { try storage.createNewDirectory(path(name)) }
        #expect(chown(path("theirs"), 4711, 4711) == 0)
        #expect(throws: EngineError.self) { try storage.createDirectory(path("theirs")) }
        #expect(throws: EngineError.self) { try storage.removeTree(path("theirs")) }
        #expect(storage.exists(path("theirs/below")))
    }

    @Test func reuseOverwritesWithoutTruncating() throws {
        let first = try storage.create(path("f"))
        try append(first, [1, 2, 3, 4, 5])
        try first.close()
        let second = try storage.reuse(path("f"))
        #expect(second.size == 0)
        try append(second, [9, 9])
        try second.close()
        #expect(try contents("f") == [9, 9, 3, 4, 5])
        try storage.create(path("f")).close()
        #expect(try contents("f") == [])
        #expect(throws: EngineError.io(operation: "open", path: path("none"), code: ENOENT)) {
            try storage.reuse(path("none"))
        }
    }

    @Test func readsStopAtTheEnd() throws {
        let file = try storage.create(path("f"))
        try append(file, Array(0..<100))
        try file.close()
        let reader = try storage.openForReading(path("f"))
        #expect(reader.size == 100)
        var buffer = [UInt8](repeating: 0, count: 50)
        for (offset, expected) in [(UInt64(0), 50), (70, 30), (100, 0), (5000, 0)] {
            let count = try buffer.withUnsafeMutableBytes { try reader.read(at: offset, into: $0) }
            #expect(count == expected)
            if expected > 0 { #expect(buffer[0] == UInt8(offset)) }
        }
        #expect(throws: EngineError.self) { try buffer.withUnsafeMutableBytes { try reader.read(at: .max, into: $0) } }
        reader.prefetch(at: 0, length: 100)
        reader.prefetch(at: .max, length: 1)
    }

    @Test func directories() throws {
        try storage.createDirectory(path("d"))
        try storage.createDirectory(path("d"))
        for name in ["b", "a", "c"] { try storage.create(path("d/" + name)).close() }
        try storage.rename(path("d/a"), to: path("d/b"))
        try storage.delete(path("d/c"))
        try storage.syncDirectory(path("d"))
        #expect(try storage.list(path("d")) == ["b"])
        #expect(storage.exists(path("d/b")) && !storage.exists(path("d/a")))
        try storage.create(path("f")).close()
        #expect(throws: EngineError.self) { try storage.createDirectory(path("f")) }
        #expect(throws: EngineError.self) { try storage.list(path("none")) }
        #expect(throws: EngineError.self) { try storage.delete(path("none")) }
        #expect(throws: EngineError.self) { try storage.rename(path("none"), to: path("x")) }
        #expect(throws: EngineError.self) { try storage.syncDirectory(path("none")) }
        #expect(throws: EngineError.self) { try storage.fileSize(path("none")) }
        #expect(throws: EngineError.self) { try storage.create(path("none/f")) }
        let space = try storage.space(directory.path)
        #expect(space.free <= space.total && space.total > 0)
    }

    @Test func filesBelongToTheirOwner() throws {
        try storage.create(path("f")).close()
        var status = stat()
        #expect(stat(path("f"), &status) == 0)
        #expect(status.st_mode & 0o077 == 0)
    }

    @Test func lockHasOneHolder() throws {
        let lock = path("LOCK")
        do {
            let held = try storage.lock(lock)
            #expect(throws: EngineError.storeInUse(path: directory.path, owner: "this process (\(getpid()))")) {
                try storage.lock(lock)
            }
            #expect(try contents("LOCK") == Array("\(getpid())\n".utf8))
            withExtendedLifetime(held) {}
        }
        let again = try storage.lock(lock)
        withExtendedLifetime(again) {}
    }

    @Test func fullDeviceIsAnErrorAndCanBeWaitedOut() throws {
        let file = try storage.reuse("/dev/full")
        try append(file, [1, 2, 3])
        #expect(throws: EngineError.io(operation: "write", path: "/dev/full", code: ENOSPC)) { try file.flush() }
        #expect(file.size == 3)
        #expect(throws: EngineError.self) { try append(file, [UInt8](repeating: 0, count: 300_000)) }
        #expect(file.size == 3)
    }

    @Test func faultsComeWhenPlanned() throws {
        let faulty = FaultyStorage(storage)
        faulty.fail(.append, path: "target", at: 2, times: 2, code: ENOSPC)
        let file = try faulty.create(path("target"))
        let other = try faulty.create(path("other"))
        try append(file, [1])
        try append(other, [1])
        for _ in 0..<2 { #expect(throws: EngineError.self) { try append(file, [2]) } }
        try append(file, [3])
        faulty.fail(.sync, times: .max)
        for _ in 0..<3 { #expect(throws: EngineError.self) { try file.sync() } }
        faulty.heal()
        try file.close()
        #expect(try contents("target") == [1, 3])
        faulty.cutShort(.append)
        let third = try faulty.create(path("third"))
        #expect(throws: EngineError.self) { try append(third, [1, 2, 3, 4]) }
        #expect(try contents("third") == [1, 2])
        #expect(faulty.calls(.append) == 6)
    }
}
