import O3LSM

/// Reading and writing rows in the file system's terms and with its errors.
extension KeyValueStore {
    @inline(__always)
    func fetch(_ key: RowKey, _ snapshot: Snapshot? = nil) throws(FileSystemError) -> PinnedValue? {
        do throws(EngineError) {
            return try key.withBytes { (key) throws(EngineError) in try lookup(key, snapshot: snapshot) }
        } catch {
            throw .engine(error)
        }
    }

    @inline(__always)
    func fetch(_ key: NameKey, _ snapshot: Snapshot? = nil) throws(FileSystemError) -> PinnedValue? {
        do throws(EngineError) {
            return try key.withBytes { (key) throws(EngineError) in try lookup(key, snapshot: snapshot) }
        } catch {
            throw .engine(error)
        }
    }

    func apply(_ batch: WriteBatch, sync: Bool = false) throws(FileSystemError) {
        do throws(EngineError) { try write(batch, sync: sync) } catch { throw .engine(error) }
    }

    /// The inode's row; nil when there is none, as for what is no inode number.
    func fetchInode(_ number: InodeNumber, _ snapshot: Snapshot? = nil) throws(FileSystemError) -> Inode? {
        guard isInodeNumber(number), let value = try fetch(.inode(number), snapshot) else { return nil }
        return try withExtendedLifetime(value) { () throws(FileSystemError) in
            try decodeInode(number, value.bytes)
        }
    }

    func decodeInode(_ number: InodeNumber, _ bytes: UnsafeRawBufferPointer) throws(FileSystemError) -> Inode {
        var problem = ""
        guard let inode = Inode(bytes, failure: &problem) else {
            throw .corruptRow(row: "inode \(number)", problem: problem)
        }
        return inode
    }

    /// A cursor on the first key at or after `lower`, and before `upper` (nil: to the end).
    func scan(
        from lower: [UInt8],
        to upper: [UInt8]?,
        _ snapshot: Snapshot? = nil,
        fillCache: Bool = true
    ) throws(FileSystemError) -> any KeyValueCursor {
        var options = ReadOptions()
        options.snapshot = snapshot
        options.lowerBound = lower
        options.upperBound = upper
        options.fillCache = fillCache
        do throws(EngineError) {
            let cursor = try makeCursor(options)
            try cursor.seek(lower)
            return cursor
        } catch {
            throw .engine(error)
        }
    }

    /// A cursor on the first row of a kind; it ends with the last one.
    func scan(_ kind: RowKind) throws(FileSystemError) -> any KeyValueCursor {
        try scan(from: [kind.rawValue], to: [kind.rawValue + 1], fillCache: false)
    }
}

extension KeyValueCursor {
    func advance() throws(FileSystemError) {
        do throws(EngineError) { try next() } catch { throw .engine(error) }
    }
}

extension WriteBatch {
    func put(_ key: RowKey, _ inode: Inode) {
        key.withBytes { key in inode.withEncoded { put(key, $0) } }
    }
    func put(_ key: NameKey, _ dentry: Dentry) {
        key.withBytes { key in dentry.withEncoded { put(key, $0) } }
    }
    func put(_ key: NameKey, _ value: UnsafeRawBufferPointer) { key.withBytes { put($0, value) } }
    func put(_ key: RowKey, _ value: UnsafeRawBufferPointer) { key.withBytes { put($0, value) } }
    /// `value` stays valid until the batch is applied.
    func put(_ key: RowKey, referencing value: UnsafeRawBufferPointer) {
        key.withBytes { put($0, referencing: value) }
    }
    func delete(_ key: RowKey) { key.withBytes { delete($0) } }
    func delete(_ key: NameKey) { key.withBytes { delete($0) } }
    func deleteRange(_ begin: RowKey, _ end: RowKey) {
        begin.withBytes { begin in end.withBytes { deleteRange(begin, $0) } }
    }
}
