import ArgumentParser

/// A number of bytes as people write it: `4096`, `64K`, `64M`, `1.5G`, `2T`, with or without `B` or
/// `iB` behind the letter, in either case. Letters mean powers of 1024.
struct ByteSize: Equatable, Sendable, ExpressibleByArgument, CustomStringConvertible {
    let bytes: Int

    init(_ bytes: Int) { self.bytes = bytes }

    /// nil for text that is not a size, is negative, or does not fit.
    init?(argument: String) {
        let lower = argument.lowercased()
        let digits = lower.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        guard let factor = Self.factors[String(lower.dropFirst(digits.count))] else { return nil }
        if let whole = Int(digits) {
            let (product, overflow) = whole.multipliedReportingOverflow(by: factor)
            guard !overflow else { return nil }
            bytes = product
        } else {
            guard digits.first?.isNumber == true, digits.last?.isNumber == true,
                let value = Double(digits), let rounded = Int(exactly: (value * Double(factor)).rounded())
            else { return nil }
            bytes = rounded
        }
    }

    /// The largest unit that keeps the number exact, so that it parses back to itself: `64M`, `4097`.
    var description: String {
        guard bytes > 0 else { return String(bytes) }
        for (letter, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] where bytes % (1 << shift) == 0 {
            return "\(bytes >> shift)\(letter)"
        }
        return String(bytes)
    }

    var defaultValueDescription: String { description }

    private static let factors: [String: Int] = {
        var result = ["": 1, "b": 1]
        for (letter, shift) in [("k", 10), ("m", 20), ("g", 30), ("t", 40)] {
            for suffix in ["", "b", "ib"] { result[letter + suffix] = 1 << shift }
        }
        return result
    }()
}

/// Bytes for a reader, not for a parser: `1.5 GiB`.
func readableBytes(_ bytes: UInt64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    var value = Double(bytes)
    var unit = 0
    while value >= 1024, unit + 1 < units.count {
        value /= 1024
        unit += 1
    }
    return unit == 0 ? "\(bytes) B" : "\(fixed(value, decimals: 1)) \(units[unit])"
}

/// `value` with a fixed number of decimals, without a locale.
func fixed(_ value: Double, decimals: Int) -> String {
    guard value.isFinite else { return "-" }
    var scale = 1.0
    for _ in 0..<decimals { scale *= 10 }
    let scaled = (value.magnitude * scale).rounded()
    guard scaled < 1e18 else { return "\(value)" }
    let number = UInt64(scaled)
    let sign = value < 0 && number > 0 ? "-" : ""
    guard decimals > 0 else { return sign + String(number) }
    let unit = UInt64(scale)
    let fraction = String(number % unit)
    return "\(sign)\(number / unit).\(String(repeating: "0", count: decimals - fraction.count))\(fraction)"
}
