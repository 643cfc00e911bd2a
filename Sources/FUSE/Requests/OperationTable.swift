import CFUSE3
import Glibc

// libfuse calls these functions on the thread that handed it the request: a `Worker`'s. They turn C
// arguments into Swift ones and Swift answers into replies; each request is answered exactly once.

/// The C operations table. What is missing libfuse answers with ENOSYS (poll, ioctl, bmap), or the
/// kernel does by itself (locks).
///
/// Made by a function of an ordinary file: closures of `main.swift` belong to the main actor and trap
/// on libfuse's threads.
func makeOperationTable() -> fuse_lowlevel_ops {
    var table = fuse_lowlevel_ops()
    table.`init` = { _, connection in
        guard let connection else { return }
        Worker.current.options.negotiate(&connection.pointee)
    }
    addNameOperations(&table)
    addNodeOperations(&table)
    addFileOperations(&table)
    addDirectoryOperations(&table)
    addExtendedAttributeOperations(&table)
    return table
}

/// Runs `body` for a request, and answers with the error it throws.
@inline(__always)
private func serve(
    _ request: fuse_req_t?, _ body: (fuse_req_t, Worker, RequestContext) throws(Errno) -> Void
) {
    guard let request else { return }
    let worker = Worker.current
    do throws(Errno) {
        try body(request, worker, worker.context(of: request))
    } catch {
        fuse_reply_err(request, error.code)
    }
}

@inline(__always)
private func name(_ pointer: UnsafePointer<CChar>?) -> NameBytes {
    guard let pointer else { return NameBytes(start: nil, count: 0) }
    return NameBytes(start: pointer, count: strlen(pointer))
}

/// A negative offset never comes from the kernel; it would be refused as too large.
@inline(__always)
private func unsigned(_ offset: off_t) -> UInt64 { UInt64(bitPattern: Int64(offset)) }

@inline(__always)
private func handle(_ info: UnsafeMutablePointer<fuse_file_info>?) -> UInt64 { info?.pointee.fh ?? 0 }

private func reply(_ request: fuse_req_t, _ worker: Worker, _ entry: EntryReply) {
    var parameters = fuse_entry_param(entry)
    if fuse_reply_entry(request, &parameters) != 0, entry.node != 0 {
        worker.operations.forget(entry.node, count: 1)
    }
}

private func reply(_ request: fuse_req_t, _ answer: AttributesReply) {
    var attributes = stat(answer.attributes)
    fuse_reply_attr(request, &attributes, answer.timeout)
}

private func reply(_ request: fuse_req_t, _ bytes: [UInt8], limit: Int = .max) throws(Errno) {
    guard bytes.count <= limit else { throw .outOfRange }
    bytes.withUnsafeBytes { _ = fuse_reply_buf(request, $0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count) }
}

extension fuse_file_info {
    fileprivate mutating func set(_ opened: OpenReply) {
        fh = opened.handle
        keep_cache = opened.keepsCache ? 1 : 0
        direct_io = opened.directIO ? 1 : 0
        cache_readdir = opened.cachesListing ? 1 : 0
    }
}

// MARK: Names

private func addNameOperations(_ table: inout fuse_lowlevel_ops) {
    table.lookup = { request, parent, cName in
        serve(request) { request, worker, context throws(Errno) in
            reply(request, worker, try worker.operations.lookup(context, parent: parent, name: name(cName)))
        }
    }
    table.forget = { request, node, count in
        Worker.current.operations.forget(node, count: count)
        fuse_reply_none(request)
    }
    table.forget_multi = { request, count, items in
        let operations = Worker.current.operations
        for item in UnsafeBufferPointer(start: items, count: count) { operations.forget(item.ino, count: item.nlookup) }
        fuse_reply_none(request)
    }
    table.mknod = { request, parent, cName, mode, rdev in
        serve(request) { request, worker, context throws(Errno) in
            reply(
                request, worker,
                try worker.operations.makeNode(
                    context, parent: parent, name: name(cName), mode: mode, rdev: UInt32(truncatingIfNeeded: rdev)))
        }
    }
    table.mkdir = { request, parent, cName, mode in
        serve(request) { request, worker, context throws(Errno) in
            reply(
                request, worker,
                try worker.operations.makeDirectory(context, parent: parent, name: name(cName), mode: mode))
        }
    }
    table.symlink = { request, target, parent, cName in
        serve(request) { request, worker, context throws(Errno) in
            reply(
                request, worker,
                try worker.operations.makeSymbolicLink(
                    context, parent: parent, name: name(cName), target: name(target)))
        }
    }
    table.link = { request, node, newParent, newName in
        serve(request) { request, worker, context throws(Errno) in
            reply(
                request, worker,
                try worker.operations.link(context, node: node, newParent: newParent, newName: name(newName)))
        }
    }
    table.unlink = { request, parent, cName in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.unlink(context, parent: parent, name: name(cName))
            fuse_reply_err(request, 0)
        }
    }
    table.rmdir = { request, parent, cName in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.removeDirectory(context, parent: parent, name: name(cName))
            fuse_reply_err(request, 0)
        }
    }
    table.rename = { request, parent, cName, newParent, newName, flags in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.rename(
                context, parent: parent, name: name(cName), newParent: newParent, newName: name(newName),
                flags: flags)
            fuse_reply_err(request, 0)
        }
    }
}

// MARK: Nodes

private func addNodeOperations(_ table: inout fuse_lowlevel_ops) {
    table.getattr = { request, node, _ in
        serve(request) { request, worker, context throws(Errno) in
            reply(request, try worker.operations.getAttributes(context, node: node))
        }
    }
    table.setattr = { request, node, values, set, _ in
        serve(request) { request, worker, context throws(Errno) in
            guard let values else { throw .invalid }
            let changes = AttributeChanges(values.pointee, set, clearsPrivileges: worker.clearsPrivileges)
            reply(request, try worker.operations.setAttributes(context, node: node, changes))
        }
    }
    table.access = { request, node, mask in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.access(context, node: node, mask: mask)
            fuse_reply_err(request, 0)
        }
    }
    table.readlink = { request, node in
        serve(request) { request, worker, context throws(Errno) in
            try reply(request, try worker.operations.readLink(context, node: node))
        }
    }
    table.statfs = { request, node in
        serve(request) { request, worker, context throws(Errno) in
            let space = try worker.operations.space(context, node: node)
            var answer = statvfs()
            answer.f_bsize = UInt(space.blockSize)
            answer.f_frsize = UInt(space.blockSize)
            answer.f_blocks = UInt(space.totalBlocks)
            answer.f_bfree = UInt(space.freeBlocks)
            answer.f_bavail = UInt(space.availableBlocks)
            answer.f_files = UInt(space.totalFiles)
            answer.f_ffree = UInt(space.freeFiles)
            answer.f_favail = UInt(space.freeFiles)
            answer.f_namemax = UInt(space.maximumNameLength)
            fuse_reply_statfs(request, &answer)
        }
    }
}

// MARK: Open files

private func addFileOperations(_ table: inout fuse_lowlevel_ops) {
    table.open = { request, node, info in
        serve(request) { request, worker, context throws(Errno) in
            guard let info else { throw .invalid }
            let opened = try worker.operations.open(context, node: node, flags: info.pointee.flags)
            info.pointee.set(opened)
            if fuse_reply_open(request, info) != 0 {
                worker.operations.release(context, node: node, handle: opened.handle)
            }
        }
    }
    table.create = { request, parent, cName, mode, info in
        serve(request) { request, worker, context throws(Errno) in
            guard let info else { throw .invalid }
            let (entry, opened) = try worker.operations.create(
                context, parent: parent, name: name(cName), mode: mode, flags: info.pointee.flags)
            info.pointee.set(opened)
            var parameters = fuse_entry_param(entry)
            if fuse_reply_create(request, &parameters, info) != 0 {
                worker.operations.release(context, node: entry.node, handle: opened.handle)
                worker.operations.forget(entry.node, count: 1)
            }
        }
    }
    table.read = { request, node, size, offset, info in
        guard let request else { return }
        let worker = Worker.current
        let answer = worker.readReply
        answer.begin(request)
        answer.openFlags = info?.pointee.flags ?? 0
        do throws(Errno) {
            try worker.operations.read(
                worker.context(of: request), node: node, handle: handle(info), offset: unsigned(offset),
                count: min(size, worker.options.maximumWriteBytes), reply: answer)
            answer.send()
        } catch {
            guard answer.isPending else { return }
            answer.cancel()
            fuse_reply_err(request, error.code)
        }
    }
    table.write = { request, node, bytes, size, offset, info in
        serve(request) { request, worker, context throws(Errno) in
            let write = WriteRequest(
                offset: unsigned(offset), bytes: UnsafeRawBufferPointer(start: bytes, count: size),
                handle: handle(info), openFlags: info?.pointee.flags ?? 0,
                isWriteBack: info?.pointee.writepage == 1, clearsPrivileges: worker.clearsPrivileges)
            fuse_reply_write(request, try worker.operations.write(context, node: node, write))
        }
    }
    table.flush = { request, node, info in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.flush(context, node: node, handle: handle(info))
            fuse_reply_err(request, 0)
        }
    }
    table.release = { request, node, info in
        serve(request) { request, worker, context throws(Errno) in
            worker.operations.release(context, node: node, handle: handle(info))
            fuse_reply_err(request, 0)
        }
    }
    table.fsync = { request, node, dataOnly, info in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.synchronize(
                context, node: node, handle: handle(info), dataOnly: dataOnly != 0)
            fuse_reply_err(request, 0)
        }
    }
    table.fallocate = { request, node, mode, offset, length, _ in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.allocate(
                context, node: node, offset: unsigned(offset), length: unsigned(length), mode: mode)
            fuse_reply_err(request, 0)
        }
    }
    table.lseek = { request, node, offset, whence, _ in
        serve(request) { request, worker, context throws(Errno) in
            let found = try worker.operations.seek(context, node: node, offset: unsigned(offset), whence: whence)
            fuse_reply_lseek(request, off_t(clamping: found))
        }
    }
    table.copy_file_range = { request, source, sourceOffset, _, target, targetOffset, _, count, flags in
        serve(request) { request, worker, context throws(Errno) in
            let copied = try worker.operations.copyRange(
                context, from: source, at: unsigned(sourceOffset), to: target, at: unsigned(targetOffset),
                count: UInt64(UInt(bitPattern: count)), flags: UInt32(bitPattern: flags))
            fuse_reply_write(request, copied)
        }
    }
}

// MARK: Directories

private func list(
    _ request: fuse_req_t?, _ node: NodeID, _ size: Int, _ offset: off_t, _ handle: UInt64, attributes: Bool
) {
    serve(request) { request, worker, context throws(Errno) in
        let answer = worker.directoryReply
        answer.begin(capacity: min(size, worker.options.maximumWriteBytes), wantsAttributes: attributes)
        do throws(Errno) {
            try worker.operations.readDirectory(
                context, node: node, handle: handle, after: unsigned(offset), reply: answer)
        } catch {
            // What was taken before the error counts; the error comes back with the next request.
            guard answer.used > 0 else { throw error }
        }
        let bytes = answer.bytes
        let result = fuse_reply_buf(request, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        if result != 0 { answer.forEachCountedNode { worker.operations.forget($0, count: 1) } }
    }
}

private func addDirectoryOperations(_ table: inout fuse_lowlevel_ops) {
    table.opendir = { request, node, info in
        serve(request) { request, worker, context throws(Errno) in
            guard let info else { throw .invalid }
            let opened = try worker.operations.openDirectory(context, node: node, flags: info.pointee.flags)
            info.pointee.set(opened)
            if fuse_reply_open(request, info) != 0 {
                worker.operations.releaseDirectory(context, node: node, handle: opened.handle)
            }
        }
    }
    table.readdir = { request, node, size, offset, info in
        list(request, node, size, offset, handle(info), attributes: false)
    }
    table.readdirplus = { request, node, size, offset, info in
        list(request, node, size, offset, handle(info), attributes: true)
    }
    table.releasedir = { request, node, info in
        serve(request) { request, worker, context throws(Errno) in
            worker.operations.releaseDirectory(context, node: node, handle: handle(info))
            fuse_reply_err(request, 0)
        }
    }
    table.fsyncdir = { request, node, dataOnly, info in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.synchronizeDirectory(
                context, node: node, handle: handle(info), dataOnly: dataOnly != 0)
            fuse_reply_err(request, 0)
        }
    }
}

// MARK: Extended attributes

private func addExtendedAttributeOperations(_ table: inout fuse_lowlevel_ops) {
    table.setxattr = { request, node, cName, value, size, flags in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.setExtendedAttribute(
                context, node: node, name: name(cName), value: UnsafeRawBufferPointer(start: value, count: size),
                flags: flags)
            fuse_reply_err(request, 0)
        }
    }
    table.getxattr = { request, node, cName, size in
        serve(request) { request, worker, context throws(Errno) in
            let value = try worker.operations.getExtendedAttribute(context, node: node, name: name(cName))
            if size == 0 {
                fuse_reply_xattr(request, value.count)
            } else {
                try reply(request, value, limit: size)
            }
        }
    }
    table.listxattr = { request, node, size in
        serve(request) { request, worker, context throws(Errno) in
            let names = try worker.operations.listExtendedAttributes(context, node: node)
            if size == 0 {
                fuse_reply_xattr(request, names.count)
            } else {
                try reply(request, names, limit: size)
            }
        }
    }
    table.removexattr = { request, node, cName in
        serve(request) { request, worker, context throws(Errno) in
            try worker.operations.removeExtendedAttribute(context, node: node, name: name(cName))
            fuse_reply_err(request, 0)
        }
    }
}
