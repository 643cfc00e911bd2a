import FUSE
import Glibc
import Synchronization

/// A complete small file system in memory, behind one lock: what the library is tested with.
final class MemoryFileSystem: FileSystemOperations {
    struct Node {
        var attributes: Attributes
        var data: [UInt8] = []
        var entries: [[UInt8]: NodeID] = [:]
        /// Names in the order they were made, each with the cookie after it.
        var order: [(cookie: UInt64, name: [UInt8])] = []
        var extended: [[UInt8]: [UInt8]] = [:]
        var lookups: UInt64 = 0
    }

    struct State {
        var nodes: [NodeID: Node] = [:]
        var next: NodeID = 2
        var nextCookie: UInt64 = 1
        var calls: [String: Int] = [:]
        var started = 0
        var stopped = 0
        var largestWrite = 0
        var largestRead = 0
        var delays: [String: UInt32] = [:]
    }

    let state: Mutex<State>
    /// Whether open, opendir and create are implemented, or declined.
    let hasOpen: Bool

    init(hasOpen: Bool = false) {
        self.hasOpen = hasOpen
        var state = State()
        state.nodes[rootNode] = Node(attributes: Self.attributes(rootNode, S_IFDIR | 0o755, 0, 0))
        self.state = Mutex(state)
    }

    func calls(_ name: String) -> Int { state.withLock { $0.calls[name] ?? 0 } }

    /// Makes an operation take longer, outside the lock.
    func delay(of name: String, microseconds: UInt32) { state.withLock { $0.delays[name] = microseconds } }

    func start() { state.withLock { $0.started += 1 } }
    func stop() { state.withLock { $0.stopped += 1 } }

    private static func attributes(_ node: NodeID, _ mode: UInt32, _ uid: UInt32, _ gid: UInt32) -> Attributes {
        var clock = timespec()
        clock_gettime(CLOCK_REALTIME, &clock)
        let now = Time(seconds: Int64(clock.tv_sec), nanoseconds: UInt32(clock.tv_nsec))
        return Attributes(
            inode: node, mode: mode, linkCount: mode & S_IFMT == S_IFDIR ? 2 : 1, uid: uid, gid: gid,
            accessTime: now, modificationTime: now, changeTime: now)
    }

    /// Runs `body` on the state, counting the call.
    private func with<Result>(
        _ name: String, _ body: (inout State) throws(Errno) -> Result
    ) throws(Errno) -> Result {
        let outcome: Swift.Result<Result, Errno> = state.withLock { state in
            state.calls[name, default: 0] += 1
            do throws(Errno) { return .success(try body(&state)) } catch { return .failure(error) }
        }
        if let delay = state.withLock({ $0.delays[name] }) { usleep(delay) }
        return try outcome.get()
    }

    private func reply(_ state: inout State, _ id: NodeID) throws(Errno) -> EntryReply {
        guard var node = state.nodes[id] else { throw .notFound }
        node.lookups += 1
        state.nodes[id] = node
        return EntryReply(node: id, attributes: node.attributes, attributeTimeout: 60, entryTimeout: 60)
    }

    private func child(_ state: State, _ parent: NodeID, _ name: NameBytes) throws(Errno) -> NodeID {
        guard let id = state.nodes[parent]?.entries[Array(name)] else { throw .notFound }
        return id
    }

    private func insert(_ state: inout State, _ parent: NodeID, _ name: [UInt8], _ id: NodeID) {
        state.nodes[parent]?.entries[name] = id
        state.nodes[parent]?.order.append((state.nextCookie, name))
        state.nextCookie += 1
    }

    private func remove(_ state: inout State, _ parent: NodeID, _ name: [UInt8]) {
        guard let id = state.nodes[parent]?.entries.removeValue(forKey: name) else { return }
        state.nodes[parent]?.order.removeAll { $0.name == name }
        guard var node = state.nodes[id] else { return }
        node.attributes.linkCount -= node.attributes.mode & S_IFMT == S_IFDIR ? 2 : 1
        state.nodes[id] = node.attributes.linkCount == 0 && node.lookups == 0 ? nil : node
    }

    private func make(
        _ context: RequestContext, _ state: inout State, _ parent: NodeID, _ name: NameBytes, _ mode: UInt32
    ) throws(Errno) -> NodeID {
        guard state.nodes[parent]?.entries[Array(name)] == nil else { throw .exists }
        let id = state.next
        state.next += 1
        state.nodes[id] = Node(attributes: Self.attributes(id, mode, context.uid, context.gid))
        insert(&state, parent, Array(name), id)
        return id
    }

    func lookup(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) -> EntryReply {
        try with("lookup") { state throws(Errno) in
            guard let id = state.nodes[parent]?.entries[Array(name)] else { return .absent(timeout: 60) }
            return try reply(&state, id)
        }
    }

    func forget(_ node: NodeID, count: UInt64) {
        state.withLock { state in
            state.calls["forget", default: 0] += 1
            guard var found = state.nodes[node] else { return }
            found.lookups -= min(count, found.lookups)
            state.nodes[node] = found.lookups == 0 && found.attributes.linkCount == 0 ? nil : found
        }
    }

    func getAttributes(_ context: RequestContext, node: NodeID) throws(Errno) -> AttributesReply {
        try with("getattr") { state throws(Errno) in
            guard let found = state.nodes[node] else { throw .notFound }
            return AttributesReply(found.attributes, timeout: 60)
        }
    }

    func setAttributes(
        _ context: RequestContext, node: NodeID, _ changes: AttributeChanges
    ) throws(Errno) -> AttributesReply {
        try with("setattr") { state throws(Errno) in
            guard var found = state.nodes[node] else { throw .notFound }
            var attributes = found.attributes
            if let mode = changes.mode { attributes.mode = attributes.mode & S_IFMT | mode }
            if let uid = changes.uid { attributes.uid = uid }
            if let gid = changes.gid { attributes.gid = gid }
            if let size = changes.size {
                found.data.append(contentsOf: [UInt8](repeating: 0, count: max(0, Int(size) - found.data.count)))
                found.data.removeSubrange(Int(size)...)
                attributes.size = size
            }
            if case .to(let time) = changes.accessTime { attributes.accessTime = time }
            if case .to(let time) = changes.modificationTime { attributes.modificationTime = time }
            if changes.clearsPrivileges { attributes.mode &= ~(S_ISUID | S_ISGID) }
            found.attributes = attributes
            state.nodes[node] = found
            return AttributesReply(attributes, timeout: 60)
        }
    }

    func readLink(_ context: RequestContext, node: NodeID) throws(Errno) -> [UInt8] {
        try with("readlink") { state throws(Errno) in state.nodes[node]?.data ?? [] }
    }

    func makeNode(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32, rdev: UInt32
    ) throws(Errno) -> EntryReply {
        try with("mknod") { state throws(Errno) in
            let id = try make(context, &state, parent, name, mode)
            state.nodes[id]?.attributes.rdev = rdev
            return try reply(&state, id)
        }
    }

    func makeDirectory(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32
    ) throws(Errno) -> EntryReply {
        try with("mkdir") { state throws(Errno) in
            try reply(&state, try make(context, &state, parent, name, S_IFDIR | mode))
        }
    }

    func makeSymbolicLink(
        _ context: RequestContext, parent: NodeID, name: NameBytes, target: NameBytes
    ) throws(Errno) -> EntryReply {
        try with("symlink") { state throws(Errno) in
            let id = try make(context, &state, parent, name, S_IFLNK | 0o777)
            state.nodes[id]?.data = Array(target)
            state.nodes[id]?.attributes.size = UInt64(target.count)
            return try reply(&state, id)
        }
    }

    func link(
        _ context: RequestContext, node: NodeID, newParent: NodeID, newName: NameBytes
    ) throws(Errno) -> EntryReply {
        try with("link") { state throws(Errno) in
            guard state.nodes[newParent]?.entries[Array(newName)] == nil else { throw .exists }
            insert(&state, newParent, Array(newName), node)
            state.nodes[node]?.attributes.linkCount += 1
            return try reply(&state, node)
        }
    }

    func unlink(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) {
        try with("unlink") { state throws(Errno) in
            _ = try child(state, parent, name)
            remove(&state, parent, Array(name))
        }
    }

    func removeDirectory(_ context: RequestContext, parent: NodeID, name: NameBytes) throws(Errno) {
        try with("rmdir") { state throws(Errno) in
            let id = try child(state, parent, name)
            guard state.nodes[id]?.entries.isEmpty == true else { throw .notEmpty }
            remove(&state, parent, Array(name))
        }
    }

    func rename(
        _ context: RequestContext, parent: NodeID, name: NameBytes, newParent: NodeID, newName: NameBytes,
        flags: UInt32
    ) throws(Errno) {
        try with("rename") { state throws(Errno) in
            let id = try child(state, parent, name)
            let old = state.nodes[newParent]?.entries[Array(newName)]
            if flags & 1 != 0, old != nil { throw .exists }
            if flags & 2 != 0 {
                guard let old else { throw .notFound }
                state.nodes[parent]?.entries[Array(name)] = old
                state.nodes[newParent]?.entries[Array(newName)] = id
                return
            }
            if old != nil { remove(&state, newParent, Array(newName)) }
            state.nodes[parent]?.entries[Array(name)] = nil
            state.nodes[parent]?.order.removeAll { $0.name == Array(name) }
            insert(&state, newParent, Array(newName), id)
        }
    }

    func open(_ context: RequestContext, node: NodeID, flags: Int32) throws(Errno) -> OpenReply {
        try with("open") { _ throws(Errno) in
            guard hasOpen else { throw .notImplemented }
            return OpenReply(handle: node &+ 1000)
        }
    }

    func openDirectory(_ context: RequestContext, node: NodeID, flags: Int32) throws(Errno) -> OpenReply {
        try open(context, node: node, flags: flags)
    }

    func create(
        _ context: RequestContext, parent: NodeID, name: NameBytes, mode: UInt32, flags: Int32
    ) throws(Errno) -> (EntryReply, OpenReply) {
        try with("create") { state throws(Errno) in
            guard hasOpen else { throw .notImplemented }
            let id = try make(context, &state, parent, name, mode)
            return (try reply(&state, id), OpenReply(handle: id &+ 1000))
        }
    }

    func release(_ context: RequestContext, node: NodeID, handle: UInt64) {
        state.withLock { $0.calls[handle == node &+ 1000 ? "release" : "badRelease", default: 0] += 1 }
    }

    /// The bytes of a file, copied out of the lock so that they stay valid while they are sent.
    private final class Copy {
        let memory: UnsafeMutableRawBufferPointer

        init(_ bytes: ArraySlice<UInt8>) {
            memory = .allocate(byteCount: max(1, bytes.count), alignment: 16)
            memory.copyBytes(from: bytes)
        }

        deinit { memory.deallocate() }
    }

    func read(
        _ context: RequestContext, node: NodeID, handle: UInt64, offset: UInt64, count: Int, reply: ReadReply
    ) throws(Errno) {
        let bytes = try with("read") { state throws(Errno) -> ArraySlice<UInt8> in
            guard let data = state.nodes[node]?.data else { throw .notFound }
            state.largestRead = max(state.largestRead, count)
            let start = min(data.count, Int(clamping: offset))
            return data[start..<min(data.count, start + count)]
        }
        // Several small pieces and zeros in between, as a file of blocks and holes has them.
        var rest = bytes
        while !rest.isEmpty {
            let part = rest.prefix(700)
            rest = rest.dropFirst(700)
            if part.allSatisfy({ $0 == 0 }) {
                reply.appendZeros(part.count)
            } else {
                let copy = Copy(part)
                reply.append(UnsafeRawBufferPointer(rebasing: copy.memory[..<part.count]), owner: copy)
            }
        }
    }

    func write(_ context: RequestContext, node: NodeID, _ request: WriteRequest) throws(Errno) -> Int {
        try with("write") { state throws(Errno) in
            guard state.nodes[node] != nil else { throw .notFound }
            guard request.offset < 1 << 30 else { throw Errno(EFBIG) }
            let start = Int(request.offset)
            let end = start + request.bytes.count
            state.largestWrite = max(state.largestWrite, request.bytes.count)
            let missing = end - (state.nodes[node]?.data.count ?? 0)
            if missing > 0 { state.nodes[node]?.data.append(contentsOf: [UInt8](repeating: 0, count: missing)) }
            state.nodes[node]?.data.replaceSubrange(start..<end, with: request.bytes)
            let size = state.nodes[node]?.data.count ?? 0
            state.nodes[node]?.attributes.size = UInt64(size)
            if request.clearsPrivileges { state.nodes[node]?.attributes.mode &= ~(S_ISUID | S_ISGID) }
            return request.bytes.count
        }
    }

    func flush(_ context: RequestContext, node: NodeID, handle: UInt64) throws(Errno) {
        try with("flush") { _ throws(Errno) in throw .notImplemented }
    }

    func synchronize(_ context: RequestContext, node: NodeID, handle: UInt64, dataOnly: Bool) throws(Errno) {
        try with(dataOnly ? "fdatasync" : "fsync") { _ throws(Errno) in }
    }

    func synchronizeDirectory(
        _ context: RequestContext, node: NodeID, handle: UInt64, dataOnly: Bool
    ) throws(Errno) {
        try with("fsyncdir") { _ throws(Errno) in }
    }

    func allocate(
        _ context: RequestContext, node: NodeID, offset: UInt64, length: UInt64, mode: Int32
    ) throws(Errno) {
        try with("fallocate") { state throws(Errno) in
            guard mode == 0, var found = state.nodes[node] else { throw .notSupported }
            let missing = Int(offset + length) - found.data.count
            if missing > 0 { found.data.append(contentsOf: [UInt8](repeating: 0, count: missing)) }
            found.attributes.size = UInt64(found.data.count)
            state.nodes[node] = found
        }
    }

    func seek(_ context: RequestContext, node: NodeID, offset: UInt64, whence: Int32) throws(Errno) -> UInt64 {
        try with("lseek") { state throws(Errno) in
            guard let data = state.nodes[node]?.data, offset < data.count else { throw Errno(ENXIO) }
            let isHole = whence == 4
            guard let found = data[Int(offset)...].firstIndex(where: { ($0 == 0) == isHole }) else {
                if isHole { return UInt64(data.count) }
                throw Errno(ENXIO)
            }
            return UInt64(found)
        }
    }

    func readDirectory(
        _ context: RequestContext, node: NodeID, handle: UInt64, after cookie: UInt64, reply: DirectoryReply
    ) throws(Errno) {
        try with(reply.wantsAttributes ? "readdirplus" : "readdir") { state throws(Errno) in
            guard let found = state.nodes[node] else { throw .notFound }
            for (position, name) in found.order where position > cookie {
                guard let id = found.entries[name], let child = state.nodes[id] else { continue }
                let entry = EntryReply(
                    node: id, attributes: child.attributes, attributeTimeout: 60, entryTimeout: 60)
                let taken = name.withUnsafeBytes { reply.add(name: $0, entry: entry, cookie: position) }
                guard taken else { break }
                if reply.wantsAttributes { state.nodes[id]?.lookups += 1 }
            }
        }
    }

    func space(_ context: RequestContext, node: NodeID) throws(Errno) -> FileSystemSpace {
        FileSystemSpace(
            blockSize: 4096, totalBlocks: 1000, freeBlocks: 500, availableBlocks: 400, totalFiles: 77, freeFiles: 7)
    }

    func setExtendedAttribute(
        _ context: RequestContext, node: NodeID, name: NameBytes, value: UnsafeRawBufferPointer, flags: Int32
    ) throws(Errno) {
        try with("setxattr") { state throws(Errno) in
            let old = state.nodes[node]?.extended[Array(name)]
            if flags == 1, old != nil { throw .exists }
            if flags == 2, old == nil { throw .noData }
            state.nodes[node]?.extended[Array(name)] = Array(value)
        }
    }

    func getExtendedAttribute(_ context: RequestContext, node: NodeID, name: NameBytes) throws(Errno) -> [UInt8] {
        try with("getxattr") { state throws(Errno) in
            guard let value = state.nodes[node]?.extended[Array(name)] else { throw .noData }
            return value
        }
    }

    func listExtendedAttributes(_ context: RequestContext, node: NodeID) throws(Errno) -> [UInt8] {
        try with("listxattr") { state throws(Errno) in
            state.nodes[node]?.extended.keys.sorted { $0.lexicographicallyPrecedes($1) }.flatMap { $0 + [0] } ?? []
        }
    }

    func removeExtendedAttribute(_ context: RequestContext, node: NodeID, name: NameBytes) throws(Errno) {
        try with("removexattr") { state throws(Errno) in
            guard state.nodes[node]?.extended.removeValue(forKey: Array(name)) != nil else { throw .noData }
        }
    }
}
