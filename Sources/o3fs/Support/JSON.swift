import FoundationEssentials

/// JSON as the commands print it and the control socket speaks it: keys sorted, one line unless asked.
enum JSON {
    static func encode(_ value: any Encodable, pretty: Bool = false) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = pretty ? [.sortedKeys, .prettyPrinted] : [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    static func decode<T: Decodable>(_ type: T.Type, from text: [UInt8]) throws -> T {
        try JSONDecoder().decode(type, from: Data(text))
    }
}
