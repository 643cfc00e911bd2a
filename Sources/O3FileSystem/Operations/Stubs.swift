extension FileSystem {
    public func check(progress: (_ rows: UInt64) -> Void = { _ in }) throws(FileSystemError) -> [String] { [] }
}
