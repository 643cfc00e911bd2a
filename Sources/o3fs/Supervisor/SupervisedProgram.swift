@preconcurrency import Glibc
import CSystem

/// A program that a supervisor starts, now and after a death: the file that it was when it was named, whatever comes to lie
/// under its name meanwhile. Of a script only the name is kept: its interpreter opens it by that.
struct SupervisedProgram: Equatable, Sendable {
    /// For people.
    let name: String
    /// What to execute.
    let executable: String
    /// Keeps the file, of which nothing is read.
    private let file: OpenFile?

    /// The running program itself, whatever has become of its file.
    static let own = SupervisedProgram(name: "/proc/self/exe", executable: "/proc/self/exe", file: nil)

    private init(name: String, executable: String, file: OpenFile?) {
        (self.name, self.executable, self.file) = (name, executable, file)
    }

    init(path: String) {
        let descriptor = open(path, o3_O_PATH | O_CLOEXEC)
        guard descriptor >= 0, !Self.isScript(path) else {
            if descriptor >= 0 { close(descriptor) }
            // To start one that is not there says what is wrong with it.
            self.init(name: path, executable: path, file: nil)
            return
        }
        self.init(name: path, executable: "/proc/self/fd/\(descriptor)", file: OpenFile(descriptor))
    }

    private static func isScript(_ path: String) -> Bool {
        let file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
        guard file >= 0 else { return false }
        defer { close(file) }
        var start: [UInt8] = [0, 0]
        return read(file, &start, 2) == 2 && start == Array("#!".utf8)
    }

    static func == (a: SupervisedProgram, b: SupervisedProgram) -> Bool { a.name == b.name && a.file === b.file }

    private final class OpenFile: Sendable {
        private let descriptor: Int32
        init(_ descriptor: Int32) { self.descriptor = descriptor }
        deinit { close(descriptor) }
    }
}
