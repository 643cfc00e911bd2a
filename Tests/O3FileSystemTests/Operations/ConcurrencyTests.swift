import Dispatch
import Glibc
import O3LSM
import Synchronization
import Testing

@testable import O3FileSystem

@Suite struct ConcurrencyTests {
    /// Runs `body` on several threads, all begun at once.
    private func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
        DispatchQueue.concurrentPerform(iterations: count) { body($0) }
    }

    @Test func manyThreadsLeaveASoundTree() throws {
        let fs = try FileSystem(MemoryStore())
        let places = try (0..<3).map { try fs.mkdir(rootInode, "d\($0)").inode }
        let seed = UInt64.random(in: 0...UInt64.max)
        let unexpected = Mutex<[String]>([])
        onThreads(6) { thread in
            var random = SeededGenerator(seed: seed &+ UInt64(thread))
            for _ in 0..<1500 {
                let place = places.randomElement(using: &random) ?? rootInode
                let other = places.randomElement(using: &random) ?? rootInode
                let name = "n\(Int.random(in: 0..<6, using: &random))"
                let newName = "n\(Int.random(in: 0..<6, using: &random))"
                do throws(FileSystemError) {
                    switch Int.random(in: 0..<9, using: &random) {
                    case 0: try fs.touch(place, name)
                    case 1: try fs.mkdir(place, name)
                    case 2: try fs.remove(place, name)
                    case 3: try fs.rmdir(place, name)
                    case 4: try fs.move(place, name, other, newName)
                    case 5: try fs.move(place, name, other, newName, .exchange)
                    case 6: try fs.hardLink(fs.find(place, name).inode, other, newName)
                    case 7:
                        let found = try fs.find(place, name, retain: true)
                        defer { fs.forget(found.inode, count: 1) }
                        // Held, it must stay whatever the others do.
                        _ = try fs.getAttributes(found.inode)
                        if found.type == .regular { try fs.put(found.inode, 0, pattern(5000)) }
                    default: _ = try fs.list(place, attributes: true)
                    }
                } catch {
                    let expected: Set<Int32> = [ENOENT, EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, EPERM, EINVAL]
                    if !expected.contains(error.posixCode) { unexpected.withLock { $0.append("\(error)") } }
                }
            }
        }
        #expect(unexpected.withLock { $0 } == [], "seed \(seed)")
        #expect(try fs.check() == [], "seed \(seed)")
        #expect(fs.lookups.inodeCount == 0)
    }

    @Test func heldFilesAreNeverTakenAway() throws {
        let fs = try FileSystem(MemoryStore())
        let lost = Atomic<Int>(0)
        onThreads(2) { thread in
            for index in 0..<3000 {
                if thread == 0 {
                    _ = try? fs.touch(rootInode, "f\(index % 3)")
                    try? fs.remove(rootInode, "f\(index % 3)")
                } else if let found = try? fs.find(rootInode, "f\(index % 3)", retain: true) {
                    if (try? fs.getAttributes(found.inode)) == nil { lost.wrappingAdd(1, ordering: .relaxed) }
                    fs.forget(found.inode, count: 1)
                }
            }
        }
        #expect(lost.load(ordering: .relaxed) == 0)
        #expect(try fs.check() == [])
    }

    /// Each write fills the file with one byte, or cuts it: a read must see one write, whole.
    @Test func readsSeeWholeWrites() throws {
        let fs = try FileSystem(MemoryStore())
        let file = try fs.touch(rootInode, "f").inode
        let torn = Mutex<[String]>([])
        let isDone = Atomic<Bool>(false)
        let lengths = [3 * 4096, 40_000]
        onThreads(3) { thread in
            if thread == 0 {
                for index in 0..<600 {
                    let byte = UInt8(index % 255 + 1)
                    _ = try? fs.resize(file, 0)
                    _ = try? fs.put(file, 0, [UInt8](repeating: byte, count: lengths[index % 2]))
                }
                isDone.store(true, ordering: .releasing)
            } else {
                while !isDone.load(ordering: .acquiring) {
                    let seen = (try? fs.get(file)) ?? [1, 2]
                    let isWhole = seen.isEmpty || (lengths.contains(seen.count) && Set(seen).count == 1 && seen[0] != 0)
                    if !isWhole { torn.withLock { $0.append("\(seen.count) bytes of \(Set(seen).sorted())") } }
                }
            }
        }
        #expect(torn.withLock { $0 } == [])
        #expect(try fs.check() == [])
    }
}
