import CFUSE3
import Glibc

// Requests of the protocol that libfuse 3.14 does not know, and would answer with ENOSYS: decoded and answered
// here, past it. Layouts are those of Linux's include/uapi/linux/fuse.h.

extension Worker {
    /// FUSE_TMPFILE and FUSE_STATX (Linux 6.1 and 6.6).
    private static let tmpfile: UInt32 = 51
    private static let statx: UInt32 = 52

    /// Answers the request of `message` if it is one of those; false leaves it to libfuse.
    func serveNewer(_ opcode: UInt32, _ message: UnsafeRawBufferPointer) -> Bool {
        guard opcode == Self.tmpfile || opcode == Self.statx else { return false }
        let header = message.loadUnaligned(as: fuse_in_header.self)
        let body = UnsafeRawBufferPointer(rebasing: message[MemoryLayout<fuse_in_header>.size...])
        let context = context(uid: header.uid, gid: header.gid, pid: Int32(bitPattern: header.pid))
        do throws(Errno) {
            if opcode == Self.tmpfile {
                try makeUnnamed(header, context, body)
            } else {
                try tellAttributes(header, context, body)
            }
        } catch {
            answer(header, error.code, UnsafeRawBufferPointer(start: nil, count: 0))
        }
        return true
    }

    /// `fuse_create_in`, answered by `fuse_entry_out` and `fuse_open_out`.
    private func makeUnnamed(
        _ header: fuse_in_header, _ caller: RequestContext, _ body: UnsafeRawBufferPointer
    ) throws(Errno) {
        guard body.count >= MemoryLayout<fuse_create_in>.size else { throw .invalid }
        let input = body.loadUnaligned(as: fuse_create_in.self)
        var context = caller
        context.umask = input.umask
        let (entry, opened) = try operations.makeUnnamed(
            context, parent: header.nodeid, mode: input.mode, flags: Int32(bitPattern: input.flags))
        var out = (fuse_entry_out(entry), fuse_open_out())
        out.1.fh = opened.handle
        out.1.open_flags = opened.keepsCache ? UInt32(FOPEN_KEEP_CACHE) : 0
        let isTaken = withUnsafeBytes(of: &out) { answer(header, 0, $0) }
        if !isTaken {
            operations.release(context, node: entry.node, handle: opened.handle)
            operations.forget(entry.node, count: 1)
        }
    }

    /// `fuse_statx_in` is not looked at: everything there is to tell is told.
    private func tellAttributes(
        _ header: fuse_in_header, _ context: RequestContext, _ body: UnsafeRawBufferPointer
    ) throws(Errno) {
        let reply = try operations.getAttributes(context, node: header.nodeid)
        var out = StatxAnswer()
        out.set(reply)
        _ = withUnsafeBytes(of: &out.words) { answer(header, 0, $0) }
    }

    /// Answers a message that is not whole, which no kernel sends, with EINVAL.
    func refuse(_ message: UnsafeRawBufferPointer) {
        answer(
            message.loadUnaligned(as: fuse_in_header.self), Errno.invalid.code,
            UnsafeRawBufferPointer(start: nil, count: 0))
    }

    /// Whether the kernel took the answer; it does not when the caller was killed.
    @discardableResult
    private func answer(_ header: fuse_in_header, _ error: Int32, _ body: UnsafeRawBufferPointer) -> Bool {
        var out = fuse_out_header()
        out.len = UInt32(MemoryLayout<fuse_out_header>.size + body.count)
        out.error = -error
        out.unique = header.unique
        return withUnsafeMutableBytes(of: &out) { head in
            // writev does not change what the pieces point to.
            var pieces = InlineArray<2, iovec>(repeating: iovec())
            pieces[0] = iovec(iov_base: head.baseAddress, iov_len: head.count)
            pieces[1] = iovec(iov_base: UnsafeMutableRawPointer(mutating: body.baseAddress), iov_len: body.count)
            return withUnsafeMutableBytes(of: &pieces) { memory in
                let list = memory.bindMemory(to: iovec.self)
                guard let first = list.baseAddress else { return false }
                return send(first, body.count > 0 ? 2 : 1) >= 0
            }
        }
    }
}

/// `fuse_statx_out`, in host byte order:
///
///      0 valid (8)    8 valid nanoseconds (4)   12 flags (4)   16 zero (16)
///     32 mask (4)    36 block size (4)   40 attributes (8)   48 link count (4)   52 uid   56 gid   60 mode (2)
///     64 inode (8)   72 size (8)   80 blocks (8)   88 attributes mask (8)
///     96 access, 112 birth, 128 change, 144 modification time: seconds (8) nanoseconds (4) zero (4)
///    160 rdev major, minor (4 each)   168 dev major, minor   176 zero (112)   288 end
private struct StatxAnswer {
    var words = InlineArray<36, UInt64>(repeating: 0)

    /// STATX_BASIC_STATS and STATX_BTIME.
    private static let basic: UInt32 = 0x7ff
    private static let birth: UInt32 = 0x800

    mutating func set(_ reply: AttributesReply) {
        let attributes = reply.attributes
        let valid = fuse_entry_out(
            EntryReply(node: 0, attributes: attributes, attributeTimeout: reply.timeout, entryTimeout: 0))
        withUnsafeMutableBytes(of: &words) { bytes in
            func store<T: BitwiseCopyable>(_ value: T, _ offset: Int) { bytes.storeBytes(of: value, toByteOffset: offset, as: T.self) }
            func store(_ time: Time, _ offset: Int) {
                store(time.seconds, offset)
                store(time.nanoseconds, offset + 8)
            }
            store(valid.attr_valid, 0)
            store(valid.attr_valid_nsec, 8)
            store(Self.basic | (attributes.birthTime == nil ? 0 : Self.birth), 32)
            store(attributes.blockSize, 36)
            store(attributes.linkCount, 48)
            store(attributes.uid, 52)
            store(attributes.gid, 56)
            store(UInt16(truncatingIfNeeded: attributes.mode), 60)
            store(attributes.inode, 64)
            store(attributes.size, 72)
            store(attributes.blocks512, 80)
            store(attributes.accessTime, 96)
            if let birth = attributes.birthTime { store(birth, 112) }
            store(attributes.changeTime, 128)
            store(attributes.modificationTime, 144)
            // As the kernel packs a device number into 32 bits.
            store((attributes.rdev >> 8) & 0xfff, 160)
            store((attributes.rdev & 0xff) | ((attributes.rdev >> 12) & 0xfff00), 164)
        }
    }
}
