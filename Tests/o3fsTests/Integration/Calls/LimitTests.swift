import Foundation
import Testing

extension MountTests {
    /// `--max-size` and `--max-inodes`.
    @Suite struct StoreLimits {
        /// The kernel writes back many pages at once, and does not look at how much of it was taken.
        @Test(arguments: [[], ["--writeback-cache"]]) func pagesThatDoNotFitAreHeardOf(options: [String]) throws {
            let mount = try TestMount(options: ["--max-size", "1M"] + options)
            try CompiledProgram.run(
                main: """
                    enum { size = 1536 << 10 };
                    int fd = open("file", O_RDWR | O_CREAT, 0644); CHECK(ftruncate(fd, size) == 0);
                    char *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
                    CHECK(bytes != MAP_FAILED);
                    memset(bytes, 'x', size);
                    CHECK(msync(bytes, size, MS_SYNC) < 0 || fsync(fd) < 0);
                    munmap(bytes, size); close(fd);
                    if (\(options.isEmpty ? 0 : 1)) {
                        fd = open("other", O_RDWR | O_CREAT, 0644); char page[4096]; memset(page, 'y', 4096);
                        for (int i = 0; i < size / 4096; i++) if (write(fd, page, 4096) < 0) break;
                        CHECK(FAILS(ENOSPC, fsync(fd)) || errno == EIO);
                    }
                    """, in: mount.path)
            try Shell.script("rm -f file other; echo fits >small; sync small", in: mount.path)
            try mount.unmount()
            #expect(try O3FSBinary.run("check", mount.store).status == 0)
        }

        @Test func aFullStoreSaysSoAndGivesBack() throws {
            let mount = try TestMount(options: ["--max-size", "8M", "--max-inodes", "100"])
            try Shell.script(
                Shell.refused + """
                test "$(stat -fc '%b %S' . | awk '{ print $1 * $2 }')" = 8388608
                test "$(stat -fc %c .)" = 100; test "$(stat -fc %d .)" = 99
                df -i . | tail -1 | awk '{ exit !($2 == 100 && $3 == 1 && $4 == 99) }'
                refused_with 'No space left' dd if=/dev/urandom of=big bs=100000 count=200
                test "$(stat -c %s big)" = 8388608; test "$(stat -fc %f .)" = 0
                refused fallocate -l 1M more; rm -f more
                truncate -s 1G sparse; refused sh -c 'echo x >small'; rm -f small
                truncate -s 4M big; echo x >small
                for i in $(seq 200); do touch f$i 2>/dev/null || break; done
                test "$(ls | wc -l)" = 99; test "$(stat -fc %d .)" = 0; refused mkdir dir
                rm f1; mkdir dir; test "$(stat -fc %d .)" = 0
                """, in: mount.path)
            // Counts and limits outlast the daemon's death.
            let before = try Shell.script("stat -fc '%b %f %c %d' .", in: mount.path).output
            try mount.killDaemon()
            let plain = try O3FSBinary.run(["mount", mount.store, mount.path, "--dm-size", "64M"])
            #expect(plain.status == 0, "\(plain)")
            #expect(try Shell.script("stat -fc '%b %f %c %d' .", in: mount.path).output == before)
            try Shell.script(Shell.refused + "refused touch one-more; rm f2; touch one-more", in: mount.path)
            try O3FSBinary.succeed("umount", mount.path)
            // 0 takes a limit away.
            try O3FSBinary.succeed("mount", mount.store, mount.path, "--dm-size", "64M", "-o", "max-inodes=0")
            try Shell.script("touch many more; test \"$(stat -fc %c .)\" = 0; test \"$(stat -fc '%b' .)\" = 2048", in: mount.path)
            try O3FSBinary.succeed("umount", mount.path)
            #expect(try O3FSBinary.run("check", mount.store).status == 0)
        }
    }
}
