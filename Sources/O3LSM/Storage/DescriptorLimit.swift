import Glibc

/// How many files the process may have open. The usual soft limit, 1024, is less than a large store needs.
public enum DescriptorLimit {
    /// What is left for logs, sockets, and tables that are open beside the caches: inputs of compactions, and tables
    /// that were evicted under a reader.
    private static let reserve = 256
    private static let leastTables = 16

    /// Raises the soft limit to the hard one; for the beginning of a process. Where that cannot be, less is kept open.
    public static func raise() {
        guard var limit = read(), limit.rlim_cur < limit.rlim_max else { return }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(resource, &limit)
    }

    /// Tables that may be kept open at once.
    static var tables: Int { tables(within: read().map { Int(clamping: $0.rlim_cur) } ?? Int.max) }

    /// - Parameter descriptors: that the process may have.
    static func tables(within descriptors: Int) -> Int { max(leastTables, descriptors - reserve) }

    private static let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)

    private static func read() -> rlimit? {
        var limit = rlimit()
        return getrlimit(resource, &limit) == 0 ? limit : nil
    }
}
