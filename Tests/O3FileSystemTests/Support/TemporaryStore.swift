import Foundation

@testable import O3LSM

/// A directory for one test's store, removed with its DM region when the object is released.
final class TemporaryStore: @unchecked Sendable {
    let path = NSTemporaryDirectory() + "o3filesystem-\(UInt64.random(in: 0 ... .max))"

    deinit {
        if let identity = try? StoreIdentity.load(from: path + "/IDENTITY", storage: POSIXStorage()) {
            Region.unlink(storeID: identity.storeID)
        }
        try? FileManager.default.removeItem(atPath: path)
    }

    /// Small memtables and tables, so that a short test goes through every part of the engine.
    func open(dmSize: Int = 32 << 20) throws -> Database {
        var options = Options()
        options.dmSize = dmSize
        options.memtableSize = 1 << 20
        options.shards = 2
        options.tableFileSize = 1 << 20
        options.levelBaseSize = 4 << 20
        options.cacheSize = 8 << 20
        options.blockSize = 4096
        options.logFileSize = 1 << 20
        return try Database.open(path, options: options)
    }
}
