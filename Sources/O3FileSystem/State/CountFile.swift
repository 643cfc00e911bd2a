import CSystem
import Glibc
import O3LSM
import Synchronization

/// A file in memory that holds lookup counts, so that they outlive the process: whoever gets its descriptor goes on
/// with them.
///
///     0     magic (8)
///     64    a cell for each shard (16): size class of its table, counted from 1 (4); 1 while it is changed (4);
///           entries in it (8)
///     4096  for each size class, a place for each shard's table: capacity × 8 bytes of keys, × 4 of values
///
/// The file is sparse and mapped whole: only tables in use take memory. A table that grows is built in its new place before the cell
/// names it. Pages are touched when written, so a machine without memory ends the process, as it does with any
/// memory. Each cell and table is used under its shard's lock.
final class CountFile: @unchecked Sendable {
    // @unchecked: see the last sentence.
    static let shards = 64
    private static let magic: UInt64 = 0x3143_544e_5543_334f  // "O3CUNTC1"
    private static let cellsOffset = 64
    private static let cellBytes = 16

    let descriptor: Int32
    private let memory: UnsafeMutableRawPointer
    /// Whether it holds the counts of an earlier process.
    let isContinued: Bool

    /// With nil, makes a file. Else owns `descriptor` and goes on with what it holds. Throws when the system refuses, or
    /// the file is none of these.
    init(continuing descriptor: Int32?) throws(FileSystemError) {
        let file = descriptor ?? o3_memfd_create("o3fs-counts")
        guard file >= 0 else { throw Self.failure("make", -file) }
        self.descriptor = file
        isContinued = descriptor != nil
        if descriptor == nil, ftruncate(file, off_t(CountLadder.end)) != 0 {
            let code = errno
            close(file)
            throw Self.failure("size", code)
        }
        var status = stat()
        let mapped =
            fstat(file, &status) == 0 && status.st_size >= CountLadder.end
            ? mmap(nil, CountLadder.end, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0) : MAP_FAILED
        guard let mapped, mapped != MAP_FAILED else {
            let code = errno
            close(file)
            throw Self.failure("map", code)
        }
        memory = mapped
        if descriptor == nil { memory.storeBytes(of: Self.magic, as: UInt64.self) }
        guard memory.load(as: UInt64.self) == Self.magic else {
            munmap(mapped, CountLadder.end)
            close(file)
            throw Self.failure("understand", EINVAL)
        }
    }

    deinit {
        munmap(memory, CountLadder.end)
        close(descriptor)
    }

    private static func failure(_ what: String, _ code: Int32) -> FileSystemError {
        .engine(.io(operation: what, path: "the file of lookup counts", code: code))
    }

    // MARK: Cells

    func cell(_ shard: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        (memory + Self.cellsOffset + shard * Self.cellBytes).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    /// The size class of the shard's table; nil: there is none yet.
    func sizeClass(_ shard: Int) -> Int? {
        let stored = Int(cell(shard).pointee.load(ordering: .acquiring))
        return stored >= 1 && stored <= CountLadder.classes ? stored - 1 : nil
    }

    func setSizeClass(_ sizeClass: Int, _ shard: Int) {
        cell(shard).pointee.store(UInt32(sizeClass + 1), ordering: .releasing)
    }

    /// Whether a process died while it changed the table.
    func isTorn(_ shard: Int) -> Bool { (cell(shard) + 1).pointee.load(ordering: .acquiring) != 0 }

    @inline(__always)
    func setTorn(_ isTorn: Bool, _ shard: Int) {
        (cell(shard) + 1).pointee.store(isTorn ? 1 : 0, ordering: .sequentiallyConsistent)
    }

    @inline(__always)
    func setUsed(_ used: Int, _ shard: Int) {
        UnsafeMutableRawPointer(cell(shard) + 2).storeBytes(of: UInt64(used), as: UInt64.self)
    }

    func used(_ shard: Int) -> Int {
        Int(truncatingIfNeeded: UnsafeMutableRawPointer(cell(shard) + 2).load(as: UInt64.self))
    }

    // MARK: Tables

    func table(_ sizeClass: Int, _ shard: Int) -> UnsafeMutableRawPointer {
        memory + CountLadder.place(sizeClass, shard).offset
    }

    /// Makes a table's memory zeros, and gives its pages back.
    func clear(_ sizeClass: Int, _ shard: Int) {
        let (offset, length) = CountLadder.place(sizeClass, shard)
        _ = o3_fallocate(
            descriptor, o3_FALLOC_FL_PUNCH_HOLE | o3_FALLOC_FL_KEEP_SIZE, Int64(offset), Int64(length))
    }
}

/// The capacities a table may have, each half as large again as the one before, and their places in a `CountFile`.
enum CountLadder {
    /// The largest holds 4.6 million entries, all shards together 295 million: 3.5 GB.
    static let classes = 32
    static let entryBytes = 12

    static let capacities: [Int] = {
        var all = [16]
        while all.count < classes { all.append(all[all.count - 1] + all[all.count - 1] / 2) }
        return all
    }()

    private static func lengthBytes(_ sizeClass: Int) -> Int { (capacities[sizeClass] * entryBytes + 4095) & ~4095 }

    private static let offsets: [Int] = {
        var all = [4096]
        for sizeClass in 0..<classes { all.append(all[sizeClass] + lengthBytes(sizeClass) * CountFile.shards) }
        return all
    }()

    /// Bytes of a file.
    static var end: Int { offsets[classes] }

    static func place(_ sizeClass: Int, _ shard: Int) -> (offset: Int, length: Int) {
        let length = lengthBytes(sizeClass)
        return (offsets[sizeClass] + shard * length, length)
    }
}
