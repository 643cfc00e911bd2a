import Glibc

/// One mounted O3FS file system.
struct MountedStore: Equatable {
    /// The store's directory, as the mount names its source.
    var store: String
    var mountpoint: String

    /// Whether `store` is a path: mounted with `-o fsname=`, it is what the user calls it.
    var namesStore: Bool { store.hasPrefix("/") }
}

/// What the kernel says is mounted.
enum MountTable {
    /// The type an O3FS mount has in the mount table.
    static let fileSystemType = "fuse.o3fs"

    /// All O3FS mounts this process can see, oldest first. Empty where there is no /proc.
    static func mountedStores() -> [MountedStore] {
        guard let file = fopen("/proc/self/mountinfo", "re") else { return [] }
        defer { fclose(file) }
        var line: UnsafeMutablePointer<CChar>?
        var capacity = 0
        defer { free(line) }
        var result: [MountedStore] = []
        while getline(&line, &capacity, file) > 0 {
            if let line, let mount = parse(String(cString: line)) { result.append(mount) }
        }
        return result
    }

    /// A line of proc(5) mountinfo; nil for a mount of another type, or no such line.
    static func parse(_ line: String) -> MountedStore? {
        let fields = line.split(whereSeparator: { $0 == " " || $0 == "\n" })
        // id parent major:minor root MOUNTPOINT options [optional]* - TYPE SOURCE options
        guard fields.count > 6, let dash = fields[6...].firstIndex(of: "-"), dash + 2 < fields.count,
            fields[dash + 1] == fileSystemType
        else { return nil }
        return MountedStore(store: unescape(fields[dash + 2]), mountpoint: unescape(fields[4]))
    }

    /// Blanks, tabs, newlines and backslashes are written as three octal digits.
    private static func unescape(_ field: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(field.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.count >= 3,
                let value = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8)
            {
                bytes.append(value)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
