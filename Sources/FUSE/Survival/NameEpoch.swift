import CFUSE3
import Glibc

/// The part of the protocol (Linux 6.16, FUSE 7.44) by which all names that the kernel remembers grow old at once. Debian 12's
/// headers do not know it yet.
enum NameEpoch {
    /// FUSE_NOTIFY_INC_EPOCH, a message of nothing but a header.
    private static let notification: Int32 = 8

    static func increase(on descriptor: Int32) {
        var header = fuse_out_header()
        header.len = UInt32(MemoryLayout<fuse_out_header>.size)
        header.error = notification
        // An older kernel refuses it.
        _ = write(descriptor, &header, MemoryLayout<fuse_out_header>.size)
    }
}
