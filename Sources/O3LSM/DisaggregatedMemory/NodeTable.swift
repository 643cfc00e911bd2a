import Glibc

/// The processes attached to a region. A node is named by process id *and* start time, because ids are
/// reused; its heartbeat says that it still makes progress.
struct NodeTable: @unchecked Sendable {
    // @unchecked: all access to shared words is atomic or by the slot's owner.

    /// What a process is to the store.
    enum Role: UInt32, Sendable {
        case computeNode = 1
        case worker = 2
    }

    /// A copy of one row.
    struct Node: Sendable {
        var index: Int
        var role: Role
        var processID: Int32
        var startTime: UInt64
        var heartbeat: UInt64
        /// Jobs it is executing, can execute at once, and has finished.
        var load: UInt32
        var capacity: UInt32
        var finished: UInt64
        var roles: Set<JobKind>
        var build: UInt32
    }

    private let region: Region

    init(_ region: Region) { self.region = region }

    /// Takes a free row for this process; nil when all are taken. The row of a dead process is free once its
    /// claims have been taken back: before, they would seem to be those of the process that comes after it.
    ///
    /// - Parameters:
    ///   - roles: kinds of jobs that it executes.
    ///   - capacity: jobs that it can execute at once.
    func attach(role: Role, roles: Set<JobKind> = [], capacity: Int = 0) -> Int? {
        for index in 0..<RegionLayout.Node.count {
            let row = self.row(index)
            let state = sharedWord32(row + RegionLayout.Node.state)
            let found = state.pointee.load(ordering: .acquiring)
            guard isVacant(index, found) else { continue }
            // Several processes may attach at once: one of them keeps the row while it fills it.
            let attaching = NodeTable.attachingState(of: getpid())
            guard state.pointee.compareExchange(expected: found, desired: attaching, ordering: .acquiring).exchanged
            else { continue }
            FaultPoint.midAttach.hit()
            row.storeBytes(of: BuildIdentity.current, toByteOffset: RegionLayout.Node.build, as: UInt32.self)
            row.storeBytes(of: UInt32(capacity), toByteOffset: RegionLayout.Node.capacity, as: UInt32.self)
            row.storeBytes(
                of: roles.reduce(UInt32(0)) { $0 | 1 << $1.rawValue }, toByteOffset: RegionLayout.Node.roles, as: UInt32.self)
            sharedWord64(row + RegionLayout.Node.finished).pointee.store(0, ordering: .relaxed)
            row.storeBytes(of: role.rawValue, toByteOffset: RegionLayout.Node.role, as: UInt32.self)
            row.storeBytes(of: UInt32(getpid()), toByteOffset: RegionLayout.Node.processID, as: UInt32.self)
            row.storeBytes(
                of: processStartTime(getpid()) ?? 0, toByteOffset: RegionLayout.Node.startTime, as: UInt64.self)
            sharedWord64(row + RegionLayout.Node.heartbeat).pointee.store(monotonicNanoseconds(), ordering: .relaxed)
            sharedWord32(row + RegionLayout.Node.load).pointee.store(0, ordering: .relaxed)
            state.pointee.store(1, ordering: .releasing)
            return index
        }
        return nil
    }

    /// Whether a row in that state can be taken.
    private func isVacant(_ index: Int, _ state: UInt32) -> Bool {
        switch state {
        case 0: return true
        case 1: return !isAlive(index) && !JobTable(region).hasClaim(of: index)
        default:
            // Somebody fills it, or has died at that: then the row holds nothing yet, so no claims either. An id that
            // has been given to another process meanwhile keeps the row for as long as that one lives.
            return state & 0xff != 2 || processStartTime(Int32(state >> 8)) == nil
        }
    }

    /// The state of a row that a process is filling: 2, and above it the process's id, of at most 22 bits.
    static func attachingState(of processID: Int32) -> UInt32 { UInt32(truncatingIfNeeded: processID) << 8 | 2 }

    func detach(_ index: Int) { sharedWord32(row(index) + RegionLayout.Node.state).pointee.store(0, ordering: .releasing) }

    /// Says that the node makes progress.
    func beat(_ index: Int) {
        sharedWord64(row(index) + RegionLayout.Node.heartbeat).pointee.store(monotonicNanoseconds(), ordering: .relaxed)
    }

    /// Counts a job in (1) or out (-1) of the node's load.
    func countJob(_ index: Int, _ change: Int) {
        let load = sharedWord32(row(index) + RegionLayout.Node.load)
        if change > 0 {
            _ = load.pointee.wrappingAdd(1, ordering: .relaxed)
        } else {
            _ = load.pointee.wrappingSubtract(1, ordering: .relaxed)
            _ = sharedWord64(row(index) + RegionLayout.Node.finished).pointee.wrappingAdd(1, ordering: .relaxed)
        }
    }

    /// Every attached node whose process still lives.
    func nodes() -> [Node] { attachedRows().filter { isAlive($0.index) } }

    /// Every attached node; its process may be dead.
    func attachedRows() -> [Node] {
        (0..<RegionLayout.Node.count).compactMap { index in
            let row = self.row(index)
            guard sharedWord32(row + RegionLayout.Node.state).pointee.load(ordering: .acquiring) == 1,
                let role = Role(rawValue: row.load(fromByteOffset: RegionLayout.Node.role, as: UInt32.self))
            else { return nil }
            return Node(
                index: index, role: role,
                processID: Int32(bitPattern: row.load(fromByteOffset: RegionLayout.Node.processID, as: UInt32.self)),
                startTime: row.load(fromByteOffset: RegionLayout.Node.startTime, as: UInt64.self),
                heartbeat: sharedWord64(row + RegionLayout.Node.heartbeat).pointee.load(ordering: .relaxed),
                load: sharedWord32(row + RegionLayout.Node.load).pointee.load(ordering: .relaxed),
                capacity: row.load(fromByteOffset: RegionLayout.Node.capacity, as: UInt32.self),
                finished: sharedWord64(row + RegionLayout.Node.finished).pointee.load(ordering: .relaxed),
                roles: Set(
                    JobKind.allCases.filter {
                        row.load(fromByteOffset: RegionLayout.Node.roles, as: UInt32.self) & (1 << $0.rawValue) != 0
                    }),
                build: row.load(fromByteOffset: RegionLayout.Node.build, as: UInt32.self))
        }
    }

    /// Process id in a row, whatever has become of the process.
    func processID(_ index: Int) -> Int32 {
        Int32(bitPattern: row(index).load(fromByteOffset: RegionLayout.Node.processID, as: UInt32.self))
    }

    /// Whether the process of a row lives, by its id and its start.
    func isAlive(_ index: Int) -> Bool {
        let row = self.row(index)
        let processID = row.load(fromByteOffset: RegionLayout.Node.processID, as: UInt32.self)
        guard processID <= UInt32(Int32.max), let start = processStartTime(Int32(processID)) else { return false }
        return start == row.load(fromByteOffset: RegionLayout.Node.startTime, as: UInt64.self)
    }

    private func row(_ index: Int) -> UnsafeMutableRawPointer {
        region.base + RegionLayout.Node.offset + index * RegionLayout.Node.bytes
    }
}

/// When a process started, in clock ticks since boot; nil when there is no such process.
func processStartTime(_ processID: Int32) -> UInt64? {
    guard let file = fopen("/proc/\(processID)/stat", "r") else { return nil }
    defer { fclose(file) }
    var buffer = [UInt8](repeating: 0, count: 1024)
    let count = fread(&buffer, 1, buffer.count, file)
    // The command name is in parentheses and may hold anything; fields are counted after the last one.
    guard let close = buffer.prefix(count).lastIndex(of: UInt8(ascii: ")")) else { return nil }
    let fields = buffer[(close + 1)..<count].split(separator: UInt8(ascii: " "))
    guard fields.count > 19, fields[0].first != UInt8(ascii: "Z") else { return nil }
    return UInt64(String(decoding: fields[19], as: UTF8.self))
}
