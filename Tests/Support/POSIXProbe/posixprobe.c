// posixprobe SCRIPT DIRECTORY: executes a script of system calls in an empty directory and prints, for each, the
// result, the name of the error and what became of the files it named. Run on two file systems, the printouts of one
// script must be equal: nothing in them depends on inode numbers, clocks or sizes of directories.
//
// A line is `[@UID[:GID[,GROUP...]]] CALL ARGUMENT...`; files are open in slots 0 to 15. With @, a child makes the call.
// Numbers are as in C, modes octal. Names are taken as they are, `%XX` stands for a byte, `%*N` for N letters.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 16, WORDS = 12, NAMES = 2 };
static int slots[SLOTS];
static char *word[WORDS];
static int words;

/// The sum (FNV-1a) of what was read: contents are compared by it.
static uint64_t sum(const unsigned char *bytes, ssize_t count) {
    uint64_t h = 1469598103934665603u;
    for (ssize_t i = 0; i < count; i++) h = (h ^ bytes[i]) * 1099511628211u;
    return h;
}

/// Decodes %XX and %*N.
static char *name(const char *text) {
    static char buffers[4][20000];
    static int next;
    char *out = buffers[next++ % 4], *o = out;
    for (const char *t = text; *t && o < out + 19000;) {
        if (t[0] == '%' && t[1] == '*') {
            char *end;
            long n = strtol(t + 2, &end, 10);
            while (n-- > 0 && o < out + 19000) *o++ = 'n';
            t = end;
        } else if (t[0] == '%' && t[1] && t[2]) {
            char hex[3] = {t[1], t[2], 0};
            *o++ = (char)strtol(hex, NULL, 16);
            t += 3;
        } else *o++ = *t++;
    }
    *o = 0;
    return out;
}

static const char *arg(int i) { return i < words ? word[i] : "0"; }
static char *path(int i) { return name(i < words ? word[i] : ""); }
static long long number(int i) { return strtoll(arg(i), NULL, 0); }
static mode_t octal(int i) { return (mode_t)strtol(arg(i), NULL, 8); }
static int *slot(int i) { return &slots[(unsigned)number(i) % SLOTS]; }

/// Letters of open flags: r w b(oth) c(reate) x(cl) t(runc) a(ppend) d(irectory) n(ofollow) p(ath) T(mpfile) s(ync)
static int flags(const char *letters) {
    int f = 0;
    for (; *letters; letters++) switch (*letters) {
        case 'w': f |= O_WRONLY; break;
        case 'b': f |= O_RDWR; break;
        case 'c': f |= O_CREAT; break;
        case 'x': f |= O_EXCL; break;
        case 't': f |= O_TRUNC; break;
        case 'a': f |= O_APPEND; break;
        case 'd': f |= O_DIRECTORY; break;
        case 'n': f |= O_NOFOLLOW; break;
        case 'p': f |= O_PATH; break;
        case 'T': f |= O_TMPFILE; break;
        case 's': f |= O_SYNC; break;
        }
    return f | O_CLOEXEC | O_NONBLOCK;
}

static unsigned char *bytes(size_t count, int seed) {
    static unsigned char buffer[1 << 20];
    for (size_t i = 0; i < count; i++) buffer[i] = (unsigned char)(seed * 31 + i * 7 + i / 251);
    return buffer;
}

static int order(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/// Names and types of a directory, in order; the result is their number.
static long list(const char *where) {
    DIR *d = opendir(where);
    if (!d) return -1;
    static char *found[100000];
    long n = 0;
    struct dirent *e;
    errno = 0;
    while ((e = readdir(d)) && n < 100000) {
        char *line = malloc(strlen(e->d_name) + 8);
        sprintf(line, "%s/%d", e->d_name, e->d_type);
        found[n++] = line;
    }
    int code = errno;
    closedir(d);
    qsort(found, (size_t)n, sizeof *found, order);
    uint64_t h = 0;
    for (long i = 0; i < n; i++) {
        h = h * 31 + sum((unsigned char *)found[i], (ssize_t)strlen(found[i]));
        if (n <= 24) printf(" %s", found[i]);
        free(found[i]);
    }
    if (n > 24) printf(" names:%016llx", (unsigned long long)h);
    errno = code;
    return code ? -1 : n;
}

static struct timespec when(const char *text) {
    struct timespec t = {0, 0};
    if (!strcmp(text, "now")) t.tv_nsec = UTIME_NOW;
    else if (!strcmp(text, "omit")) t.tv_nsec = UTIME_OMIT;
    else { char *dot; t.tv_sec = strtoll(text, &dot, 0); if (*dot == '.') t.tv_nsec = atol(dot + 1); }
    return t;
}

/// Makes the call; -1 with errno, or its result. Prints what it gave besides.
static long long call(const char *c) {
    static unsigned char buffer[1 << 20];
    if (!strcmp(c, "mkdir")) return mkdir(path(1), octal(2));
    if (!strcmp(c, "rmdir")) return rmdir(path(1));
    if (!strcmp(c, "unlink")) return unlink(path(1));
    if (!strcmp(c, "link")) return link(path(1), path(2));
    if (!strcmp(c, "symlink")) return symlink(path(1), path(2));
    if (!strcmp(c, "rename")) return renameat2(AT_FDCWD, path(1), AT_FDCWD, path(2), (unsigned)number(3));
    if (!strcmp(c, "mknod")) return mknod(path(1), octal(2), (dev_t)number(3));
    if (!strcmp(c, "chmod")) return chmod(path(1), octal(2));
    if (!strcmp(c, "chown")) return lchown(path(1), (uid_t)number(2), (gid_t)number(3));
    if (!strcmp(c, "truncate")) return truncate(path(1), number(2));
    if (!strcmp(c, "access")) return access(path(1), (int)number(2));
    if (!strcmp(c, "umask")) return umask(octal(1));
    if (!strcmp(c, "list")) return list(path(1));
    if (!strcmp(c, "utimens")) {
        struct timespec t[2] = {when(arg(2)), when(arg(3))};
        int r = utimensat(AT_FDCWD, path(1), t, AT_SYMLINK_NOFOLLOW);
        struct stat s;
        if (r == 0 && t[1].tv_nsec < 1000000000 && lstat(path(1), &s) == 0)
            printf(" mtime:%lld.%09ld", (long long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
        return r;
    }
    if (!strcmp(c, "readlink")) {
        ssize_t n = readlink(path(1), (char *)buffer, sizeof buffer);
        if (n >= 0) printf(" sum:%016llx", (unsigned long long)sum(buffer, n));
        return n;
    }
    if (!strcmp(c, "open")) {
        int *s = slot(1);
        if (*s >= 0) close(*s);
        *s = open(path(2), flags(arg(3)), octal(4));
        return *s < 0 ? -1 : 0;
    }
    if (!strcmp(c, "close")) { int r = close(*slot(1)); *slot(1) = -1; return r; }
    if (!strcmp(c, "write")) return write(*slot(1), bytes((size_t)number(2) % sizeof buffer, (int)number(3)), (size_t)number(2) % sizeof buffer);
    if (!strcmp(c, "pwrite")) return pwrite(*slot(1), bytes((size_t)number(3) % sizeof buffer, (int)number(4)), (size_t)number(3) % sizeof buffer, number(2));
    if (!strcmp(c, "pread")) {
        ssize_t n = pread(*slot(1), buffer, (size_t)number(3) % sizeof buffer, number(2));
        if (n >= 0) printf(" sum:%016llx", (unsigned long long)sum(buffer, n));
        return n;
    }
    if (!strcmp(c, "seek")) return lseek(*slot(1), number(2), (int)number(3));
    if (!strcmp(c, "ftruncate")) return ftruncate(*slot(1), number(2));
    if (!strcmp(c, "fallocate")) return fallocate(*slot(1), (int)number(2), number(3), number(4));
    if (!strcmp(c, "fchmod")) return fchmod(*slot(1), octal(2));
    if (!strcmp(c, "fsync")) return fsync(*slot(1));
    if (!strcmp(c, "copy")) {
        off_t from = number(2), to = number(4);
        return copy_file_range(*slot(1), &from, *slot(3), &to, (size_t)number(5), 0);
    }
    if (!strcmp(c, "flock")) return flock(*slot(1), (int)number(2) | LOCK_NB);
    if (!strcmp(c, "lock") || !strcmp(c, "oflock")) {
        struct flock l = {.l_type = (short)number(2), .l_start = number(3), .l_len = number(4)};
        return fcntl(*slot(1), *c == 'o' ? F_OFD_SETLK : F_SETLK, &l);
    }
    if (!strcmp(c, "map")) {  // slot shared offset-of-byte seed
        long at = (long)number(3), page = at & ~4095l;
        struct stat s;
        if (fstat(*slot(1), &s) != 0) return -1;
        if (!S_ISREG(s.st_mode) || at >= s.st_size) { errno = EINVAL; return -1; }
        unsigned char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, number(2) ? MAP_SHARED : MAP_PRIVATE, *slot(1), page);
        if (m == MAP_FAILED) return -1;
        int old = m[at - page];
        m[at - page] = (unsigned char)number(4);
        int r = msync(m, 4096, MS_SYNC);
        munmap(m, 4096);
        return r < 0 ? -1 : old;
    }
    if (!strcmp(c, "setxattr")) return lsetxattr(path(1), path(2), bytes((size_t)number(3), 3), (size_t)number(3), (int)number(4));
    if (!strcmp(c, "removexattr")) return lremovexattr(path(1), path(2));
    if (!strcmp(c, "getxattr")) {
        ssize_t n = lgetxattr(path(1), path(2), buffer, (size_t)number(3));
        if (n > 0 && number(3)) printf(" sum:%016llx", (unsigned long long)sum(buffer, n));
        return n;
    }
    if (!strcmp(c, "exec")) {
        fflush(stdout);
        pid_t p = fork();
        if (p == 0) { execl(path(1), "x", (char *)NULL); _exit(100 + errno % 100); }
        int s;
        waitpid(p, &s, 0);
        return s;
    }
    errno = ENOTSUP;
    printf(" UNKNOWN-CALL");
    return -1;
}

/// What a name is, without what is each file system's own.
static void describe(const char *label, int known, const struct stat *before, const char *where, int fd) {
    struct stat s;
    if ((where ? lstat(where, &s) : fstat(fd, &s)) != 0) { printf(" | %s %s", label, strerrorname_np(errno)); return; }
    printf(" | %s %o n%lu %u:%u", label, s.st_mode, (unsigned long)s.st_nlink, s.st_uid, s.st_gid);
    if (!S_ISDIR(s.st_mode)) printf(" %lld", (long long)s.st_size);
    if (S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode)) printf(" dev%llx", (unsigned long long)s.st_rdev);
    if (!known) return;
    if (before->st_ino != s.st_ino) { printf(" other"); return; }
    printf(" %s%s", memcmp(&before->st_mtim, &s.st_mtim, sizeof s.st_mtim) ? "m" : "-",
           memcmp(&before->st_ctim, &s.st_ctim, sizeof s.st_ctim) ? "c" : "-");
}

/// File systems stamp with the kernel's coarse clock: a step that follows within one tick would not be seen to move one.
static void tick(void) {
    struct timespec start, now;
    clock_gettime(CLOCK_REALTIME_COARSE, &start);
    do {
        usleep(1000);
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
    } while (now.tv_nsec == start.tv_nsec);
}

static void become(char *text) {
    char *gid = strchr(text, ':');
    uid_t uid = (uid_t)atoi(text);
    gid_t groups[32];
    int count = 0;
    for (char *g = gid; g && count < 32; g = strchr(g + 1, ',')) groups[count++] = (gid_t)atoi(g + 1);
    gid_t primary = count ? groups[0] : uid;
    if (setgroups((size_t)(count > 1 ? count - 1 : 0), groups + 1) || setresgid(primary, primary, primary) ||
        setresuid(uid, uid, uid)) { printf(" CANNOT-BECOME %s", text); }
}

int main(int argc, char **argv) {
    if (argc != 3) { fprintf(stderr, "usage: posixprobe SCRIPT DIRECTORY\n"); return 2; }
    FILE *script = fopen(argv[1], "r");
    if (!script || chdir(argv[2]) != 0) { perror(argv[script ? 2 : 1]); return 2; }
    umask(022);
    for (int i = 0; i < SLOTS; i++) slots[i] = -1;
    static char line[65536];
    for (long step = 1; fgets(line, sizeof line, script); step++) {
        words = 0;
        static char copy[sizeof line];
        line[strcspn(line, "\n")] = 0;
        strcpy(copy, line);
        char *rest = copy, *w, *who = NULL;
        while (words < WORDS && (w = strtok_r(rest, " ", &rest)))
            if (*w == '@' && !words && !who) who = w + 1; else word[words++] = w;
        if (!words || *word[0] == '#') continue;
        printf("%ld %.120s", step, line);

        // The files it may change: those it names, the directories they are in, and the one of its slot.
        struct stat before[2 * NAMES + 1];
        int known[2 * NAMES + 1] = {0};
        char label[2 * NAMES][16], *where[2 * NAMES];
        int count = 0, named = 0;
        for (int i = 1; i < words && named < NAMES; i++) {
            if (strspn(word[i], "0123456789-.") == strlen(word[i]) && strcmp(word[i], ".")) continue;
            char *p = strdup(path(i)), *slash = strrchr(p, '/');
            named++;
            where[count] = p; sprintf(label[count], "%d", named); count++;
            if (slash && slash != p && slash[1]) where[count] = strndup(p, (size_t)(slash - p)); else where[count] = strdup(".");
            sprintf(label[count], "in%d", named); count++;
        }
        int fd = words > 1 && strspn(word[1], "0123456789") == strlen(word[1]) ? *slot(1) : -1;
        tick();
        for (int i = 0; i < count; i++) known[i] = lstat(where[i], &before[i]) == 0;
        known[2 * NAMES] = fd >= 0 && fstat(fd, &before[2 * NAMES]) == 0;
        printf(" =>");
        if (who) {
            fflush(stdout);
            pid_t child = fork();
            if (child == 0) {
                become(who);
                errno = 0;
                long long r = call(word[0]);
                int code = errno;
                if (r < 0) printf(" -1 %s", strerrorname_np(code)); else printf(" %lld", r);
                fflush(stdout);
                _exit(0);
            }
            waitpid(child, NULL, 0);
        } else {
            errno = 0;
            long long r = call(word[0]);
            int code = errno;
            if (r < 0) printf(" -1 %s", strerrorname_np(code)); else printf(" %lld", r);
        }
        for (int i = 0; i < count; i++) { describe(label[i], known[i], &before[i], where[i], -1); free(where[i]); }
        if (fd >= 0 && strcmp(word[0], "open")) describe("fd", known[2 * NAMES], &before[2 * NAMES], NULL, fd);
        putchar('\n');
        fflush(stdout);
    }
    return 0;
}
