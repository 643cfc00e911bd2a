import Glibc

/// Directories that are acted upon as a whole (deleted, renamed to a store's place): only those that are ours, and never
/// what a symbolic link leads to. Every step is made relative to an open directory, so that nobody who changes the tree
/// meanwhile can lead it elsewhere.
enum OwnDirectory {
    /// No tree of ours is deeper.
    private static let maximumDepth = 16

    /// Whether a directory may be acted upon: it is the user's, or, for root, who acts for others, that of whom the
    /// directory it is in belongs to.
    static func isTrusted(owner: uid_t, parentOwner: uid_t, user: uid_t) -> Bool {
        owner == user || user == 0 && owner == parentOwner
    }

    /// Whether a store may lie in a directory of `owner`: nobody but the user and root can change what is in it.
    static func mayHoldStore(owner: uid_t, user: uid_t) -> Bool { owner == user || owner == 0 || user == 0 }

    /// - Throws: `.invalidArgument` for a symbolic link, what is no directory, and somebody else's.
    static func check(_ path: String) throws(EngineError) {
        let parent = try openParent(path)
        _ = try open(name(of: path), in: parent, path, top: true)
    }

    /// Deletes a directory and all that is in it; links are deleted, not followed.
    ///
    /// - Throws: as `check`; `.io`.
    static func remove(_ path: String) throws(EngineError) {
        let parent = try openParent(path)
        try remove(name(of: path), in: parent, path, depth: 0)
    }

    private static func remove(
        _ name: String, in parent: borrowing DescriptorHandle, _ path: String, depth: Int
    ) throws(EngineError) {
        guard depth < maximumDepth else { throw .io(operation: "delete", path: path, code: ELOOP) }
        let directory = try open(name, in: parent, path, top: depth == 0)
        for entry in try list(directory, path) {
            guard unlinkat(directory.number, entry, 0) != 0 else { continue }
            guard errno == EISDIR else { throw .io(operation: "delete", path: path + "/" + entry, code: errno) }
            try remove(entry, in: directory, path + "/" + entry, depth: depth + 1)
        }
        guard unlinkat(parent.number, name, AT_REMOVEDIR) == 0 else {
            throw .io(operation: "delete", path: path, code: errno)
        }
    }

    /// `top`: of a tree, whose owner is looked at.
    private static func open(
        _ name: String, in parent: borrowing DescriptorHandle, _ path: String, top: Bool
    ) throws(EngineError) -> DescriptorHandle {
        let above = parent.number
        let number = retryingInterrupts { openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) }
        guard number >= 0 else {
            guard [ELOOP, ENOTDIR].contains(errno) else { throw .io(operation: "open", path: path, code: errno) }
            throw .invalidArgument("\(path) is no directory, or a link to one: see what it is, and move it away")
        }
        let directory = DescriptorHandle(owning: number)
        let (status, around) = (try directory.status(path: path), try parent.status(path: path))
        guard status.st_dev == around.st_dev || top else {
            throw .invalidArgument("something is mounted at \(path): unmount it first")
        }
        guard !top || isTrusted(owner: status.st_uid, parentOwner: around.st_uid, user: geteuid()) else {
            throw .invalidArgument(
                "\(path) belongs to user \(status.st_uid), so that nothing in it can be trusted: see what it is, and move it away")
        }
        return directory
    }

    private static func list(_ directory: borrowing DescriptorHandle, _ path: String) throws(EngineError) -> [String] {
        let copy = fcntl(directory.number, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0, let stream = fdopendir(copy) else {
            let code = errno
            if copy >= 0 { close(copy) }
            throw .io(operation: "list", path: path, code: code)
        }
        defer { closedir(stream) }
        return try names(stream, path)
    }

    /// What is in an open directory, without "." and "..".
    static func names(_ stream: OpaquePointer, _ path: String) throws(EngineError) -> [String] {
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = readdir(stream) else { break }
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != "." && name != ".." { names.append(name) }
        }
        guard errno == 0 else { throw .io(operation: "list", path: path, code: errno) }
        return names
    }

    private static func openParent(_ path: String) throws(EngineError) -> DescriptorHandle {
        try DescriptorHandle(path: parent(of: path), flags: O_RDONLY | O_DIRECTORY)
    }

    private static func trimmed(_ path: String) -> Substring {
        var path = Substring(path)
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        return path
    }

    private static func parent(of path: String) -> String {
        let path = trimmed(path)
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    private static func name(of path: String) -> String {
        let path = trimmed(path)
        return path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? String(path)
    }
}

/// Whether all who are in a group may change what it may write to, and who they are.
enum PrivateGroup {
    /// Whether nobody but the user is in the group, as far as the system's lists say: it has the user's name, which
    /// is how systems with a group for each user call it, and no other members.
    static func contains(only user: uid_t, group: gid_t) -> Bool {
        var bytes = [CChar](repeating: 0, count: 16 << 10)
        var (password, foundPassword) = (passwd(), UnsafeMutablePointer<passwd>?.none)
        guard getpwuid_r(user, &password, &bytes, bytes.count, &foundPassword) == 0, foundPassword != nil,
            let userName = password.pw_name.map({ String(cString: $0) })
        else { return false }
        var (entry, found) = (Glibc.group(), UnsafeMutablePointer<Glibc.group>?.none)
        guard getgrgid_r(group, &entry, &bytes, bytes.count, &found) == 0, found != nil, let name = entry.gr_name,
            String(cString: name) == userName
        else { return false }
        var member = entry.gr_mem
        while let text = member?.pointee {
            guard String(cString: text) == userName else { return false }
            member = member?.advanced(by: 1)
        }
        return true
    }
}
