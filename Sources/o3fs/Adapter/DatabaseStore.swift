import O3FileSystem
import O3LSM

// The engine is what the file system stores its rows in.

extension Database: KeyValueStore {
    public func makeCursor(_ options: ReadOptions) throws(EngineError) -> any KeyValueCursor {
        try makeIterator(options)
    }
}

extension DatabaseIterator: KeyValueCursor {}
