/// A line of text that carries its own checksum: words, a space, the masked CRC32C of what precedes it in
/// decimal, and a newline. For small files that people look at with `cat`.
enum ChecksummedLine {
    /// - Parameter words: without spaces and newlines.
    static func encode(_ words: [String]) -> [UInt8] {
        let text = words.reduce(into: [UInt8]()) { text, word in
            text += Array(word.utf8)
            text.append(UInt8(ascii: " "))
        }
        let checksum = text.withUnsafeBytes { CRC32C.masked(CRC32C.checksum($0)) }
        return text + Array("\(checksum)\n".utf8)
    }

    /// The words; nil for anything that `encode` does not write. The bytes are not trusted.
    static func decode(_ bytes: [UInt8]) -> [String]? {
        let fields = bytes.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
            .map { String(decoding: $0, as: UTF8.self) }
        let words = Array(fields.dropLast())
        return encode(words) == bytes ? words : nil
    }
}
