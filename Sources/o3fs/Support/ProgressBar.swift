/// Shows how far a long command is, on standard error: a bar that is redrawn on a terminal, a line for
/// every tenth elsewhere. One thread.
struct ProgressBar {
    private let label: String
    private let isTerminal: Bool
    private var lastShown: UInt64?
    private var lastTenth = -1

    private static let width = 30
    private static let redrawNanoseconds: UInt64 = 100_000_000

    init(_ label: String) {
        self.label = label
        isTerminal = Console.errorIsTerminal
    }

    mutating func update(_ done: UInt64, of total: UInt64, _ unit: String) {
        let share = total > 0 ? min(Double(done) / Double(total), 1) : 1
        guard isTerminal else {
            let tenth = Int(share * 10)
            guard tenth > lastTenth else { return }
            lastTenth = tenth
            return Console.note("\(label): \(Int(share * 100)) %, \(done) of \(total) \(unit)")
        }
        guard isTimeToDraw(force: done >= total) else { return }
        let filled = Int(share * Double(Self.width))
        let bar = String(repeating: "#", count: filled) + String(repeating: ".", count: Self.width - filled)
        Console.redraw("\(label) [\(bar)] \(Int(share * 100)) %  \(done) of \(total) \(unit)")
    }

    /// For work whose end is not known.
    mutating func update(_ done: UInt64, _ unit: String) {
        if isTerminal {
            if isTimeToDraw(force: false) { Console.redraw("\(label)  \(done) \(unit)") }
        } else if Int(done / 1_000_000) > lastTenth {
            lastTenth = Int(done / 1_000_000)
            Console.note("\(label): \(done) \(unit)")
        }
    }

    /// Leaves the line.
    func end() {
        if isTerminal, lastShown != nil { Console.note("") }
    }

    private mutating func isTimeToDraw(force: Bool) -> Bool {
        let now = monotonicNanoseconds()
        if !force, let lastShown, now - lastShown < Self.redrawNanoseconds { return false }
        lastShown = now
        return true
    }
}
