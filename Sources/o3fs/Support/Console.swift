@preconcurrency import Glibc

/// Output of commands: results go to standard output, everything else to standard error.
enum Console {
    /// Whether standard error is a terminal, so that a line may be redrawn.
    static var errorIsTerminal: Bool { isatty(STDERR_FILENO) == 1 }

    static var outputIsTerminal: Bool { isatty(STDOUT_FILENO) == 1 }

    /// Writes a line to standard error at once.
    static func note(_ text: String) {
        fputs(text + "\n", stderr)
    }

    /// Replaces the line the cursor of the terminal is in.
    static func redraw(_ text: String) {
        fputs("\r\u{1b}[K" + text, stderr)
        fflush(stderr)
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

/// Columns of text, padded so that they line up.
struct TextTable {
    private var rows: [[String]] = []

    mutating func add(_ cells: [String]) { rows.append(cells) }

    /// The first column to the left, the others (numbers) to the right.
    func lines(indent: String = "") -> [String] { lines(indent: indent, rightFrom: 1) }

    /// All columns to the left.
    func leftAlignedLines(indent: String = "") -> [String] { lines(indent: indent, rightFrom: .max) }

    private func lines(indent: String, rightFrom firstRight: Int) -> [String] {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in
            rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0
        }
        return rows.map { row in
            var line = indent
            for (column, cell) in row.enumerated() {
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                if column > 0 { line += "  " }
                line += column < firstRight ? cell + padding : padding + cell
            }
            while line.last == " " { line.removeLast() }
            return line
        }
    }
}
