import Foundation
import Glibc
import Testing

@testable import o3fs

extension MountTests {
    /// How a mount ends, and what is not its to end.
    @Suite(.serialized, .enabled(if: Machine.canMount, needsFUSE))
    struct EndOfMountTests {
        private static let pageBytes = 4096

        /// A signal asks for the end of a busy mount: pages of mapped files are written back before it is cut off.
        @Test func aTerminationWritesMappedPagesBack() throws {
            let mount = try TestMount(dmSize: 256 << 20)
            let pages = 8192
            let file = open(mount("mapped"), O_RDWR | O_CREAT, 0o644)
            try #require(file >= 0 && ftruncate(file, pages * Self.pageBytes) == 0)
            let base = try #require(
                mmap(nil, pages * Self.pageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0))
            try #require(base != MAP_FAILED)
            for page in 0..<pages { base.storeBytes(of: page + 1, toByteOffset: page * Self.pageBytes, as: Int.self) }
            kill(try mount.daemonProcess(), SIGTERM)
            try waitFor("the end of the mount") { !mount.isMounted }
            munmap(base, pages * Self.pageBytes)
            close(file)
            // The store is closed a moment later.
            try waitFor("the store") { (try? mount.mount()) != nil }
            let bytes = try Data(contentsOf: URL(fileURLWithPath: mount("mapped")))
            let missing = (0..<pages).count { page in
                bytes.withUnsafeBytes { $0.load(fromByteOffset: page * Self.pageBytes, as: Int.self) } != page + 1
            }
            #expect(missing == 0)
        }

        /// The daemon dies while it has the mount written back: nobody waits for a dead process for ever.
        @Test func aDeathWhileUnmountingHangsNobody() throws {
            let mount = try TestMount(options: ["--writeback-cache"])
            var files: [Int32] = []
            defer { for file in files { close(file) } }
            for number in 0..<800 {
                let file = open(mount("f\(number)"), O_WRONLY | O_CREAT, 0o644)
                try #require(file >= 0)
                write(file, "x", 1)
                files.append(file)
            }
            let daemon = try mount.daemonProcess()
            kill(daemon, SIGTERM)
            usleep(5000)
            kill(daemon, SIGKILL)
            let listing = try Shell.run(["ls", mount.path], timeout: 60)
            // Empty when the mount was gone before.
            #expect(listing.output.isEmpty || listing.output.contains("f799"), "\(listing.status) \(listing.errors)")
        }

        /// Between a daemon's death and the next one's start somebody unmounts, and mounts something else there.
        @Test(.enabled(if: geteuid() == 0, "only root may mount")) func whatOthersMountThereStays() throws {
            let mount = try TestMount()
            let supervisor = try #require(try mount.supervisorProcess())
            kill(supervisor, SIGSTOP)
            kill(try mount.daemonProcess(), SIGKILL)
            try #require(umount2(mount.path, 0) == 0 || umount2(mount.path, Int32(MNT_DETACH)) == 0)
            try #require(Glibc.mount("test", mount.path, "tmpfs", 0, nil) == 0)
            defer { umount2(mount.path, Int32(MNT_DETACH)) }
            try Data("mine".utf8).write(to: URL(fileURLWithPath: mount("file")))
            kill(supervisor, SIGCONT)
            try waitFor("the supervisor's end") { TestMount.hasEnded(supervisor) }
            #expect(try String(contentsOfFile: mount("file"), encoding: .utf8) == "mine")
        }

        /// The same with a daemon that is well, to whose mount the kernel gives a device number that is free again at once.
        @Test(.enabled(if: geteuid() == 0, "only root may mount")) func whatIsMountedAtOnceStays() throws {
            for _ in 0..<3 {
                let mount = try TestMount()
                let daemon = try mount.daemonProcess()
                try #require(umount2(mount.path, 0) == 0)
                try #require(Glibc.mount("test", mount.path, "tmpfs", 0, nil) == 0)
                defer { umount2(mount.path, Int32(MNT_DETACH)) }
                try Data("mine".utf8).write(to: URL(fileURLWithPath: mount("file")))
                try waitFor("the daemon's end") { TestMount.hasEnded(daemon) }
                #expect(FileManager.default.fileExists(atPath: mount("file")))
            }
        }

        /// The store is closed when its last mount goes: who waits for that is told so, and to what.
        @Test(.enabled(if: geteuid() == 0, "only root may mount")) func whoWaitsForAnotherMountIsTold() throws {
            let mount = try TestMount()
            let other = mount.directory.path + "/other"
            try FileManager.default.createDirectory(atPath: other, withIntermediateDirectories: true)
            try #require(Glibc.mount(mount.path, other, nil, UInt(MS_BIND), nil) == 0)
            defer { umount2(other, Int32(MNT_DETACH)) }
            let result = try O3FSBinary.run("umount", mount.path, "--timeout", "3")
            #expect(result.status == 1 && result.errors.contains("mounted elsewhere"), "\(result)")
            #expect(result.errors.contains("has not closed \(mount.store) after 3.0 seconds"), "\(result)")
            try Data("x".utf8).write(to: URL(fileURLWithPath: other + "/file"))
            try #require(umount2(other, 0) == 0)
            try mount.mount()
            #expect(try String(contentsOfFile: mount("file"), encoding: .utf8) == "x")
        }

        /// As with umount(8), which returns before the daemon has closed the store.
        @Test(.enabled(if: geteuid() == 0, "only root may unmount so")) func aMountWaitsForTheOneBefore() throws {
            let mount = try TestMount()
            for round in 0..<5 {
                try Shell.script("head -c 30M /dev/urandom >file\(round); sha256sum file* >/dev/null", in: mount.path)
                try #require(umount2(mount.path, 0) == 0)
                try mount.mount()
            }
            let daemon = try mount.daemonProcess()
            kill(daemon, SIGSTOP)
            defer { kill(daemon, SIGCONT) }
            try #require(umount2(mount.path, Int32(MNT_DETACH)) == 0)
            let waker = Thread {
                sleep(4)
                kill(daemon, SIGCONT)
            }
            waker.start()
            #expect(try mount.mount().errors.contains("is in use, perhaps by a daemon that was unmounted"))
            #expect(try FileManager.default.contentsOfDirectory(atPath: mount.path).count == 5)
        }

        /// The mount table does not say where the store of such a mount is, and the commands say that.
        @Test func aMountUnderAnotherNameIsUnderstood() throws {
            let mount = try TestMount(mounted: false)
            try O3FSBinary.succeed("mount", mount.store, mount.path, "-o", "fsname=data", "--dm-size", "64M")
            defer { umount2(mount.path, Int32(MNT_DETACH)) }
            let status = try O3FSBinary.run("status", mount.path)
            #expect(status.status != 0 && status.errors.contains("give the store's directory"), "\(status)")
            let daemon = try #require(
                (O3FSBinary.json("status", mount.store, "--json")["daemon"] as? [String: Any])?["pid"] as? Int)
            let result = try O3FSBinary.succeed("umount", mount.path)
            #expect(result.errors.contains("fsname="), "\(result)")
            try waitFor("the daemon's end") { TestMount.hasEnded(pid_t(daemon)) }
        }

        /// Memory is lost, and with it a file that a program has open: what is made next is another file.
        @Test func numbersOfLostFilesAreNotGivenOutAgain() throws {
            // Nothing but what is synced comes back.
            let mount = try TestMount(options: ["--survive", "--commit-interval", "3600000"])
            let lost = open(mount("lost"), O_RDWR | O_CREAT, 0o644)
            try #require(lost >= 0 && write(lost, "lost", 4) == 4)
            defer { close(lost) }
            unlink(try #require(mount.region))
            kill(try mount.daemonProcess(), SIGKILL)
            try Data("kept".utf8).write(to: URL(fileURLWithPath: mount("kept")))
            #expect(pwrite(lost, "XXXX", 4, 0) < 0)
            #expect(try String(contentsOfFile: mount("kept"), encoding: .utf8) == "kept")
            if Machine.kernel >= (6, 16) { #expect(!FileManager.default.fileExists(atPath: mount("lost"))) }
        }
    }
}
