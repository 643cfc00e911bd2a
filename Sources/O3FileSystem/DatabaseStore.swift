import O3LSM

/// The engine as the file system's store: everything but the cursor's existential type is there already.
extension Database: KeyValueStore {
    public func makeCursor(_ options: ReadOptions) throws(EngineError) -> any KeyValueCursor {
        try makeIterator(options)
    }
}

extension DatabaseIterator: KeyValueCursor {}
