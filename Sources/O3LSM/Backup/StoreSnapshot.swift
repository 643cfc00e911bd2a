/// A state of a store that was kept under a name: a store of its own, to be opened read-only.
public struct StoreSnapshot: Equatable, Sendable {
    public var name: String
    /// Its directory.
    public var path: String
    /// Its own id and that of the store it was made of, in hexadecimal.
    public var id: String
    public var source: String
    /// What was written up to this one is in it.
    public var sequence: UInt64
    /// Seconds since 1970.
    public var created: UInt64
    public var tables: Int
    /// Of its tables. Most of them it shares with the store, or with other snapshots.
    public var bytes: UInt64
}
