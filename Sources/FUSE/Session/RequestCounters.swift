import CFUSE3
import Glibc
import Synchronization

/// How often the kernel asked for one kind of operation, and how that went.
public struct RequestCount: Equatable, Sendable {
    public var count: UInt64 = 0
    /// Answers with an error number; most are expected ones.
    public var errors: UInt64 = 0
    /// Time from request to answer, all threads together.
    public var nanoseconds: UInt64 = 0
}

/// Counts of one thread's requests by operation. One thread writes, any may read.
final class RequestCounters: Sendable {
    /// Operations the protocol numbers below this; further ones share the last place.
    private static let operations = 64
    private static let fields = 3

    // Never moves or changes size; what it points to is atomic.
    private nonisolated(unsafe) let cells: UnsafeMutablePointer<Atomic<UInt64>>

    init() {
        let count = Self.operations * Self.fields
        cells = .allocate(capacity: count)
        for index in 0..<count { (cells + index).initialize(to: Atomic(0)) }
    }

    deinit { cells.deallocate() }

    private let current = Atomic<UInt32>(0)
    /// The operation that the thread is at; 0: none.
    var operation: UInt32 {
        get { current.load(ordering: .relaxed) }
        set { current.store(newValue, ordering: .relaxed) }
    }

    /// How often an operation has been done.
    func count(of operation: fuse_opcode) -> UInt64 { value(Int(operation.rawValue), 0) }

    func add(_ opcode: UInt32, nanoseconds: UInt64) {
        increase(opcode, 0, by: 1)
        increase(opcode, 2, by: nanoseconds)
    }

    func addError(_ opcode: UInt32) { increase(opcode, 1, by: 1) }

    /// Adds what was counted to `total`, by the operation's name in the protocol, in lower case.
    func add(to total: inout [String: RequestCount]) {
        for opcode in 0..<Self.operations {
            let count = value(opcode, 0)
            guard count > 0 else { continue }
            var entry = total[Self.name(opcode)] ?? RequestCount()
            entry.count += count
            entry.errors += value(opcode, 1)
            entry.nanoseconds += value(opcode, 2)
            total[Self.name(opcode)] = entry
        }
    }

    private func value(_ opcode: Int, _ field: Int) -> UInt64 {
        cells[opcode * Self.fields + field].load(ordering: .relaxed)
    }

    /// One writer: a load and a store do, without a locked instruction.
    private func increase(_ opcode: UInt32, _ field: Int, by amount: UInt64) {
        let cell = cells + min(Int(opcode), Self.operations - 1) * Self.fields + field
        cell.pointee.store(cell.pointee.load(ordering: .relaxed) &+ amount, ordering: .relaxed)
    }

    private static func name(_ opcode: Int) -> String { names[opcode] ?? "other" }

    private static let names: [Int: String] = [
        1: "lookup", 2: "forget", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 8: "mknod", 9: "mkdir",
        10: "unlink", 11: "rmdir", 12: "rename", 13: "link", 14: "open", 15: "read", 16: "write", 17: "statfs",
        18: "release", 20: "fsync", 21: "setxattr", 22: "getxattr", 23: "listxattr", 24: "removexattr", 25: "flush",
        26: "init", 27: "opendir", 28: "readdir", 29: "releasedir", 30: "fsyncdir", 34: "access", 35: "create",
        36: "interrupt", 38: "destroy", 42: "batch_forget", 43: "fallocate", 44: "readdirplus", 45: "rename2",
        46: "lseek", 47: "copy_file_range", 51: "tmpfile", 52: "statx",
    ]
}

/// Nanoseconds of the clock that never goes back.
func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}
