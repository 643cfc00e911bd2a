import Glibc
import Testing

extension MountTests {
    /// System calls on files that no shell command makes.
    @Suite struct FileCalls {
        @Test func renameTakesItsFlags() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                """
                static void make(const char *path, const char *text) {
                    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644); write(fd, text, strlen(text)); close(fd);
                }
                static int holds(const char *path, const char *text) {
                    char found[16] = {0}; int fd = open(path, O_RDONLY); read(fd, found, 15); close(fd);
                    return strcmp(found, text) == 0;
                }
                static int move(const char *from, const char *to, int flags) {
                    return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
                }

                """,
                main: """
                    make("a", "1"); make("b", "2"); mkdir("d", 0755); make("d/in", "3");
                    CHECK(FAILS(EEXIST, move("a", "b", RENAME_NOREPLACE)));
                    CHECK(holds("a", "1") && holds("b", "2"));
                    CHECK(move("a", "c", RENAME_NOREPLACE) == 0 && access("a", F_OK) < 0);
                    CHECK(move("b", "c", RENAME_EXCHANGE) == 0 && holds("b", "1") && holds("c", "2"));
                    CHECK(move("b", "d", RENAME_EXCHANGE) == 0 && holds("d", "1") && holds("b/in", "3"));
                    CHECK(FAILS(ENOENT, move("b", "none", RENAME_EXCHANGE)));
                    CHECK(FAILS(EINVAL, move("b", "c", RENAME_EXCHANGE | RENAME_NOREPLACE)));
                    CHECK(FAILS(EINVAL, move("b", "c", RENAME_EXCHANGE | RENAME_WHITEOUT)));
                    CHECK(FAILS(EINVAL, move("b", "b/in", RENAME_EXCHANGE)));
                    // A whiteout stays in the old place.
                    struct stat s;
                    if (geteuid() == 0) {
                        CHECK(move("c", "moved", RENAME_WHITEOUT) == 0 && holds("moved", "2"));
                        CHECK(stat("c", &s) == 0 && S_ISCHR(s.st_mode) && s.st_rdev == 0 && (s.st_mode & 07777) == 0);
                        CHECK(s.st_nlink == 1);
                        CHECK(FAILS(EEXIST, move("d", "moved", RENAME_WHITEOUT | RENAME_NOREPLACE)));
                        CHECK(move("b", "n", RENAME_WHITEOUT) == 0);
                        CHECK(stat("b", &s) == 0 && S_ISCHR(s.st_mode));
                        CHECK(stat(".", &s) == 0 && s.st_nlink == 3);
                        CHECK(unlink("b") == 0 && unlink("c") == 0);
                    }
                    """, in: mount.path)
            try mount.unmount()
            #expect(try O3FSBinary.run("check", mount.store).status == 0)
        }

        @Test func aFileWithoutANameMayGetOne() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                main: """
                    umask(027); mkdir("d", 0777);
                    int fd = open("d", O_TMPFILE | O_RDWR, 0666);
                    CHECK(fd >= 0);
                    CHECK(write(fd, "hello", 5) == 5);
                    struct stat s;
                    CHECK(fstat(fd, &s) == 0 && s.st_nlink == 0 && s.st_size == 5 && (s.st_mode & 07777) == 0640);
                    char path[64]; sprintf(path, "/proc/self/fd/%d", fd);
                    CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "d/named", AT_SYMLINK_FOLLOW) == 0);
                    CHECK(fstat(fd, &s) == 0 && s.st_nlink == 1);
                    close(fd);
                    CHECK(stat("d/named", &s) == 0 && s.st_size == 5 && s.st_nlink == 1);
                    // With O_EXCL it never gets a name; without one it is gone when closed.
                    fd = open("d", O_TMPFILE | O_RDWR | O_EXCL, 0600);
                    CHECK(fd >= 0 && write(fd, "x", 1) == 1);
                    sprintf(path, "/proc/self/fd/%d", fd);
                    CHECK(FAILS(ENOENT, linkat(AT_FDCWD, path, AT_FDCWD, "d/never", AT_SYMLINK_FOLLOW)));
                    close(fd);
                    CHECK(FAILS(ENOTDIR, open("d/named", O_TMPFILE | O_RDWR, 0600)));
                    """, in: mount.path)
            try mount.unmount()
            #expect(try O3FSBinary.run("check", mount.store).status == 0)
        }

        @Test func birthIsTold() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                main: """
                    struct timespec before, after; struct statx s;
                    clock_gettime(CLOCK_REALTIME, &before);
                    int fd = open("file", O_CREAT | O_RDWR, 0644); mknod("device", S_IFCHR | 0600, makedev(259, 70000));
                    clock_gettime(CLOCK_REALTIME, &after);
                    usleep(20000); write(fd, "abc", 3); chmod("file", 0600);
                    #define NS(t) ((t).tv_sec * 1000000000LL + (t).tv_nsec)
                    CHECK(statx(AT_FDCWD, "file", 0, STATX_BASIC_STATS | STATX_BTIME, &s) == 0);
                    CHECK(s.stx_mask & STATX_BTIME);
                    CHECK(NS(s.stx_btime) >= NS(before) && NS(s.stx_btime) <= NS(after));
                    CHECK(NS(s.stx_mtime) > NS(s.stx_btime) && NS(s.stx_ctime) >= NS(s.stx_mtime));
                    CHECK(s.stx_size == 3 && s.stx_nlink == 1 && s.stx_mode == (S_IFREG | 0600));
                    struct stat plain; CHECK(stat("file", &plain) == 0);
                    CHECK(plain.st_ino == s.stx_ino && plain.st_size == 3 && plain.st_blocks == s.stx_blocks);
                    // Setting times does not change it.
                    struct timespec old[2] = { { 1, 2 }, { 3, 4 } }; utimensat(AT_FDCWD, "file", old, 0);
                    long long birth = NS(s.stx_btime);
                    CHECK(statx(AT_FDCWD, "file", 0, STATX_ALL, &s) == 0 && NS(s.stx_btime) == birth);
                    CHECK(s.stx_mtime.tv_sec == 3 && s.stx_mtime.tv_nsec == 4 && s.stx_atime.tv_nsec == 2);
                    if (geteuid() == 0) {
                        CHECK(statx(AT_FDCWD, "device", 0, STATX_BTIME, &s) == 0);
                        CHECK(s.stx_rdev_major == 259 && s.stx_rdev_minor == 70000);
                    }
                    """, in: mount.path)
        }

        @Test func rangesAreCopiedInsideTheFileSystem() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                main: """
                    enum { count = 3 << 20 };
                    char *bytes = malloc(count), *found = malloc(count);
                    for (int i = 0; i < count; i++) bytes[i] = i * 2654435761u >> 13;
                    int from = open("from", O_RDWR | O_CREAT, 0644), to = open("to", O_RDWR | O_CREAT, 0644);
                    write(from, bytes, count);
                    off_t in = 100, out = 5000;
                    CHECK(copy_file_range(from, &in, to, &out, count, 0) == count - 100);
                    CHECK(in == count && out == 5000 + count - 100);
                    CHECK(pread(to, found, count, 5000) == count - 100 && memcmp(found, bytes + 100, count - 100) == 0);
                    CHECK(copy_file_range(from, &in, to, &out, 1, 0) == 0);
                    // Within one file, apart.
                    in = 0; out = count;
                    CHECK(copy_file_range(from, &in, from, &out, 10000, 0) == 10000);
                    CHECK(pread(from, found, count, count) == 10000 && memcmp(found, bytes, 10000) == 0);
                    in = 0; out = 10;
                    CHECK(FAILS(EINVAL, copy_file_range(from, &in, from, &out, 100, 0)));
                    // Holes stay holes, over old data too.
                    int sparse = open("sparse", O_RDWR | O_CREAT, 0644);
                    ftruncate(sparse, 1LL << 40); pwrite(sparse, "x", 1, 1LL << 39);
                    in = out = 0;
                    // What one call copies can be told in 32 bits, and as much is copied.
                    ssize_t step;
                    while ((step = copy_file_range(sparse, &in, to, &out, (1LL << 40) - in, 0)) > 0) CHECK(in == out);
                    CHECK(step == 0 && in == 1LL << 40);
                    struct stat s; fstat(to, &s);
                    CHECK(s.st_size == 1LL << 40 && s.st_blocks <= 64);
                    CHECK(lseek(to, 0, SEEK_DATA) == 1LL << 39);
                    CHECK(pread(to, found, 2, 1LL << 39) == 2 && found[0] == 'x' && found[1] == 0);
                    """, in: mount.path)
            let counts = try O3FSBinary.json("stats", mount.path, "--json")["fuse"] as? [String: [String: Any]]
            #expect(counts?["copy_file_range"]?["count"] as? Int ?? 0 > 3)
        }

        /// File handles, as an NFS server uses them: good for files of every type, also when the kernel has
        /// forgotten them, and stale once the file is gone.
        @Test(.enabled(if: geteuid() == 0)) func handlesFindTheirFiles() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                """
                static struct file_handle *handle(const char *path) {
                    struct file_handle *made = malloc(sizeof *made + MAX_HANDLE_SZ); int id;
                    made->handle_bytes = MAX_HANDLE_SZ;
                    CHECK(name_to_handle_at(AT_FDCWD, path, made, &id, 0) == 0);
                    return made;
                }
                static void forget(void) {
                    sync(); int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
                    if (fd >= 0) { write(fd, "2", 1); close(fd); }
                }

                """,
                main: """
                    mkdir("d", 0755); mkdir("d/e", 0755); symlink("d", "link");
                    int fd = open("d/e/file", O_WRONLY | O_CREAT, 0644); write(fd, "hello", 5); close(fd);
                    fd = open("d/gone", O_WRONLY | O_CREAT, 0644); close(fd);
                    int root = open(".", O_RDONLY | O_DIRECTORY);
                    struct file_handle *file = handle("d/e/file"), *directory = handle("d/e");
                    struct file_handle *link = handle("link"), *gone = handle("d/gone");
                    unlink("d/gone");
                    struct stat s; char found[8] = {0};
                    for (int round = 0; round < 2; round++) {
                        forget();
                        fd = open_by_handle_at(root, file, O_RDONLY);
                        CHECK(fd >= 0 && read(fd, found, 8) == 5 && memcmp(found, "hello", 5) == 0); close(fd);
                        fd = open_by_handle_at(root, directory, O_RDONLY | O_DIRECTORY);
                        CHECK(fd >= 0 && faccessat(fd, "file", R_OK, 0) == 0 && faccessat(fd, "../e", R_OK, 0) == 0);
                        close(fd);
                        fd = open_by_handle_at(root, link, O_PATH | O_NOFOLLOW);
                        CHECK(fd >= 0 && fstat(fd, &s) == 0 && S_ISLNK(s.st_mode)); close(fd);
                        CHECK(FAILS(ESTALE, open_by_handle_at(root, gone, O_RDONLY)));
                    }
                    """, in: mount.path)
        }

        @Test func filesAreSparseToTheLastByte() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                main: """
                    int fd = open("file", O_RDWR | O_CREAT, 0644); struct stat s; char byte = 0;
                    const off_t end = INT64_MAX;
                    CHECK(ftruncate(fd, end) == 0 && fstat(fd, &s) == 0 && s.st_size == end && s.st_blocks == 0);
                    CHECK(pwrite(fd, "z", 1, end - 1) == 1);
                    CHECK(pread(fd, &byte, 1, end - 1) == 1 && byte == 'z');
                    // The kernel itself refuses what would end beyond; where it lets it pass, EFBIG is ours.
                    CHECK(pwrite(fd, "yy", 2, end - 1) < 0 && (errno == EINVAL || errno == EFBIG));
                    CHECK(FAILS(EFBIG, fallocate(fd, 0, end - 10, 11)));
                    struct rlimit limit = { 1 << 20, RLIM_INFINITY }; setrlimit(RLIMIT_FSIZE, &limit);
                    signal(SIGXFSZ, SIG_IGN);
                    int small = open("small", O_RDWR | O_CREAT, 0644);
                    CHECK(FAILS(EFBIG, pwrite(small, "z", 1, 1 << 20)) && FAILS(EFBIG, ftruncate(small, 2 << 20)));
                    CHECK(FAILS(EFBIG, fallocate(small, 0, 0, 2 << 20)));
                    limit.rlim_cur = RLIM_INFINITY; setrlimit(RLIMIT_FSIZE, &limit);
                    CHECK(FAILS(EINVAL, ftruncate(fd, -1)));
                    CHECK(pwrite(fd, "m", 1, 1LL << 50) == 1);
                    CHECK(lseek(fd, 0, SEEK_DATA) == 1LL << 50);
                    CHECK(lseek(fd, 1LL << 50, SEEK_HOLE) == (1LL << 50) + 4096);
                    CHECK(lseek(fd, (1LL << 50) + 4096, SEEK_DATA) / 4096 == (end - 1) / 4096);
                    CHECK(lseek(fd, end - 1, SEEK_HOLE) == end);
                    CHECK(FAILS(ENXIO, lseek(fd, end, SEEK_DATA)));
                    CHECK(fstat(fd, &s) == 0 && s.st_blocks == 16);
                    CHECK(ftruncate(fd, (1LL << 50) + 1) == 0 && fstat(fd, &s) == 0 && s.st_blocks == 8);
                    """, in: mount.path)
        }

        @Test func spaceIsAllocatedPunchedAndZeroed() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                """
                static int all(int fd, off_t from, off_t to, char value) {
                    for (off_t at = from; at < to; at++) { char c; if (pread(fd, &c, 1, at) != 1 || c != value) return 0; }
                    return 1;
                }

                """,
                main: """
                    int fd = open("file", O_RDWR | O_CREAT, 0644); struct stat s; char bytes[20000];
                    memset(bytes, 'x', sizeof bytes); write(fd, bytes, sizeof bytes);
                    CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1 << 20) == 0 && fstat(fd, &s) == 0 && s.st_size == 20000);
                    CHECK(fallocate(fd, 0, 0, 30000) == 0 && fstat(fd, &s) == 0 && s.st_size == 30000);
                    CHECK(all(fd, 20000, 30000, 0));
                    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4000, 10000) == 0);
                    CHECK(all(fd, 3990, 4000, 'x') && all(fd, 4000, 14000, 0) && all(fd, 14000, 14100, 'x'));
                    CHECK(lseek(fd, 4096, SEEK_HOLE) == 4096 && lseek(fd, 4096, SEEK_DATA) == 12288);
                    CHECK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 15000, 50000) == 0);
                    CHECK(fstat(fd, &s) == 0 && s.st_size == 65000 && all(fd, 15000, 20000, 0));
                    CHECK(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20) == 0);
                    CHECK(fstat(fd, &s) == 0 && s.st_size == 65000 && s.st_blocks == 0 && all(fd, 0, 5000, 0));
                    CHECK(FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096)));
                    CHECK(FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 4096)));
                    CHECK(FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096)));
                    CHECK(FAILS(EINVAL, fallocate(fd, 0, 0, 0)));
                    int reader = open("file", O_RDONLY); CHECK(FAILS(EBADF, fallocate(reader, 0, 0, 1)));
                    """, in: mount.path)
        }
    }
}
