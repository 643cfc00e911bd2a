/// What a repair of a store's files has done, or would do.
public struct StoreRepairReport: Sendable {
    /// A stretch of a file that could not be read, and what was in it.
    public struct Loss: Sendable, Equatable {
        public var file: String
        /// Where it begins, and how many bytes it has.
        public var offset: UInt64
        public var bytes: UInt64
        /// The user keys around it that could be read: what is lost lies between them. nil: nothing was.
        public var after: [UInt8]?
        public var before: [UInt8]?
        /// What is lost, where it is something else than entries between two keys.
        public var note: String?
    }

    /// One sentence for each.
    public var changes: [String] = []
    public var losses: [Loss] = []
    /// What is damaged and stays as it is: one sentence for each file of a snapshot.
    public var leftAlone: [String] = []

    /// Whether there was nothing to do.
    public var isSound: Bool { changes.isEmpty && losses.isEmpty }
}
