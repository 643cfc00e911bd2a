import CFUSE3
import Glibc

/// Splits seconds into what the protocol carries; capped where the kernel's arithmetic ends.
private func split(_ timeout: Double) -> (seconds: UInt64, nanoseconds: UInt32) {
    guard timeout > 0 else { return (0, 0) }
    let capped = min(timeout, 1e9)
    let whole = capped.rounded(.down)
    return (UInt64(whole), UInt32((capped - whole) * 1e9))
}

extension fuse_entry_out {
    init(_ entry: EntryReply) {
        let entryValid = split(entry.entryTimeout)
        let attributesValid = split(entry.attributeTimeout)
        self.init()
        nodeid = entry.node
        generation = entry.generation
        entry_valid = entryValid.seconds
        entry_valid_nsec = entryValid.nanoseconds
        attr_valid = attributesValid.seconds
        attr_valid_nsec = attributesValid.nanoseconds
        attr = fuse_attr(entry.attributes)
    }
}

extension fuse_attr {
    init(_ attributes: Attributes) {
        self.init()
        ino = attributes.inode
        size = attributes.size
        blocks = attributes.blocks512
        atime = UInt64(bitPattern: attributes.accessTime.seconds)
        mtime = UInt64(bitPattern: attributes.modificationTime.seconds)
        ctime = UInt64(bitPattern: attributes.changeTime.seconds)
        atimensec = attributes.accessTime.nanoseconds
        mtimensec = attributes.modificationTime.nanoseconds
        ctimensec = attributes.changeTime.nanoseconds
        mode = attributes.mode
        nlink = attributes.linkCount
        uid = attributes.uid
        gid = attributes.gid
        rdev = attributes.rdev
        blksize = attributes.blockSize
    }
}

extension stat {
    init(_ attributes: Attributes) {
        self.init()
        st_ino = numericCast(attributes.inode)
        st_mode = attributes.mode
        st_nlink = numericCast(attributes.linkCount)
        st_uid = attributes.uid
        st_gid = attributes.gid
        st_rdev = UInt(attributes.rdev)
        st_size = Int(clamping: attributes.size)
        st_blocks = Int(clamping: attributes.blocks512)
        st_blksize = numericCast(attributes.blockSize)
        st_atim = attributes.accessTime.timespec
        st_mtim = attributes.modificationTime.timespec
        st_ctim = attributes.changeTime.timespec
    }
}

extension fuse_entry_param {
    init(_ entry: EntryReply) {
        self.init()
        ino = entry.node
        generation = entry.generation
        attr = stat(entry.attributes)
        attr_timeout = entry.attributeTimeout
        entry_timeout = entry.entryTimeout
    }
}

extension AttributeChanges {
    /// From what libfuse hands to setattr.
    init(_ values: stat, _ set: Int32, clearsPrivileges: Bool) {
        self.init()
        if set & FUSE_SET_ATTR_MODE != 0 { mode = values.st_mode & 0o7777 }
        if set & FUSE_SET_ATTR_UID != 0 { uid = values.st_uid }
        if set & FUSE_SET_ATTR_GID != 0 { gid = values.st_gid }
        if set & FUSE_SET_ATTR_SIZE != 0 { size = UInt64(bitPattern: Int64(values.st_size)) }
        if set & FUSE_SET_ATTR_ATIME_NOW != 0 {
            accessTime = .now
        } else if set & FUSE_SET_ATTR_ATIME != 0 {
            accessTime = .to(Time(values.st_atim))
        }
        if set & FUSE_SET_ATTR_MTIME_NOW != 0 {
            modificationTime = .now
        } else if set & FUSE_SET_ATTR_MTIME != 0 {
            modificationTime = .to(Time(values.st_mtim))
        }
        if set & FUSE_SET_ATTR_CTIME != 0 { changeTime = Time(values.st_ctim) }
        self.clearsPrivileges = clearsPrivileges
    }
}
