import Glibc
import O3FileSystem

/// The options of mount(8), as they follow `-o`: which go to the kernel, which are ours.
struct MountOptions: Equatable {
    /// For libfuse, escaped as it wants them.
    var kernel: [String] = []
    var isReadOnly = false
    var accessControlLists = true
    var shownOwner = FileSystemAdapter.ShownOwner()
    var accessTimes = AccessTimePolicy.relative
    var directoryAccessTimes = true

    /// Options of `o3fs mount` that fstab can give as `name=value`: each is `--name value`.
    static let namedOptions: Set<String> = [
        "dm-size", "placement", "local-buffer", "transfer-threads", "memtable-size", "shards", "cache-size", "offset-cache", "bloom-bits",
        "compression", "block-size",
        "commit-interval", "flush-threads", "compaction-threads", "file-block-size", "max-size", "max-inodes", "threads", "workers", "worker-lease", "attr-timeout",
        "read-delegation", "entry-timeout", "negative-timeout", "read-ahead", "log-file", "max-restarts", "start-patience", "dm-latency", "dm-bandwidth", "snapshot", "scrub-rate", "storage-latency", "storage-bandwidth",
    ]

    /// Options of `o3fs mount` that fstab can give as a word: each is `--name`.
    static let namedFlags: Set<String> = ["writeback-cache", "core-dumps", "dm-prefault", "survive", "no-survive"]

    /// What the kernel and libfuse understand.
    private static let passed: Set<String> = [
        "rw", "ro", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "async", "sync", "dirsync", "symfollow", "nosymfollow", "allow_other", "allow_root", "default_permissions",
    ]

    /// What mount(8) handles itself, and what is so anyway.
    private static let ignored: Set<String> = [
        "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "norelatime",
        "lazytime", "nolazytime", "loud",
        "silent", "big_writes", "nonempty", "user_xattr",
    ]

    /// From the values of all `-o` options, each comma-separated.
    ///
    /// `store` is the name the mount gets in the mount table unless `fsname` says otherwise. Throws one
    /// sentence for an unknown option.
    init(_ values: [String], store: String) throws(CommandError) {
        var name = store
        var subtype = "o3fs"
        var checksPermissions = true
        for option in values.flatMap(Self.split) {
            let parts = option.split(separator: "=", maxSplits: 1).map(String.init)
            let key = parts.first ?? option
            let value = parts.count == 2 ? parts[1] : nil
            switch key {
            case "fsname": name = try Self.require(value, option)
            case "subtype": subtype = try Self.require(value, option)
            case "uid": shownOwner.uid = try Self.number(value, option)
            case "gid": shownOwner.gid = try Self.number(value, option)
            case "max_read":
                guard let text = value, let bytes = ByteSize(argument: text), bytes.bytes >= 4096 else {
                    throw CommandError("the mount option \(option) must give at least 4096 bytes")
                }
                kernel.append("max_read=\(bytes.bytes)")
            case "no_default_permissions": checksPermissions = false
            case "noatime":
                accessTimes = .never
                kernel.append(option)
            case "relatime", "atime", "nostrictatime": accessTimes = .relative
            case "strictatime": accessTimes = .always
            case "nodiratime": directoryAccessTimes = false
            case "diratime": directoryAccessTimes = true
            case "acl": accessControlLists = true
            case "noacl": accessControlLists = false
            case "ro":
                isReadOnly = true
                kernel.append(option)
            case "rw":
                isReadOnly = false
                kernel.append(option)
            case _ where Self.passed.contains(option): kernel.append(option)
            case _ where Self.ignored.contains(key) || key.hasPrefix("x-") || key == "comment": continue
            case "remount":
                throw CommandError(
                    "a mount cannot get other options: unmount it and mount it again, or use mount -i -o remount,ro for what "
                        + "the kernel alone sees to")
            default: throw CommandError("unknown mount option \(option)")
            }
        }
        // The kernel checks permissions where it checks lists.
        if !checksPermissions { accessControlLists = false }
        if checksPermissions, !kernel.contains("default_permissions") { kernel.append("default_permissions") }
        kernel += ["fsname=" + Self.escape(name), "subtype=" + Self.escape(subtype)]
    }

    /// What fusermount3 would refuse, whose words get lost in the daemon's log: throws for options that only root,
    /// or users whom /etc/fuse.conf (`configuration`) allows it, may give.
    func checkPermitted(
        user: UInt32 = geteuid(), configuration: String = "/etc/fuse.conf"
    ) throws(CommandError) {
        guard user != 0, let option = kernel.first(where: { $0 == "allow_other" || $0 == "allow_root" }) else { return }
        let isAllowed = Files.text(configuration).split(separator: "\n").contains {
            $0.split(whereSeparator: \.isWhitespace).first == "user_allow_other"
        }
        guard isAllowed else {
            throw CommandError("\(option) is only for root, or with a line user_allow_other in \(configuration)")
        }
    }

    /// At commas, except escaped ones.
    static func split(_ list: String) -> [String] {
        var result: [String] = []
        var current = ""
        var isEscaped = false
        for character in list {
            if isEscaped {
                current.append(character)
                isEscaped = false
            } else if character == "\\" {
                isEscaped = true
            } else if character == "," {
                result.append(current)
                current = ""
            } else {
                current.append(character)
            }
        }
        result.append(current)
        return result.filter { !$0.isEmpty }
    }

    private static func number(_ value: String?, _ option: String) throws(CommandError) -> UInt32 {
        // All ones is the kernel's "no one".
        guard let number = UInt32(try require(value, option)), number != .max else {
            throw CommandError("the mount option \(option) must give a number below 4294967295")
        }
        return number
    }

    private static func require(_ value: String?, _ option: String) throws(CommandError) -> String {
        guard let value, !value.isEmpty else { throw CommandError("the mount option \(option) needs a value") }
        return value
    }

    private static func escape(_ text: String) -> String {
        text.reduce(into: "") { result, character in
            if character == "," || character == "\\" { result.append("\\") }
            result.append(character)
        }
    }
}
