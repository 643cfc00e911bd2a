import Foundation

/// A small C program that makes system calls in a mount, for what neither shell nor Swift can say. It has the macro
/// `CHECK(condition)`, which reports a condition that does not hold; its exit status then is 1.
enum CompiledProgram {
    private static let prologue = """
        #define _GNU_SOURCE
        #include <dirent.h>
        #include <errno.h>
        #include <fcntl.h>
        #include <limits.h>
        #include <linux/fs.h>
        #include <signal.h>
        #include <stdint.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/file.h>
        #include <sys/mman.h>
        #include <sys/resource.h>
        #include <sys/stat.h>
        #include <sys/statvfs.h>
        #include <sys/sysmacros.h>
        #include <sys/wait.h>
        #include <sys/xattr.h>
        #include <time.h>
        #include <unistd.h>
        static int failures;
        #define CHECK(condition) \\
            do { int e_ = errno; (void)e_; if (!(condition)) { failures++; \\
                printf("line %d: %s (errno %d: %s)\\n", __LINE__, #condition, errno, strerror(errno)); } } while (0)
        #define FAILS(code, call) (errno = 0, (call) < 0 && errno == (code))

        """

    /// Threads of tests hold signals back, and children inherit that.
    private static let opening = """

        int main(void) {
        setbuf(stdout, NULL);
        sigset_t none_; sigemptyset(&none_); sigprocmask(SIG_SETMASK, &none_, NULL);

        """

    /// Compiles `body`, the statements of main and functions before it, and runs it in `directory`; throws unless
    /// every check held.
    @discardableResult
    static func run(
        _ functions: String = "", main body: String, in directory: String, prefix: [String] = [],
        timeout: Double = 120
    ) throws -> CommandResult {
        let scratch = try TemporaryDirectory("program")
        // A user without privilege may have to run it.
        chmod(scratch.path, 0o755)
        let text = prologue + functions + Self.opening + body + "\nreturn failures ? 1 : 0;\n}\n"
        try text.write(toFile: scratch.path + "/program.c", atomically: true, encoding: .utf8)
        try Shell.script("gcc -O1 -w -o program program.c -lpthread", in: scratch.path)
        let result = try Shell.run(prefix + [scratch.path + "/program"], in: directory, timeout: timeout)
        guard result.status == 0 else { throw CommandFailed(result: result) }
        return result
    }
}
