/// How the mount of a session is told from others: by its type and by the name of its source, which for O3FS is the store,
/// that one process has at a time.
struct MountIdentity {
    /// As in the mount table; nil: libfuse's choice, which is not checked.
    private let type: String?
    private let source: String?

    init(_ options: SessionOptions) {
        type = Self.value("subtype", options).map { "fuse." + $0 }
        source = Self.value("fsname", options)
    }

    func matches(_ entry: MountTable.Entry) -> Bool {
        guard entry.type == "fuse" || entry.type.hasPrefix("fuse.") else { return false }
        return (type ?? entry.type) == entry.type && (source ?? entry.source) == entry.source
    }

    /// Without the backslashes that stand before commas and backslashes.
    private static func value(_ key: String, _ options: SessionOptions) -> String? {
        guard let option = options.mountOptions.last(where: { $0.hasPrefix(key + "=") }) else { return nil }
        var value = ""
        var isEscaped = false
        for character in option.dropFirst(key.count + 1) {
            if character == "\\", !isEscaped {
                isEscaped = true
            } else {
                value.append(character)
                isEscaped = false
            }
        }
        return value
    }
}
