import CSystem
import Glibc
import O3FileSystem
import O3LSM
import Synchronization
import Testing

@testable import FUSE
@testable import o3fs

/// What the kernel is told, where it takes more from an answer than it says.
@Suite struct FileSystemAdapterTests {
    private let directory: TemporaryDirectory
    private let store: CountingStore
    private let files: FileSystem
    private let adapter: FileSystemAdapter
    private let node: NodeID
    private let context = RequestContext(uid: 0, gid: 0, pid: 1, umask: 0, unique: 2)

    init() throws {
        directory = try TemporaryDirectory("adapter")
        var engine = O3LSM.Options()
        engine.dmSize = 32 << 20
        engine.memtableSize = 1 << 20
        store = CountingStore(try Database.open(directory.path + "/store", options: engine))
        var options = FileSystem.Options()
        options.maximumBytes = .to(8 * 4096)
        files = try FileSystem(store, options: options)
        adapter = FileSystemAdapter(files) { Issue.record("\($0)") }
        let name = [UInt8]("file".utf8)
        let (files, adapter, context) = (files, adapter, context)
        node = try name.withUnsafeBytes { name in
            _ = try adapter.makeNode(context, parent: rootNode, name: name, mode: S_IFREG | 0o644, rdev: 0)
            return try files.lookup(rootInode, name).inode
        }
    }

    private func write(
        _ count: Int, at offset: UInt64 = 0, flags: Int32 = 0, isWriteBack: Bool = false
    ) throws(Errno) -> Int {
        let bytes = [UInt8](repeating: 1, count: count)
        return try bytes.span.withUnsafeBytes { (bytes) throws(Errno) in
            try adapter.write(
                context, node: node,
                WriteRequest(
                    offset: offset, bytes: bytes, handle: 0, openFlags: O_RDWR | flags, isWriteBack: isWriteBack,
                    clearsPrivileges: false))
        }
    }

    /// A program hears how much was written; the kernel does not listen when it writes back pages.
    @Test func pagesThatDoNotFitAreNotTakenForWritten() throws {
        #expect(throws: Errno(ENOSPC)) { try write(10 * 4096, isWriteBack: true) }
        // What there is room for is kept, and may be written again.
        #expect(try files.getAttributes(node).size == 8 * 4096)
        #expect(try write(8 * 4096, isWriteBack: true) == 8 * 4096)
        #expect(throws: Errno(ENOSPC)) { try write(4096, at: 8 * 4096, isWriteBack: true) }
        #expect(try write(10 * 4096) == 8 * 4096)
        try store.close()
    }

    /// The kernel sends no fsync after asynchronous writes past its cache.
    @Test func directWritesThatAreToBeDurableAre() throws {
        let before = store.syncs
        for flags in [0, O_DSYNC, O_SYNC, o3_O_DIRECT] { _ = try write(4096, flags: flags) }
        #expect(store.syncs == before)
        for (count, flags) in [O_DSYNC, O_SYNC].enumerated() {
            #expect(try write(4096, flags: o3_O_DIRECT | flags) == 4096)
            #expect(store.syncs == before + count + 1)
        }
        // Also what did not fit altogether.
        #expect(try write(10 * 4096, flags: o3_O_DIRECT | O_DSYNC) == 8 * 4096)
        #expect(store.syncs == before + 3)
        try store.close()
    }
}

/// Counts how often a store is asked to make everything durable.
private final class CountingStore: KeyValueStore {
    private let database: Database
    private let count = Atomic<Int>(0)

    init(_ database: Database) { self.database = database }

    var syncs: Int { count.load(ordering: .relaxed) }

    func close() throws { try database.close() }

    func sync() throws(EngineError) {
        count.add(1, ordering: .relaxed)
        try database.sync()
    }

    func lookup(_ key: UnsafeRawBufferPointer, snapshot: Snapshot?) throws(EngineError) -> PinnedValue? {
        try database.lookup(key, snapshot: snapshot)
    }
    func multiGet(_ keys: [[UInt8]], snapshot: Snapshot?) throws(EngineError) -> [[UInt8]?] {
        try database.multiGet(keys, snapshot: snapshot)
    }
    func write(_ batch: WriteBatch, sync: Bool) throws(EngineError) { try database.write(batch, sync: sync) }
    func writeWithoutWaiting(_ batch: WriteBatch) throws(EngineError) -> Bool { try database.writeWithoutWaiting(batch) }
    func makeSnapshot() -> Snapshot { database.makeSnapshot() }
    func makeCursor(_ options: ReadOptions) throws(EngineError) -> any KeyValueCursor {
        try database.makeCursor(options)
    }
    func space() throws(EngineError) -> (free: UInt64, total: UInt64) { try database.space() }
}
