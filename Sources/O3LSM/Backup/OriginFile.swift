/// The file `ORIGIN` of a store that was imported, one `ChecksummedLine`:
/// `O3ORIGIN <version> <id of the snapshot it equals> <its own sequence then>`. As long as nothing was written to the
/// store since, what has changed after that snapshot can be imported, too.
struct OriginFile: Equatable {
    /// 32 hexadecimal digits.
    var snapshot: String
    var sequence: SequenceNumber

    private static let version = "1"

    var encoded: [UInt8] { ChecksummedLine.encode(["O3ORIGIN", Self.version, snapshot, "\(sequence)"]) }

    /// nil when the store was not imported.
    ///
    /// - Throws: `.corruption` for anything that is not such a file.
    static func load(_ layout: StoreLayout, _ storage: any Storage) throws(EngineError) -> OriginFile? {
        guard storage.exists(layout.origin) else { return nil }
        let bytes = try storage.contents(of: layout.origin, limit: 256)
        guard let words = ChecksummedLine.decode(bytes), words.count == 4, words[0] == "O3ORIGIN",
            words[1] == version, words[2].utf8.count == 32, let sequence = UInt64(words[3])
        else {
            throw .corruption(
                file: layout.origin, offset: 0, expected: "where an imported store comes from",
                found: "\(bytes.count) other bytes")
        }
        return OriginFile(snapshot: words[2], sequence: sequence)
    }
}
