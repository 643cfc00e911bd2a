import Testing

extension MountTests {
    /// Who may do what, and what a call takes from a mode; times; counts and lengths.
    @Suite(.enabled(if: Machine.isRoot, "needs root, to be others")) struct Privileges {
        /// `as(uid, gid, n, groups) { … }` runs the block as a user and adds its failures to ours.
        private static let helpers = """
            #include <grp.h>
            static int wait_for(pid_t child) { int s; waitpid(child, &s, 0); return s; }
            #define AS(uid, gid, count, groups, block) do { fflush(stdout); pid_t c_ = fork(); if (c_ == 0) { \\
                failures = 0; setgroups(count, groups); setgid(gid); setuid(uid); block; _exit(failures != 0); } \\
                if (wait_for(c_) != 0) failures++; } while (0)
            static int mode(const char *path) { struct stat s; return lstat(path, &s) == 0 ? s.st_mode & 07777 : -1; }
            static int make(const char *path, int mode) {
                int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600); fchmod(fd, mode); return fd;
            }

            """

        @Test func writersTakeIdentitiesAway() throws {
            let mount = try TestMount(options: ["-o", "allow_other"])
            try CompiledProgram.run(
                Self.helpers,
                main: """
                    chmod(".", 0777); gid_t none[1] = { 0 };
                    // Root keeps them when it writes; chown takes them from programs, whoever does it.
                    int fd = make("root", 06777); write(fd, "x", 1); ftruncate(fd, 9); CHECK(mode("root") == 06777);
                    fchown(fd, 5, 5); CHECK(mode("root") == 0777);
                    // A set-group-ID bit without execution stays with a change of owner by root; it goes when a stranger to the group
                    // writes, as the loop below sees.
                    chmod("root", 02644); chown("root", 6, 6); CHECK(mode("root") == 02644);
                    mkdir("dir", 0755); chmod("dir", 02755); chown("dir", 6, 6); CHECK(mode("dir") == 02755);
                    char *ways[] = { "write", "ftruncate", "truncate", "open", "fallocate", "copy", "fallocate to keep the size" };
                    for (int way = 0; way < 7; way++) for (int bits = 0; bits < 2; bits++) {
                        make("file", 0600); int f = open("file", O_RDWR); write(f, "12345", 5); fsync(f);
                        fchmod(f, bits == 0 ? 06777 : 02666);
                        AS(4001, 4001, 0, none, {
                            int g = open("file", O_RDWR | (way == 3 ? O_TRUNC : 0));
                            CHECK(g >= 0);
                            if (way == 0) CHECK(pwrite(g, "x", 1, 0) == 1);
                            if (way == 1) CHECK(ftruncate(g, 2) == 0);
                            if (way == 2) CHECK(truncate("file", 2) == 0);
                            if (way == 4) CHECK(fallocate(g, 0, 0, 9000) == 0);
                            if (way == 6) CHECK(fallocate(g, FALLOC_FL_KEEP_SIZE, 0, 9000) == 0);
                            if (way == 5) { int from = open("source", O_RDWR | O_CREAT, 0600); write(from, "abc", 3);
                                off_t zero = 0; CHECK(copy_file_range(from, &zero, g, &zero, 3, 0) == 3); unlink("source"); }
                        });
                        int left = mode("file"), wanted = bits == 0 ? 0777 : 0666;
                        if (left != wanted) printf("%s of %o leaves %o\\n", ways[way], bits ? 02666 : 06777, left);
                        CHECK(left == wanted);
                        close(f); unlink("file");
                    }
                    // Owners who are not of the group cannot have their files take it.
                    make("mine", 0644); chown("mine", 4001, 7777);
                    gid_t groups[1] = { 7777 };
                    AS(4001, 4001, 0, none, { CHECK(chmod("mine", 02755) == 0 && mode("mine") == 0755); });
                    AS(4001, 4001, 1, groups, { CHECK(chmod("mine", 02755) == 0 && mode("mine") == 02755); });
                    AS(4001, 4001, 1, groups, { CHECK(chown("mine", -1, 4001) == 0 && mode("mine") == 0755); });
                    AS(4001, 4001, 0, none, { CHECK(FAILS(EPERM, chown("mine", -1, 7777))); });
                    AS(4001, 4001, 0, none, { CHECK(FAILS(EPERM, chown("mine", 0, -1))); });
                    AS(4002, 4002, 0, none, { CHECK(FAILS(EPERM, chmod("mine", 0777))); });
                    """, in: mount.path)
        }

        @Test func directoriesHandTheirGroupDownAndStick() throws {
            let mount = try TestMount(options: ["-o", "allow_other"])
            try CompiledProgram.run(
                Self.helpers,
                main: """
                    struct stat s; gid_t none[1] = { 0 }, shared[1] = { 7777 }; umask(0);
                    mkdir("group", 0777); chown("group", 0, 7777); chmod("group", 02777);
                    AS(4001, 4001, 0, none, {
                        CHECK(mkdir("group/dir", 0755) == 0 && stat("group/dir", &s) == 0);
                        CHECK(s.st_gid == 7777 && s.st_uid == 4001 && (s.st_mode & 07777) == 02755);
                        CHECK(mknod("group/fifo", S_IFIFO | 0644, 0) == 0 && stat("group/fifo", &s) == 0 && s.st_gid == 7777);
                        CHECK(symlink("x", "group/link") == 0 && lstat("group/link", &s) == 0 && s.st_gid == 7777);
                        // A program does not get the bit of a group its maker is not in.
                        int fd = open("group/program", O_CREAT | O_RDWR, 02755);
                        CHECK(fstat(fd, &s) == 0 && s.st_gid == 7777 && (s.st_mode & 07777) == 0755);
                    });
                    AS(4001, 4001, 1, shared, {
                        int fd = open("group/ours", O_CREAT | O_RDWR, 02755);
                        CHECK(fstat(fd, &s) == 0 && (s.st_mode & 07777) == 02755);
                    });
                    // Groups that are not one's own give access.
                    make("grouped", 0640); chown("grouped", 0, 7777);
                    AS(4001, 4001, 1, shared, { CHECK(open("grouped", O_RDONLY) >= 0); CHECK(FAILS(EACCES, open("grouped", O_RDWR))); });
                    AS(4001, 4001, 0, none, { CHECK(FAILS(EACCES, open("grouped", O_RDONLY))); });
                    // Sticky: only the owner of the file or of the directory takes names away.
                    mkdir("tmp", 0777); chmod("tmp", 01777);
                    AS(4001, 4001, 0, none, { close(open("tmp/a", O_CREAT | O_RDWR, 0666)); mkdir("tmp/d", 0777); });
                    AS(4002, 4002, 0, none, {
                        CHECK(FAILS(EPERM, unlink("tmp/a"))); CHECK(FAILS(EPERM, rmdir("tmp/d")));
                        CHECK(FAILS(EPERM, rename("tmp/a", "tmp/b")));
                        close(open("tmp/mine", O_CREAT | O_RDWR, 0666));
                        CHECK(FAILS(EPERM, rename("tmp/mine", "tmp/a")));
                        CHECK(rename("tmp/mine", "tmp/yours") == 0 && unlink("tmp/yours") == 0);
                    });
                    AS(4001, 4001, 0, none, { CHECK(unlink("tmp/a") == 0 && rmdir("tmp/d") == 0); });
                    // Others' directories.
                    mkdir("closed", 0700); close(open("closed/file", O_CREAT | O_RDWR, 0666));
                    AS(4001, 4001, 0, none, {
                        CHECK(FAILS(EACCES, open("closed/file", O_RDONLY))); CHECK(FAILS(EACCES, unlink("closed/file")));
                        CHECK(FAILS(EACCES, mkdir("closed/dir", 0777))); CHECK(FAILS(EACCES, chdir("closed")));
                        CHECK(FAILS(EPERM, mknod("tmp/null", S_IFCHR | 0666, makedev(1, 3))));
                    });
                    """, in: mount.path)
        }

        @Test func timesAreThoseGiven() throws {
            let mount = try TestMount(options: ["-o", "allow_other"])
            let check = """
                struct stat s; long long far[] = { -62135596800, -2147483649, -2147483648, -1, 0, 2147483647,
                    2147483648, 4294967296, 253402300799, 9000000000000 };
                for (int i = 0; i < 10; i++) {
                    char name[16]; sprintf(name, "t%d", i);
                    if (MAKING) {
                        close(open(name, O_CREAT | O_RDWR, 0644));
                        struct timespec t[2] = { { far[i], 999999999 }, { far[i], 1 } };
                        CHECK(utimensat(AT_FDCWD, name, t, 0) == 0);
                    }
                    CHECK(stat(name, &s) == 0 && s.st_atim.tv_sec == far[i] && s.st_mtim.tv_sec == far[i]);
                    CHECK(s.st_atim.tv_nsec == 999999999 && s.st_mtim.tv_nsec == 1);
                }
                """
            try CompiledProgram.run(
                "#define MAKING 1\n" + Self.helpers,
                main: check + """
                    struct timespec before, now[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } }, omit[2] = { { 0, UTIME_OMIT }, { 0, UTIME_OMIT } };
                    int fd = open("t0", O_RDWR); struct timespec set[2] = { { 5, 6 }, { 7, 8 } };
                    CHECK(futimens(fd, set) == 0);
                    CHECK(fstat(fd, &s) == 0); struct timespec changed = s.st_ctim; usleep(20000);
                    CHECK(futimens(fd, omit) == 0 && fstat(fd, &s) == 0 && s.st_ctim.tv_nsec == changed.tv_nsec);
                    clock_gettime(CLOCK_REALTIME_COARSE, &before);
                    CHECK(futimens(fd, now) == 0 && fstat(fd, &s) == 0 && s.st_mtim.tv_sec == 7 && s.st_mtim.tv_nsec == 8);
                    CHECK(s.st_atim.tv_sec >= before.tv_sec && s.st_ctim.tv_sec >= before.tv_sec);
                    struct timespec bad[2] = { { 0, 1000000000 }, { 0, 0 } }; CHECK(FAILS(EINVAL, futimens(fd, bad)));
                    symlink("t1", "link"); CHECK(utimensat(AT_FDCWD, "link", set, AT_SYMLINK_NOFOLLOW) == 0);
                    CHECK(lstat("link", &s) == 0 && s.st_mtim.tv_sec == 7 && stat("t1", &s) == 0 && s.st_mtim.tv_sec != 7);
                    // Who may: the owner any time, others who may write the present only.
                    chmod(".", 0777); make("open", 0666); gid_t none[1] = { 0 };
                    AS(4001, 4001, 0, none, {
                        CHECK(utimensat(AT_FDCWD, "open", NULL, 0) == 0);
                        CHECK(FAILS(EPERM, utimensat(AT_FDCWD, "open", set, 0)));
                        CHECK(FAILS(EPERM, utimensat(AT_FDCWD, "open", now, 0)));
                        CHECK(FAILS(EACCES, utimensat(AT_FDCWD, "t0", NULL, 0)));
                    });
                    set[0].tv_sec = far[0]; set[0].tv_nsec = 999999999; set[1].tv_sec = far[0]; set[1].tv_nsec = 1; futimens(fd, set);
                    """, in: mount.path)
            try mount.unmount()
            try mount.mount()
            try CompiledProgram.run("#define MAKING 0\n", main: check, in: mount.path)
        }

        @Test func namesAndPathsHaveTheirLengths() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                main: """
                    char name[300], path[6000]; memset(name, 'n', 256); name[255] = 0; struct stat s;
                    CHECK(mkdir(name, 0755) == 0 && stat(name, &s) == 0);
                    name[255] = 'n'; name[256] = 0;
                    CHECK(FAILS(ENAMETOOLONG, mkdir(name, 0755))); CHECK(FAILS(ENAMETOOLONG, open(name, O_CREAT | O_RDWR, 0644)));
                    CHECK(FAILS(ENAMETOOLONG, symlink("x", name))); CHECK(FAILS(ENAMETOOLONG, mknod(name, S_IFIFO | 0644, 0)));
                    CHECK(FAILS(ENAMETOOLONG, stat(name, &s))); CHECK(FAILS(ENAMETOOLONG, unlink(name)));
                    close(open("f", O_CREAT | O_RDWR, 0644));
                    CHECK(FAILS(ENAMETOOLONG, rename("f", name))); CHECK(FAILS(ENAMETOOLONG, link("f", name)));
                    // Paths of 4,095 bytes, links as long.
                    memset(path, 0, sizeof path); for (int i = 0; i < 4094; i += 2) { path[i] = '.'; path[i + 1] = '/'; }
                    path[4094] = 'f'; CHECK(strlen(path) == 4095 && stat(path, &s) == 0);
                    CHECK(symlink(path, "long") == 0 && stat("long", &s) == 0 && readlink("long", path + 0, 6000) == 4095);
                    path[4095] = '/'; path[4096] = 0; CHECK(FAILS(ENAMETOOLONG, stat(path, &s)));
                    CHECK(FAILS(ENAMETOOLONG, symlink(path, "longer")));
                    symlink("b", "a"); symlink("a", "b"); CHECK(FAILS(ELOOP, open("a", O_RDONLY)));
                    CHECK(FAILS(ELOOP, open("long", O_RDONLY | O_NOFOLLOW)));
                    // Any bytes.
                    for (int c = 1; c < 256; c++) { char odd[3] = { 'x', c, 0 }; if (c == '/') continue;
                        CHECK(mknod(odd, S_IFIFO | 0600, 0) == 0 && lstat(odd, &s) == 0 && unlink(odd) == 0); }
                    // Links are counted.
                    for (int i = 0; i < 2000; i++) { char l[16]; sprintf(l, "l%d", i); if (link("f", l) < 0) { CHECK(0); break; } }
                    CHECK(stat("f", &s) == 0 && s.st_nlink == 2001);
                    mkdir("deep", 0755); CHECK(chdir("deep") == 0);
                    for (int i = 0; i < 1000; i++) { if (mkdir("d", 0755) < 0 || chdir("d") < 0) { CHECK(0); break; } }
                    CHECK(open("bottom", O_CREAT | O_RDWR, 0644) >= 0);
                    for (int i = 0; i < 1000; i++) CHECK(chdir("..") == 0);
                    CHECK(stat("d", &s) == 0 && s.st_nlink == 3);
                    """, in: mount.path)
        }
    }
}
