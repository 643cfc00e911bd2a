@preconcurrency import Glibc

/// Output of commands: results go to standard output, everything else to standard error.
enum Console {
    /// Whether standard error is a terminal, so that a line may be redrawn.
    static var errorIsTerminal: Bool { isatty(STDERR_FILENO) == 1 }

    /// Writes a line to standard error at once.
    static func note(_ text: String) {
        fputs(text + "\n", stderr)
    }

    /// Writes bytes to standard output as they are.
    static func write(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        fwrite(base, 1, bytes.count, stdout)
    }

    static func write(_ text: String) {
        var text = text
        text.withUTF8 { write(UnsafeRawBufferPointer($0)) }
    }

    static func line(_ text: String = "") { write(text + "\n") }

    /// Hands what was written to the system now, as a reader of a pipe expects after each line.
    static func flush() { fflush(stdout) }
}

/// Columns of text, padded: the first to the left, the others to the right.
struct TextTable {
    private var rows: [[String]] = []

    mutating func add(_ cells: [String]) { rows.append(cells) }

    /// Lines without trailing blanks, each behind `indent`.
    func lines(indent: String = "") -> [String] {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in
            rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0
        }
        return rows.map { row in
            var line = indent
            for (column, cell) in row.enumerated() {
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                line += column == 0 ? cell + padding : "  " + padding + cell
            }
            while line.last == " " { line.removeLast() }
            return line
        }
    }
}
