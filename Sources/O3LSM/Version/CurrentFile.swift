/// The file `CURRENT`: names the manifest that counts. One line of text, replaced atomically:
///
/// ```
/// O3CURRENT <format version> <manifest number> <masked CRC32C of what precedes it, the space included>\n
/// ```
/// All numbers are decimal without leading zeros.
enum CurrentFile {
    static let version: UInt32 = 1
    private static let limitBytes = 256

    static func write(manifest number: UInt64, _ layout: StoreLayout, _ storage: any Storage) throws(EngineError) {
        try storage.replace(layout.current, in: layout.root, with: line(version, number))
    }

    /// The number of the manifest that counts.
    ///
    /// - Throws: `.corruption` for anything that `write` does not write, `.unsupportedFormat`.
    static func read(_ layout: StoreLayout, _ storage: any Storage) throws(EngineError) -> UInt64 {
        guard storage.exists(layout.current) else {
            throw .corruption(file: layout.current, offset: 0, expected: "the number of a manifest", found: "no such file")
        }
        let bytes = try storage.contents(of: layout.current, limit: limitBytes)
        guard let words = ChecksummedLine.decode(bytes), words.count == 3, let version = UInt32(words[1]),
            let number = UInt64(words[2]), bytes == line(version, number)
        else {
            throw .corruption(
                file: layout.current,
                offset: 0,
                expected: "the number of a manifest and its checksum",
                found: "\(bytes.count) other bytes"
            )
        }
        guard version == CurrentFile.version else {
            throw .unsupportedFormat(file: layout.current, found: version, supported: CurrentFile.version)
        }
        return number
    }

    private static func line(_ version: UInt32, _ number: UInt64) -> [UInt8] {
        ChecksummedLine.encode(["O3CURRENT", "\(version)", "\(number)"])
    }
}
