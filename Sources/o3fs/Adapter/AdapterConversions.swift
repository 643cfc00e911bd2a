import FUSE
import Glibc
import O3FileSystem

// Both modules describe files in their own words, for neither knows the other; these are translations.

extension FUSE.Attributes {
    init(_ attributes: O3FileSystem.Attributes) {
        self.init(
            inode: attributes.inode, mode: attributes.mode, linkCount: attributes.linkCount, uid: attributes.uid,
            gid: attributes.gid, rdev: attributes.rdev, size: attributes.size, blocks512: attributes.blocks512,
            blockSize: attributes.blockSize, accessTime: Time(attributes.accessTime),
            modificationTime: Time(attributes.modificationTime), changeTime: Time(attributes.changeTime),
            birthTime: Time(attributes.birthTime))
    }
}

extension Time {
    init(_ time: Timestamp) { self.init(seconds: time.seconds, nanoseconds: time.nanoseconds) }
}

extension Timestamp {
    init(_ time: Time) { self.init(seconds: time.seconds, nanoseconds: time.nanoseconds) }
}

extension O3FileSystem.TimeChange {
    init(_ change: FUSE.TimeChange) {
        switch change {
        case .now: self = .now
        case .to(let time): self = .to(Timestamp(time))
        }
    }
}

extension O3FileSystem.AttributeChanges {
    init(_ changes: FUSE.AttributeChanges) {
        self.init()
        mode = changes.mode
        uid = changes.uid
        gid = changes.gid
        size = changes.size
        accessTime = changes.accessTime.map { O3FileSystem.TimeChange($0) }
        modificationTime = changes.modificationTime.map { O3FileSystem.TimeChange($0) }
        changeTime = changes.changeTime.map { Timestamp($0) }
        clearsPrivileges = changes.clearsPrivileges ? .ofPrograms : .none
    }
}

extension Owner {
    init(_ context: RequestContext) { self.init(uid: context.uid, gid: context.gid) }
}
