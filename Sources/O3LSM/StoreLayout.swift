/// Names of the files of a store directory. Numbers are decimal and padded so that `ls` sorts them.
struct StoreLayout: Sendable {
    let root: String

    var identity: String { root + "/IDENTITY" }
    var lock: String { root + "/LOCK" }
    var current: String { root + "/CURRENT" }
    var logDirectory: String { root + "/wal" }
    var tableDirectory: String { root + "/sst" }

    func manifest(_ number: UInt64) -> String { root + "/MANIFEST-" + padded(number) }
    func log(_ number: UInt64) -> String { logDirectory + "/" + padded(number) + ".log" }
    func table(_ number: UInt64) -> String { tableDirectory + "/" + padded(number) + ".sst" }

    /// The number in a name such as `MANIFEST-000012`, `000012.log` or `000012.sst`; nil for other names.
    static func number(in name: String) -> UInt64? {
        var digits = name[...]
        if digits.hasPrefix("MANIFEST-") { digits = digits.dropFirst(9) }
        if let dot = digits.firstIndex(of: ".") { digits = digits[..<dot] }
        guard !digits.isEmpty, digits.allSatisfy({ $0.isASCII && $0.isNumber }) else { return nil }
        return UInt64(digits)
    }

    private func padded(_ number: UInt64) -> String {
        let text = String(number)
        return String(repeating: "0", count: max(0, 6 - text.count)) + text
    }
}
