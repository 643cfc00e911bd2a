extension Storage {
    /// A small file, whole; at most `limit` bytes of it.
    func contents(of path: String, limit: Int) throws(EngineError) -> [UInt8] {
        let file = try openForReading(path)
        var bytes = [UInt8](repeating: 0, count: Int(min(UInt64(limit), file.size)))
        let outcome = bytes.withUnsafeMutableBytes { buffer -> Result<Int, EngineError> in
            do throws(EngineError) { return .success(try file.read(at: 0, into: buffer)) } catch {
                return .failure(error)
            }
        }
        return Array(bytes.prefix(try outcome.get()))
    }

    /// Replaces a small file whole or, after a crash, not at all; on storage when it returns. After a throw
    /// the file holds the old bytes or the new ones.
    ///
    /// - Parameter directory: where the file is.
    func replace(_ path: String, in directory: String, with bytes: [UInt8]) throws(EngineError) {
        let temporary = path + temporaryFileSuffix
        let file = try create(temporary)
        try bytes.withEngineBytes { bytes throws(EngineError) in try file.append(bytes) }
        try file.sync()
        try file.close()
        try rename(temporary, to: path)
        try syncDirectory(directory)
    }
}

/// Ends the names of files that are to replace another one; what a crash leaves of them is removed.
let temporaryFileSuffix = ".tmp"
