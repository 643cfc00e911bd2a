import Glibc

/// Which build of the program this process runs. Processes that share a region must be of one build: layouts
/// and formats are checked, too, but only the same code is sure to agree on everything.
enum BuildIdentity {
    /// CRC-32C of the running program's file; 1 when it cannot be read.
    static let current: UInt32 = {
        let descriptor = open("/proc/self/exe", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return 1 }
        defer { close(descriptor) }
        var checksum: UInt32 = 0
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return checksum == 0 ? 1 : checksum }
            checksum = buffer.withUnsafeBytes { CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[..<count]), seed: checksum) }
        }
    }()
}
