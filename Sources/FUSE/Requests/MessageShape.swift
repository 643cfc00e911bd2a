import CFUSE3
import Glibc

/// Whether a message from the kernel is as long as its operation needs it: libfuse does not look, and would read
/// on. Layouts are those of Linux's include/uapi/linux/fuse.h.
enum MessageShape {
    /// What follows the header.
    private struct Shape {
        /// Bytes before the names.
        var fixed: Int
        /// Strings, each with its zero byte.
        var names = 0
    }

    /// nil: an operation that this library does not know, which it refuses without looking further.
    @inline(__always)
    private static func shape(of opcode: UInt32) -> Shape? {
        switch fuse_opcode(opcode) {
        case FUSE_LOOKUP, FUSE_UNLINK, FUSE_RMDIR, FUSE_REMOVEXATTR: Shape(fixed: 0, names: 1)
        case FUSE_SYMLINK: Shape(fixed: 0, names: 2)
        case FUSE_READLINK, FUSE_STATFS, FUSE_DESTROY: Shape(fixed: 0)
        case FUSE_FORGET: Shape(fixed: MemoryLayout<fuse_forget_in>.size)
        case FUSE_BATCH_FORGET: Shape(fixed: MemoryLayout<fuse_batch_forget_in>.size)
        case FUSE_GETATTR: Shape(fixed: MemoryLayout<fuse_getattr_in>.size)
        case FUSE_SETATTR: Shape(fixed: MemoryLayout<fuse_setattr_in>.size)
        case FUSE_MKNOD: Shape(fixed: MemoryLayout<fuse_mknod_in>.size, names: 1)
        case FUSE_MKDIR: Shape(fixed: MemoryLayout<fuse_mkdir_in>.size, names: 1)
        case FUSE_CREATE: Shape(fixed: MemoryLayout<fuse_create_in>.size, names: 1)
        case FUSE_RENAME: Shape(fixed: MemoryLayout<fuse_rename_in>.size, names: 2)
        case FUSE_RENAME2: Shape(fixed: MemoryLayout<fuse_rename2_in>.size, names: 2)
        case FUSE_LINK: Shape(fixed: MemoryLayout<fuse_link_in>.size, names: 1)
        case FUSE_OPEN, FUSE_OPENDIR: Shape(fixed: MemoryLayout<fuse_open_in>.size)
        case FUSE_READ, FUSE_READDIR, FUSE_READDIRPLUS: Shape(fixed: MemoryLayout<fuse_read_in>.size)
        case FUSE_WRITE: Shape(fixed: MemoryLayout<fuse_write_in>.size)
        case FUSE_RELEASE, FUSE_RELEASEDIR: Shape(fixed: MemoryLayout<fuse_release_in>.size)
        case FUSE_FSYNC, FUSE_FSYNCDIR: Shape(fixed: MemoryLayout<fuse_fsync_in>.size)
        case FUSE_FLUSH: Shape(fixed: MemoryLayout<fuse_flush_in>.size)
        // The extended form is not asked for (FUSE_SETXATTR_EXT).
        case FUSE_SETXATTR: Shape(fixed: Int(FUSE_COMPAT_SETXATTR_IN_SIZE), names: 1)
        case FUSE_GETXATTR: Shape(fixed: MemoryLayout<fuse_getxattr_in>.size, names: 1)
        case FUSE_LISTXATTR: Shape(fixed: MemoryLayout<fuse_getxattr_in>.size)
        case FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW: Shape(fixed: MemoryLayout<fuse_lk_in>.size)
        case FUSE_ACCESS: Shape(fixed: MemoryLayout<fuse_access_in>.size)
        case FUSE_INTERRUPT: Shape(fixed: MemoryLayout<fuse_interrupt_in>.size)
        case FUSE_BMAP: Shape(fixed: MemoryLayout<fuse_bmap_in>.size)
        case FUSE_IOCTL: Shape(fixed: MemoryLayout<fuse_ioctl_in>.size)
        case FUSE_POLL: Shape(fixed: MemoryLayout<fuse_poll_in>.size)
        case FUSE_NOTIFY_REPLY: Shape(fixed: MemoryLayout<fuse_notify_retrieve_in>.size)
        case FUSE_FALLOCATE: Shape(fixed: MemoryLayout<fuse_fallocate_in>.size)
        case FUSE_LSEEK: Shape(fixed: MemoryLayout<fuse_lseek_in>.size)
        case FUSE_COPY_FILE_RANGE: Shape(fixed: MemoryLayout<fuse_copy_file_range_in>.size)
        // Two words, of which old kernels send no more.
        case FUSE_INIT: Shape(fixed: 16)
        default: nil
        }
    }

    /// - Parameter message: with its header, all of it.
    static func isWhole(_ opcode: UInt32, _ message: UnsafeRawBufferPointer) -> Bool {
        let header = MemoryLayout<fuse_in_header>.size
        guard message.count >= header else { return false }
        guard let shape = shape(of: opcode) else { return true }
        guard message.count - header >= shape.fixed else { return false }
        let body = UnsafeRawBufferPointer(rebasing: message[header...])
        func word(_ offset: Int) -> Int { Int(body.loadUnaligned(fromByteOffset: offset, as: UInt32.self)) }
        var end = shape.fixed
        for _ in 0..<shape.names {
            guard let base = body.baseAddress, end < body.count, let zero = memchr(base + end, 0, body.count - end)
            else { return false }
            end = UnsafeRawPointer(zero) - base + 1
        }
        let rest = body.count - end
        switch fuse_opcode(opcode) {
        case FUSE_WRITE: return rest >= word(16)
        case FUSE_SETXATTR: return rest >= word(0)
        case FUSE_IOCTL: return rest >= word(24)
        case FUSE_BATCH_FORGET: return rest / MemoryLayout<fuse_forget_one>.size >= word(0)
        default: return true
        }
    }

    /// Whether the kernel waits for an answer.
    static func isAnswered(_ opcode: UInt32) -> Bool {
        switch fuse_opcode(opcode) {
        case FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT, FUSE_NOTIFY_REPLY: false
        default: true
        }
    }
}
