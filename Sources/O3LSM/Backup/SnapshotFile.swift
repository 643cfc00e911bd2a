/// The file `SNAPSHOT`, one `ChecksummedLine`: `O3SNAPSHOT <version> <id of the store it was made of> <sequence>`.
struct SnapshotFile: Equatable {
    /// 32 hexadecimal digits.
    var source: String
    /// What was written up to this one is in the snapshot.
    var sequence: SequenceNumber

    private static let version = "1"
    private static let limitBytes = 256

    var encoded: [UInt8] { ChecksummedLine.encode(["O3SNAPSHOT", Self.version, source, "\(sequence)"]) }

    /// - Throws: `.corruption` for anything that is not such a file.
    static func load(_ layout: StoreLayout, _ storage: any Storage) throws(EngineError) -> SnapshotFile {
        let bytes = try storage.contents(of: layout.snapshot, limit: limitBytes)
        guard let words = ChecksummedLine.decode(bytes), words.count == 4, words[0] == "O3SNAPSHOT",
            words[1] == version, words[2].utf8.count == 32, let sequence = UInt64(words[3]),
            sequence <= maximumSequenceNumber
        else {
            throw .corruption(
                file: layout.snapshot, offset: 0, expected: "what a snapshot says of itself",
                found: "\(bytes.count) other bytes")
        }
        return SnapshotFile(source: words[2], sequence: sequence)
    }
}
