import Glibc

/// Bytes as text that can be typed and read back: printable ASCII as it is, a backslash doubled, every
/// other byte as `\xNN`.
enum EscapedBytes {
    static func text(_ bytes: some Sequence<UInt8>) -> String {
        var text = ""
        for byte in bytes {
            switch byte {
            case 0x5c: text += "\\\\"
            case 0x20..<0x7f: text.unicodeScalars.append(Unicode.Scalar(byte))
            default: text += "\\x" + hex(CollectionOfOne(byte))
            }
        }
        return text
    }

    /// The bytes of a C string that is not UTF-8, as text; nil for one that is.
    static func textIfNotUTF8(_ string: UnsafePointer<CChar>) -> String? {
        guard String(validatingCString: string) == nil else { return nil }
        return text(UnsafeRawBufferPointer(start: string, count: strlen(string)))
    }

    /// nil for a backslash that begins none of `\\`, `\xNN`, `\n`, `\t`, `\0`.
    static func parse(_ text: String) -> [UInt8]? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == 0x5c else {
                bytes.append(byte)
                continue
            }
            switch rest.popFirst() {
            case 0x5c: bytes.append(0x5c)
            case UInt8(ascii: "n"): bytes.append(0x0a)
            case UInt8(ascii: "t"): bytes.append(0x09)
            case UInt8(ascii: "0"): bytes.append(0)
            case UInt8(ascii: "x"):
                guard let value = byteOfHex(rest.prefix(2)) else { return nil }
                rest = rest.dropFirst(2)
                bytes.append(value)
            default: return nil
            }
        }
        return bytes
    }

    static func hex(_ bytes: some Sequence<UInt8>) -> String {
        var text = ""
        for byte in bytes {
            text.unicodeScalars.append(hexDigit(byte >> 4))
            text.unicodeScalars.append(hexDigit(byte & 15))
        }
        return text
    }

    /// nil for text that is no even number of hexadecimal digits.
    static func parseHex(_ text: String) -> [UInt8]? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while !rest.isEmpty {
            guard let value = byteOfHex(rest.prefix(2)) else { return nil }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return bytes
    }

    private static func hexDigit(_ value: UInt8) -> Unicode.Scalar {
        Unicode.Scalar(value < 10 ? 0x30 + value : 0x57 + value)
    }

    private static func byteOfHex(_ digits: Substring.UTF8View) -> UInt8? {
        guard digits.count == 2 else { return nil }
        var value: UInt8 = 0
        for digit in digits {
            switch digit {
            case 0x30...0x39: value = value << 4 | (digit - 0x30)
            case 0x41...0x46: value = value << 4 | (digit - 0x37)
            case 0x61...0x66: value = value << 4 | (digit - 0x57)
            default: return nil
            }
        }
        return value
    }
}
