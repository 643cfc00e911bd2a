import Foundation
import Glibc

/// What a command left behind.
struct CommandResult: CustomStringConvertible {
    let command: String
    /// Exit status; 128 + signal number for a death by signal, as in the shell; 124 for one that took too long.
    let status: Int32
    let output: String
    let errors: String
    let seconds: Double

    var description: String {
        "\(command)\nstatus \(status) after \(fixed(seconds)) s\n--- output\n\(output.suffix(4000))"
            + "\n--- errors\n\(errors.suffix(4000))"
    }

    /// Lines of the output, without empty ones.
    var lines: [Substring] { output.split(separator: "\n") }

    private func fixed(_ value: Double) -> String { String(format: "%.1f", value) }
}

/// A command ended otherwise than it must.
struct CommandFailed: Error, CustomStringConvertible {
    let result: CommandResult
    var description: String { result.description }
}

/// Runs commands with their output in files: a daemon that a command leaves behind and that still holds
/// its output open cannot make the test wait.
enum Shell {
    /// Runs a program found in PATH. Does not throw for a status other than 0.
    static func run(
        _ arguments: [String],
        in directory: String? = nil,
        environment: [String: String] = [:],
        timeout: Double = 300
    ) throws -> CommandResult {
        let scratch = try TemporaryDirectory("command")
        let output = scratch.path + "/output"
        let errors = scratch.path + "/errors"
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT, 0o600)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // A group of its own, so that a command that takes too long goes with all its children.
        // And no signals blocked, as on a thread of the tests' pool: nothing would be ended by one.
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK))

        let variables = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        // posix_spawn cannot change the directory everywhere; the shell can.
        let full = directory.map { ["sh", "-c", "cd \"$0\" && exec \"$@\"", $0] + arguments } ?? arguments
        var process = pid_t()
        let start = Date()
        let code = withCStrings(full) { argv in
            withCStrings(variables.map { "\($0.key)=\($0.value)" }) { envp in
                posix_spawnp(&process, full[0], &actions, &attributes, argv, envp)
            }
        }
        guard code == 0 else { throw SetupError("cannot run \(full[0]): \(String(cString: strerror(code)))") }
        let status = wait(process, until: start.addingTimeInterval(timeout))
        return CommandResult(
            command: arguments.joined(separator: " "),
            status: status,
            output: text(output),
            errors: text(errors),
            seconds: Date().timeIntervalSince(start)
        )
    }

    /// Runs a script with bash, which stops at the first failing command; throws unless it ends with 0.
    @discardableResult
    static func script(
        _ text: String,
        in directory: String? = nil,
        environment: [String: String] = [:],
        timeout: Double = 300
    ) throws -> CommandResult {
        let result = try run(
            ["bash", "-euo", "pipefail", "-c", text],
            in: directory,
            environment: environment,
            timeout: timeout
        )
        guard result.status == 0 else { throw CommandFailed(result: result) }
        return result
    }

    static func has(_ program: String) -> Bool {
        (try? run(["sh", "-c", "command -v \(program)"]).status) == 0
    }

    private static func wait(_ process: pid_t, until deadline: Date) -> Int32 {
        var status: Int32 = 0
        while true {
            let ended = waitpid(process, &status, WNOHANG)
            if ended == process { break }
            if ended < 0, errno != EINTR { return -1 }
            if Date() > deadline {
                kill(-process, SIGKILL)
                kill(process, SIGKILL)
                waitpid(process, &status, 0)
                return 124
            }
            usleep(2000)
        }
        let signal = status & 0x7f
        return signal == 0 ? (status >> 8) & 0xff : 128 + signal
    }

    private static func text(_ path: String) -> String {
        String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self)
    }

    private static func withCStrings<R>(
        _ strings: [String],
        _ body: ([UnsafeMutablePointer<CChar>?]) -> R
    ) -> R {
        let copies = strings.map { strdup($0) }
        defer { for copy in copies { free(copy) } }
        return body(copies + [nil])
    }
}
