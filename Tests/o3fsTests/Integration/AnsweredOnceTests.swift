import CSystem
import Foundation
import Glibc
import Testing

@testable import o3fs

extension MountTests {
    /// Each daemon dies between doing an operation that must not be done twice and answering it: the next one is asked
    /// again, finds that it is done, and says so.
    @Suite(.serialized, .enabled(if: Machine.hasFaultPoints, needsFaultPoints))
    struct AnsweredOnceTests {
        private let mount: TestMount

        init() throws {
            mount = try TestMount(
                options: ["--survive", "--max-restarts", "1000000", "--workers", "0"], program: O3FSBinary.withFaultPoints,
                environment: ["O3LSM_FAULT": "before-answer:1"])
        }

        private func path(_ name: String) -> String { mount(name) }

        /// 0, or the error number.
        private func code(_ result: Int32) -> Int32 { result < 0 ? errno : 0 }

        private func make(_ name: String) -> Int32 {
            let file = open(path(name), O_CREAT | O_EXCL | O_WRONLY, 0o644)
            guard file >= 0 else { return file }
            let text = Array(name.utf8)
            let count = write(file, text, text.count)
            close(file)
            return count == text.count ? 0 : -1
        }

        private func contents(_ name: String) -> String? { try? String(contentsOfFile: path(name), encoding: .utf8) }

        private func links(_ name: String) -> Int? {
            var info = stat()
            return lstat(path(name), &info) == 0 ? Int(info.st_nlink) : nil
        }

        private func rename(_ old: String, _ new: String, _ flags: UInt32) -> Int32 {
            let result = o3_renameat2(path(old), path(new), flags)
            guard result < 0 else { return 0 }
            errno = -result
            return -1
        }

        private func supervisor() throws -> (deaths: Int, received: Int, done: Int) {
            let status = try O3FSBinary.json("status", mount.path, "--json")
            let supervisor = try #require(status["supervisor"] as? [String: Any])
            let resends = try #require(supervisor["resends"] as? [String: Any])
            return (
                try #require(supervisor["deaths"] as? Int), try #require(resends["resent_requests"] as? Int),
                try #require(resends["already_done"] as? Int)
            )
        }

        /// Has an operation done, by one daemon, and answered with success, by the next.
        private func once(_ call: () -> Int32) throws {
            let before = try supervisor()
            #expect(code(call()) == 0, "\(mount.troubles())")
            let after = try supervisor()
            #expect(after.deaths == before.deaths + 1)
            #expect(after.received >= 1 && after.done == 1)
        }

        /// It was done, and would fail now.
        private func refused(_ wanted: Int32, _ call: () -> Int32) { #expect(code(call()) == wanted) }

        private func end() throws {
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
        }

        @Test func mknodOnce() throws {
            let call = { mknod(path("new"), S_IFIFO | 0o644, 0) }
            try once(call)
            refused(EEXIST, call)
            #expect(links("new") == 1)
            try end()
        }

        @Test func createOnce() throws {
            try once { make("new") }
            refused(EEXIST) { make("new") }
            #expect(contents("new") == "new" && links("new") == 1)
            try end()
        }

        @Test func mkdirOnce() throws {
            try once { mkdir(path("new"), 0o755) }
            refused(EEXIST) { mkdir(path("new"), 0o755) }
            #expect(links(".") == 3)
            try end()
        }

        @Test func symlinkOnce() throws {
            try once { symlink("target", path("new")) }
            refused(EEXIST) { symlink("target", path("new")) }
            #expect(try FileManager.default.destinationOfSymbolicLink(atPath: path("new")) == "target")
            try end()
        }

        @Test func linkOnce() throws {
            #expect(make("file") == 0)
            try once { link(path("file"), path("new")) }
            refused(EEXIST) { link(path("file"), path("new")) }
            #expect(links("file") == 2 && contents("new") == "file")
            try end()
        }

        @Test func unlinkOnce() throws {
            #expect(make("file") == 0 && link(path("file"), path("other")) == 0)
            try once { unlink(path("file")) }
            refused(ENOENT) { unlink(path("file")) }
            #expect(links("other") == 1)
            try end()
        }

        @Test func rmdirOnce() throws {
            #expect(mkdir(path("old"), 0o755) == 0)
            try once { rmdir(path("old")) }
            refused(ENOENT) { rmdir(path("old")) }
            #expect(links(".") == 2)
            try end()
        }

        @Test func renameOnce() throws {
            #expect(make("file") == 0 && make("other") == 0)
            try once { rename("file", "other", 0) }
            refused(ENOENT) { rename("file", "other", 0) }
            #expect(contents("other") == "file" && links("file") == nil)
            try end()
        }

        @Test func renameWithoutReplacingOnce() throws {
            #expect(make("file") == 0)
            try once { rename("file", "new", o3_RENAME_NOREPLACE) }
            refused(ENOENT) { rename("file", "new", o3_RENAME_NOREPLACE) }
            #expect(contents("new") == "file")
            try end()
        }

        /// Done twice, it would have done nothing.
        @Test func exchangeOnce() throws {
            #expect(make("file") == 0 && make("other") == 0)
            try once { rename("file", "other", o3_RENAME_EXCHANGE) }
            #expect(contents("file") == "other" && contents("other") == "file")
            try end()
        }

        @Test func setxattrOnce() throws {
            #expect(make("file") == 0)
            let create: Int32 = 1
            try once { setxattr(path("file"), "user.a", "1", 1, create) }
            refused(EEXIST) { setxattr(path("file"), "user.a", "1", 1, create) }
            try end()
        }

        @Test func removexattrOnce() throws {
            #expect(make("file") == 0 && setxattr(path("file"), "user.a", "1", 1, 0) == 0)
            try once { removexattr(path("file"), "user.a") }
            refused(ENODATA) { removexattr(path("file"), "user.a") }
            try end()
        }
    }

    /// A kernel that cannot send requests again.
    @Suite(.enabled(if: Machine.hasFaultPoints, needsFaultPoints))
    struct OldKernelSurvivalTests {
        @Test func theMountEndsWithItsDaemonAndSaysSo() throws {
            let mount = try TestMount(
                options: ["--survive"], mounted: false, program: O3FSBinary.withFaultPoints, environment: ["O3FS_NO_RESEND": "1"])
            let made = try mount.mount()
            #expect((made.output + made.errors).contains("the mount ends with its daemon"), "\(made)")
            #expect(try mount.supervisorProcess() == nil)
            let refused = try O3FSBinary.run("upgrade", mount.path)
            #expect(refused.status != 0 && refused.errors.contains("nobody holds the mount"), "\(refused)")
            #expect(mkdir(mount("d"), 0o755) == 0)
            kill(try mount.daemonProcess(), SIGKILL)
            var info = stat()
            try waitFor("the end of the mount") { lstat(mount("d"), &info) != 0 && errno == ENOTCONN }
            try O3FSBinary.succeed("umount", mount.path)
            try mount.mount()
            #expect(lstat(mount("d"), &info) == 0)
        }
    }
}
