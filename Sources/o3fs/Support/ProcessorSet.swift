import CSystem
import Glibc

/// A set of processors, written as `0,2-3`.
struct ProcessorSet: Equatable {
    static let maximum = 1023
    let processors: [Int]

    /// - Throws: one sentence for anything that is not a list of numbers and ranges.
    init(_ text: String) throws(CommandError) {
        var found = Set<Int>()
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let bounds = part.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false).map { Int($0) }
            guard let first = bounds.first.flatMap({ $0 }), let last = bounds.last.flatMap({ $0 }),
                (0...Self.maximum).contains(first), (first...max(first, Self.maximum)).contains(last)
            else { throw CommandError("\"\(text)\" is not a list of processors such as 0,2-3") }
            found.formUnion(first...last)
        }
        processors = found.sorted()
    }

    /// Keeps this thread, and those it starts from now on, on these processors.
    func bind() throws(CommandError) {
        let numbers = processors.map { Int32($0) }
        let code = o3_set_affinity(numbers, Int32(numbers.count))
        guard code == 0 else {
            throw CommandError("run on processors \(processors.map(String.init).joined(separator: ","))", errno: -code)
        }
    }
}
