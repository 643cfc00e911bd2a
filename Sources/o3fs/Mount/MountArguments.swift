/// Understands the ways mount(8) calls a file system's program, by rewriting them to `o3fs mount`.
enum MountArguments {
    /// The arguments after the program's name, as the command-line parser wants them.
    ///
    /// - `mount.o3fs STORE MOUNTPOINT -o …` and `mount.fuse.o3fs …`: called by mount(8) itself.
    /// - `o3fs STORE MOUNTPOINT -o …`: called by mount.fuse3 for `mount -t fuse.o3fs`.
    /// - `o3fs mount … -o threads=4`: options of ours among those of mount(8), as in fstab.
    static func rewrite(_ arguments: [String]) -> [String] {
        guard let program = arguments.first else { return [] }
        var rest = Array(arguments.dropFirst())
        let name = program.split(separator: "/").last ?? ""
        if name.hasPrefix("mount.") {
            rest = ["mount"] + withoutHelperFlags(rest)
        } else if rest.count >= 2, let first = rest.first, first.contains("/"), !first.hasPrefix("-") {
            rest.insert("mount", at: 0)
        }
        guard rest.first == "mount" else { return rest }
        return expandOptions(rest)
    }

    /// mount(8) gives its helpers -s (sloppy), -f (fake), -n (no mtab), -v, and -t TYPE, -N NAMESPACE.
    private static func withoutHelperFlags(_ arguments: [String]) -> [String] {
        var result: [String] = []
        var skipsNext = false
        for argument in arguments {
            if skipsNext {
                skipsNext = false
            } else if argument == "-t" || argument == "-N" {
                skipsNext = true
            } else if !["-s", "-f", "-n", "-v"].contains(argument) {
                result.append(argument)
            }
        }
        return result
    }

    /// Moves our own options out of the values of `-o`. What follows `--` is no option.
    private static func expandOptions(_ arguments: [String]) -> [String] {
        var result: [String] = []
        var moved: [String] = []
        var index = 0
        let end = arguments.firstIndex(of: "--") ?? arguments.count
        while index < end {
            let argument = arguments[index]
            index += 1
            let value: String
            if argument == "-o" || argument == "--options", index < end {
                value = arguments[index]
                index += 1
            } else if argument.hasPrefix("-o"), argument.count > 2 {
                value = String(argument.dropFirst(2))
            } else {
                result.append(argument)
                continue
            }
            var kept: [String] = []
            for option in MountOptions.split(value) {
                let parts = option.split(separator: "=", maxSplits: 1).map(String.init)
                let key = (parts.first ?? "").replacing("_", with: "-")
                if parts.count == 2, MountOptions.namedOptions.contains(key) {
                    moved += ["--" + key, parts[1]]
                } else if parts.count == 1, MountOptions.namedFlags.contains(key) {
                    moved.append("--" + key)
                } else {
                    kept.append(option.replacing("\\", with: "\\\\").replacing(",", with: "\\,"))
                }
            }
            if !kept.isEmpty { result += ["-o", kept.joined(separator: ",")] }
        }
        return result + moved + arguments[end...]
    }
}
