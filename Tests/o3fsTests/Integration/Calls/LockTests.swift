import Testing

extension MountTests {
    /// flock, POSIX and open-file-description locks: the kernel keeps them all, for a store has one mount.
    @Suite struct Locks {
        /// Shared by the programs: one byte of a file, tried or waited for, and a child that says when it has it.
        private static let helpers = """
            static int lock(int fd, int how, short type, long start, long length) {
                struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length };
                return fcntl(fd, how, &l);
            }
            /// Whether another process could lock the range now.
            static int is_free(const char *path, short type, long start, long length) {
                pid_t child = fork();
                if (child == 0) {
                    int fd = open(path, O_RDWR);
                    _exit(lock(fd, F_SETLK, type, start, length) == 0 ? 0 : errno == EAGAIN || errno == EACCES ? 1 : 2);
                }
                int status; waitpid(child, &status, 0);
                return WIFEXITED(status) && WEXITSTATUS(status) == 0;
            }
            static int flock_is_free(const char *path, int how) {
                int fd = open(path, O_RDWR);
                int result = flock(fd, how | LOCK_NB) == 0;
                close(fd);
                return result;
            }

            """

        @Test func rangesAreLockedByProcesses() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                Self.helpers,
                main: """
                    int fd = open("file", O_RDWR | O_CREAT, 0644);
                    CHECK(fd >= 0);
                    CHECK(lock(fd, F_SETLK, F_WRLCK, 10, 10) == 0);
                    CHECK(!is_free("file", F_RDLCK, 15, 1));
                    CHECK(is_free("file", F_WRLCK, 0, 10));
                    CHECK(is_free("file", F_WRLCK, 20, 0));
                    // Who holds it is told.
                    struct flock asked = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0 };
                    pid_t child = fork();
                    if (child == 0) {
                        int other = open("file", O_RDWR);
                        CHECK(fcntl(other, F_GETLK, &asked) == 0);
                        CHECK(asked.l_type == F_WRLCK && asked.l_start == 10 && asked.l_len == 10);
                        CHECK(asked.l_pid == getppid());
                        _exit(failures);
                    }
                    int status; waitpid(child, &status, 0); CHECK(status == 0);
                    // Split, shared.
                    CHECK(lock(fd, F_SETLK, F_UNLCK, 14, 2) == 0);
                    CHECK(is_free("file", F_WRLCK, 14, 2) && !is_free("file", F_WRLCK, 13, 1));
                    CHECK(lock(fd, F_SETLK, F_RDLCK, 0, 0) == 0);
                    CHECK(is_free("file", F_RDLCK, 0, 0) && !is_free("file", F_WRLCK, 1000000, 1));
                    // Closing any descriptor of the file gives all of them back.
                    int again = open("file", O_RDONLY); close(again);
                    CHECK(is_free("file", F_WRLCK, 0, 0));
                    """, in: mount.path)
        }

        @Test func aLockIsWaitedForAndGivenBackByDeath() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                Self.helpers,
                main: """
                    for (int kind = 0; kind < 3; kind++) {
                        int how = kind == 0 ? F_SETLKW : F_OFD_SETLKW, ends[2];
                        pipe(ends);
                        pid_t holder = fork();
                        if (holder == 0) {
                            int fd = open("file", O_RDWR | O_CREAT, 0644);
                            if (kind == 2) CHECK(flock(fd, LOCK_EX) == 0);
                            else CHECK(lock(fd, how, F_WRLCK, 0, 0) == 0);
                            write(ends[1], "x", 1); pause();
                        }
                        char byte; read(ends[0], &byte, 1);
                        pid_t waiter = fork();
                        if (waiter == 0) {
                            int fd = open("file", O_RDWR);
                            if (kind == 2) CHECK(flock(fd, LOCK_EX) == 0);
                            else CHECK(lock(fd, how, F_WRLCK, 0, 0) == 0);
                            _exit(failures);
                        }
                        int status; usleep(100000);
                        CHECK(waitpid(waiter, &status, WNOHANG) == 0);
                        kill(holder, SIGKILL); waitpid(holder, &status, 0);
                        CHECK(waitpid(waiter, &status, 0) == waiter && status == 0);
                    }
                    """, in: mount.path)
        }

        @Test func aCircleOfWaitersIsRefused() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                Self.helpers,
                main: """
                    int fd = open("file", O_RDWR | O_CREAT, 0644), ends[2];
                    pipe(ends);
                    CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 1) == 0);
                    pid_t child = fork();
                    if (child == 0) {
                        int other = open("file", O_RDWR);
                        CHECK(lock(other, F_SETLK, F_WRLCK, 1, 1) == 0);
                        write(ends[1], "x", 1);
                        CHECK(lock(other, F_SETLKW, F_WRLCK, 0, 1) == 0);
                        _exit(failures);
                    }
                    char byte; read(ends[0], &byte, 1); usleep(100000);
                    CHECK(FAILS(EDEADLK, lock(fd, F_SETLKW, F_WRLCK, 1, 1)));
                    CHECK(lock(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
                    int status; waitpid(child, &status, 0); CHECK(status == 0);
                    """, in: mount.path)
        }

        @Test func openFilesOwnTheirLocks() throws {
            let mount = try TestMount()
            try CompiledProgram.run(
                Self.helpers,
                main: """
                    // Two openings by one process are two owners; a duplicate is the same.
                    int first = open("file", O_RDWR | O_CREAT, 0644), second = open("file", O_RDWR), copy = dup(first);
                    CHECK(lock(first, F_OFD_SETLK, F_WRLCK, 0, 10) == 0);
                    CHECK(FAILS(EAGAIN, lock(second, F_OFD_SETLK, F_WRLCK, 5, 1)));
                    CHECK(lock(copy, F_OFD_SETLK, F_RDLCK, 0, 10) == 0);
                    CHECK(lock(second, F_OFD_SETLK, F_RDLCK, 0, 10) == 0);
                    // They meet POSIX locks.
                    CHECK(!is_free("file", F_WRLCK, 0, 1));
                    // The last descriptor gives them back, not any.
                    close(second); close(copy);
                    CHECK(!is_free("file", F_WRLCK, 0, 1));
                    close(first);
                    CHECK(is_free("file", F_WRLCK, 0, 1));
                    // flock: shared, exclusive, upgraded, inherited by a child.
                    first = open("file", O_RDWR);
                    CHECK(flock(first, LOCK_SH) == 0);
                    CHECK(flock_is_free("file", LOCK_SH) && !flock_is_free("file", LOCK_EX));
                    CHECK(flock(first, LOCK_EX | LOCK_NB) == 0);
                    CHECK(!flock_is_free("file", LOCK_SH));
                    pid_t child = fork();
                    if (child == 0) { sleep(1); _exit(0); }
                    close(first);
                    CHECK(!flock_is_free("file", LOCK_SH));
                    int status; waitpid(child, &status, 0);
                    CHECK(flock_is_free("file", LOCK_EX));
                    // A waiter is interrupted.
                    first = open("file", O_RDWR); flock(first, LOCK_EX);
                    second = open("file", O_RDWR);
                    struct sigaction act = { .sa_handler = (void (*)(int))usleep }; sigaction(SIGALRM, &act, 0);
                    alarm(1);
                    CHECK(FAILS(EINTR, flock(second, LOCK_EX)));
                    """, in: mount.path)
        }
    }
}
