// posixprobe SCRIPT DIRECTORY: executes a script of system calls in an empty directory and prints, for each, the
// result, the name of the error and what became of the files it named. Run on two file systems, the printouts of one
// script must be equal: nothing in them depends on inode numbers, clocks or sizes of directories.
//
// A line is `[@UID[:GID[,GROUP...]]] CALL ARGUMENT...`, or `&N CALL ARGUMENT...`; files are open in slots 0 to 15. With @, a
// child makes the call; with &, process N (1 to 3), which lives on and has slots of its own. A call of such a process
// that does not return `waits`; `await N` gives its result, `kill N` ends it and starts another.
// Numbers are as in C, modes octal. Names are taken as they are, `%XX` stands for a byte, `%*N` for N letters, `%/N` for
// N times `./`.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
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
        } else if (t[0] == '%' && t[1] == '/') {
            char *end;
            long n = strtol(t + 2, &end, 10);
            while (n-- > 0 && o < out + 18990) { *o++ = '.'; *o++ = '/'; }
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
/// y (dsync) D(irect) A (noatime)
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
        case 'y': f |= O_DSYNC; break;
        case 'D': f |= O_DIRECT; break;
        case 'A': f |= O_NOATIME; break;
        }
    return f | O_CLOEXEC | O_NONBLOCK;
}

static unsigned char *bytes(size_t count, int seed) {
    static unsigned char buffer[1 << 20] __attribute__((aligned(4096)));
    for (size_t i = 0; i < count; i++) buffer[i] = (unsigned char)(seed * 31 + i * 7 + i / 251);
    return buffer;
}

static int order(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/// Names and types of a directory, in order; the result is their number.
static long list(DIR *d) {
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

/// A directory of 300 files that changes while it is read: every file that stays is seen once, none twice, and a
/// position told is one that can be gone back to. The number of mistakes.
static long scan(const char *where) {
    char text[64], seen[600] = {0};
    static long place[600];
    int mistakes = 0, gone[600] = {0};
    if (mkdir(where, 0755)) return -1;
    int fd = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 300; i++) { sprintf(text, "f%d", i); close(openat(fd, text, O_CREAT | O_WRONLY | O_CLOEXEC, 0644)); }
    DIR *d = opendir(where);
    struct dirent *e;
    int i, n = 0;
    while (n < 100 && (e = readdir(d))) if (sscanf(e->d_name, "f%d", &i) == 1) { seen[i]++; n++; place[n] = telldir(d); }
    // Go back, and see the same again.
    char after[600] = {0};
    long here = place[100];
    seekdir(d, place[50]);
    for (n = 50; n < 100 && (e = readdir(d));) if (sscanf(e->d_name, "f%d", &i) == 1) { after[i]++; n++; if (seen[i] != 1) mistakes++; }
    seekdir(d, here);
    for (i = 0; i < 300; i += 5) { sprintf(text, "f%d", i); unlinkat(fd, text, 0); gone[i] = 1; }
    for (i = 300; i < 400; i++) { sprintf(text, "f%d", i); close(openat(fd, text, O_CREAT | O_WRONLY | O_CLOEXEC, 0644)); gone[i] = 1; }
    while ((e = readdir(d))) if (sscanf(e->d_name, "f%d", &i) == 1) seen[i]++;
    for (i = 0; i < 400; i++) if (seen[i] > 1 || (!gone[i] && seen[i] != 1)) mistakes++;
    rewinddir(d);
    for (n = 0; (e = readdir(d));) n++;
    if (n != 2 + 240 + 100) mistakes++;
    closedir(d);
    close(fd);
    return mistakes;
}

/// Walks data and holes of an open file, whose grain is each file system's own: they take turns from the beginning to the
/// end, and holes are zeros. The number of mistakes.
static long extents(int slot) {
    static unsigned char part[65536];
    struct stat s;
    if (fstat(slot, &s) != 0) return -1;
    if (!S_ISREG(s.st_mode)) { errno = EINVAL; return -1; }
    // It may be open for writing only.
    char path[64];
    sprintf(path, "/proc/self/fd/%d", slot);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    long mistakes = 0;
    for (off_t at = 0; at < s.st_size;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 && errno != ENXIO) { mistakes++; break; }
        if (data < 0) data = s.st_size;
        if (data < at) { mistakes++; break; }
        // Zeros far from any data are not read one by one.
        for (off_t hole = at; hole < data && hole < at + (4 << 20); ) {
            ssize_t n = pread(fd, part, (size_t)(data - hole < (off_t)sizeof part ? data - hole : (off_t)sizeof part), hole);
            if (n <= 0) { mistakes++; break; }
            for (ssize_t i = 0; i < n; i++) if (part[i]) { mistakes++; break; }
            hole += n;
        }
        if (data >= s.st_size) break;
        at = lseek(fd, data, SEEK_HOLE);
        if (at <= data || at > s.st_size) { mistakes++; break; }
    }
    if (lseek(fd, s.st_size, SEEK_DATA) >= 0 || errno != ENXIO) mistakes++;
    close(fd);
    return mistakes;
}

/// A tree of so many levels, made, walked up and removed; the number of levels that there were.
static long deep(long levels) {
    int top = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    long made = 0, left = 0;
    while (made < levels && mkdir("deeper", 0755) == 0 && chdir("deeper") == 0) made++;
    int file = open("bottom", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (file < 0 || write(file, "x", 1) != 1 || close(file) || unlink("bottom")) made = -1;
    while (left < made && chdir("..") == 0 && rmdir("deeper") == 0) left++;
    struct stat a, b;
    if (fstat(top, &a) || stat(".", &b) || a.st_ino != b.st_ino || fchdir(top)) left = -1;
    close(top);
    return left;
}

/// `u::7,u:4001:5,g::5,g:4003:6,m::7,o::0` as the value of an attribute; its length.
static size_t acl(const char *text, unsigned char *out) {
    uint32_t version = 2;
    size_t n = sizeof version;
    memcpy(out, &version, n);
    static char copy[4096];
    strncpy(copy, text, sizeof copy - 1);
    char *rest = copy, *entry;
    while ((entry = strtok_r(rest, ",", &rest))) {
        char *id = strchr(entry, ':'), *perm = id ? strchr(id + 1, ':') : NULL;
        if (!perm) break;
        int named = perm > id + 1;
        uint16_t tag = *entry == 'u' ? (named ? 2 : 1) : *entry == 'g' ? (named ? 8 : 4) : *entry == 'm' ? 16 : 32;
        uint16_t bits = (uint16_t)atoi(perm + 1);
        uint32_t who = named ? (uint32_t)atoi(id + 1) : UINT32_MAX;
        memcpy(out + n, &tag, 2), memcpy(out + n + 2, &bits, 2), memcpy(out + n + 4, &who, 4);
        n += 8;
    }
    return n;
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

/// Makes the call; -1 with errno, or its result. Prints what it gave besides.
static long long call(const char *c) {
    static unsigned char buffer[1 << 20] __attribute__((aligned(4096)));
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
    if (!strcmp(c, "list")) return list(opendir(path(1)));
    if (!strcmp(c, "utimens")) {
        struct timespec t[2] = {when(arg(2)), when(arg(3))};
        int r = utimensat(AT_FDCWD, path(1), t, AT_SYMLINK_NOFOLLOW);
        struct stat s;
        if (r == 0 && lstat(path(1), &s) == 0) {
            if (t[0].tv_nsec < 1000000000) printf(" atime:%lld.%09ld", (long long)s.st_atim.tv_sec, s.st_atim.tv_nsec);
            if (t[1].tv_nsec < 1000000000) printf(" mtime:%lld.%09ld", (long long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
        }
        return r;
    }
    if (!strcmp(c, "accessed")) {  // prints whether the access time is of today, and whether it is what it was when last asked
        static struct timespec last;
        struct stat s;
        if (lstat(path(1), &s) != 0) return -1;
        printf(" %s %s", s.st_atim.tv_sec < time(NULL) - 3600 ? "past" : "now",
               s.st_atim.tv_sec == last.tv_sec && s.st_atim.tv_nsec == last.tv_nsec ? "same" : "moved");
        last = s.st_atim;
        return 0;
    }
    if (!strcmp(c, "pause")) return usleep((useconds_t)number(1) * 1000);
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
    if (!strcmp(c, "become")) { become(word[1]); return 0; }
    if (!strcmp(c, "scan")) return scan(path(1));
    if (!strcmp(c, "deep")) return deep((long)number(1));
    if (!strcmp(c, "fchown")) return fchown(*slot(1), (uid_t)number(2), (gid_t)number(3));
    if (!strcmp(c, "fdatasync")) return fdatasync(*slot(1));
    if (!strcmp(c, "futimens")) {
        struct timespec t[2] = {when(arg(2)), when(arg(3))};
        return futimens(*slot(1), t);
    }
    if (!strcmp(c, "linkfd")) {
        char from[64];
        sprintf(from, "/proc/self/fd/%d", *slot(1));
        return linkat(AT_FDCWD, from, AT_FDCWD, path(2), AT_SYMLINK_FOLLOW);
    }
    if (!strcmp(c, "extents")) return extents(*slot(1));
    if (!strcmp(c, "mkdirat")) return mkdirat(*slot(1), path(2), octal(3));
    if (!strcmp(c, "unlinkat")) return unlinkat(*slot(1), path(2), (int)number(3));
    if (!strcmp(c, "renameat")) return renameat(*slot(1), path(2), *slot(3), path(4));
    if (!strcmp(c, "openat")) {
        int *s = slot(1), directory = *slot(2), opened = openat(directory, path(3), flags(arg(4)), octal(5));
        if (opened < 0) return -1;
        if (*s >= 0) close(*s);
        *s = opened;
        return 0;
    }
    if (!strcmp(c, "listfd")) {
        int copy = openat(*slot(1), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (copy < 0) return -1;
        return list(fdopendir(copy));
    }
    if (!strcmp(c, "dup")) { int *s = slot(1); if (*s >= 0) close(*s); *s = dup(*slot(2)); return *s < 0 ? -1 : 0; }
    if (!strcmp(c, "stat")) { struct stat s; return stat(path(1), &s); }
    if (!strcmp(c, "btime")) {
        struct statx x, now;
        static struct statx first;
        if (statx(AT_FDCWD, path(1), AT_SYMLINK_NOFOLLOW, STATX_BTIME | STATX_CTIME, &x) != 0) return -1;
        now = first;
        first = x;
        printf(" btime:%s", x.stx_mask & STATX_BTIME ? "told" : "none");
        int later = x.stx_btime.tv_sec > x.stx_ctime.tv_sec ||
            (x.stx_btime.tv_sec == x.stx_ctime.tv_sec && x.stx_btime.tv_nsec > x.stx_ctime.tv_nsec);
        return later * 2 + (now.stx_btime.tv_sec == x.stx_btime.tv_sec && now.stx_btime.tv_nsec == x.stx_btime.tv_nsec);
    }
    if (!strcmp(c, "acl")) {
        static unsigned char value[4096];
        size_t n = acl(arg(3), value);
        return lsetxattr(path(1), !strcmp(arg(2), "default") ? "system.posix_acl_default" : "system.posix_acl_access", value, n, 0);
    }
    if (!strcmp(c, "listxattr")) {
        ssize_t n = llistxattr(path(1), (char *)buffer, number(2) ? (size_t)number(2) : sizeof buffer);
        if (n < 0) return n;
        char *found[64];
        int count = 0;
        for (char *a = (char *)buffer; a < (char *)buffer + n && count < 64; a += strlen(a) + 1) found[count++] = a;
        qsort(found, (size_t)count, sizeof *found, order);
        for (int i = 0; i < count; i++) printf(" %.40s", found[i]);
        return n;
    }
    if (!strcmp(c, "fsetxattr")) return fsetxattr(*slot(1), path(2), bytes((size_t)number(3), 3), (size_t)number(3), (int)number(4));
    if (!strcmp(c, "lockw") || !strcmp(c, "oflockw")) {
        struct flock l = {.l_type = (short)number(2), .l_start = number(3), .l_len = number(4)};
        return fcntl(*slot(1), *c == 'o' ? F_OFD_SETLKW : F_SETLKW, &l);
    }
    if (!strcmp(c, "flockw")) return flock(*slot(1), (int)number(2));
    if (!strcmp(c, "getlk")) {
        struct flock l = {.l_type = (short)number(2), .l_start = number(3), .l_len = number(4)};
        if (fcntl(*slot(1), F_GETLK, &l) != 0) return -1;
        if (l.l_type != F_UNLCK) printf(" type:%d start:%lld length:%lld", l.l_type, (long long)l.l_start, (long long)l.l_len);
        return l.l_type;
    }
    if (!strcmp(c, "maptail")) {  // slot: what a mapping shows beyond the end, and that a write there is not kept
        struct stat s;
        if (fstat(*slot(1), &s) != 0) return -1;
        if (!S_ISREG(s.st_mode)) { errno = EINVAL; return -1; }
        long page = (long)s.st_size & ~4095l, tail = (long)s.st_size - page;
        if (!tail) { errno = EINVAL; return -1; }
        unsigned char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, *slot(1), page);
        if (m == MAP_FAILED) return -1;
        long dirty = 0;
        for (long i = tail; i < 4096; i++) dirty += m[i] != 0;
        m[tail] = 1;
        msync(m, 4096, MS_SYNC);
        munmap(m, 4096);
        return dirty;
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

/// Makes the call of the words, says its result and what became of the file of its slot.
static void perform(void) {
    int fd = words > 1 && strspn(word[1], "0123456789") == strlen(word[1]) ? *slot(1) : -1;
    struct stat before;
    int known = fd >= 0 && fstat(fd, &before) == 0;
    errno = 0;
    long long r = call(word[0]);
    int code = errno;
    if (r < 0) printf(" -1 %s", strerrorname_np(code)); else printf(" %lld", r);
    if (fd >= 0 && strncmp(word[0], "open", 4) && strcmp(word[0], "close")) describe("fd", known, &before, NULL, fd);
}

/// A process that makes calls one by one, until it is killed.
enum { PROCESSES = 4 };
/// How long a call of such a process is given before it is said to wait; POSIXPROBE_WAITS_MS says another.
static int waits_ms = 300;
static struct process { pid_t id; int commands, answers; } processes[PROCESSES];

static void start(struct process *p) {
    int there[2], back[2];
    if (pipe2(there, O_CLOEXEC) || pipe2(back, O_CLOEXEC)) { perror("pipe"); exit(2); }
    fflush(stdout);
    p->id = fork();
    if (p->id) {
        close(there[0]), close(back[1]);
        p->commands = there[1], p->answers = back[0];
        return;
    }
    // What the parent has of the others would keep their locks and pipes alive.
    for (int i = 0; i < SLOTS; i++) { if (slots[i] >= 0) close(slots[i]); slots[i] = -1; }
    for (int i = 1; i < PROCESSES; i++)
        if (&processes[i] != p && processes[i].id) close(processes[i].commands), close(processes[i].answers);
    close(there[1]), close(back[0]);
    dup2(back[1], 1);
    FILE *commands = fdopen(there[0], "r");
    static char line[65536];
    while (fgets(line, sizeof line, commands)) {
        words = 0;
        line[strcspn(line, "\n")] = 0;
        char *rest = line, *w;
        while (words < WORDS && (w = strtok_r(rest, " ", &rest))) word[words++] = w;
        if (words) perform();
        putchar('\n');
        fflush(stdout);
    }
    _exit(0);
}

/// Prints the answer of a process, or that it waits.
static void answer(struct process *p, int patience) {
    struct pollfd ready = {.fd = p->answers, .events = POLLIN};
    char c;
    if (poll(&ready, 1, patience) <= 0) { printf(" waits"); return; }
    while (read(p->answers, &c, 1) == 1 && c != '\n') putchar(c);
}

int main(int argc, char **argv) {
    if (argc != 3) { fprintf(stderr, "usage: posixprobe SCRIPT DIRECTORY\n"); return 2; }
    FILE *script = fopen(argv[1], "r");
    if (!script || chdir(argv[2]) != 0) { perror(argv[script ? 2 : 1]); return 2; }
    umask(022);
    if (getenv("POSIXPROBE_WAITS_MS")) waits_ms = atoi(getenv("POSIXPROBE_WAITS_MS"));
    for (int i = 0; i < SLOTS; i++) slots[i] = -1;
    for (int i = 1; i < PROCESSES; i++) start(&processes[i]);
    static char line[65536];
    for (long step = 1; fgets(line, sizeof line, script); step++) {
        words = 0;
        static char copy[sizeof line];
        line[strcspn(line, "\n")] = 0;
        strcpy(copy, line);
        char *rest = copy, *w, *who = NULL;
        while (words < WORDS && (w = strtok_r(rest, " ", &rest)))
            if ((*w == '@' || *w == '&') && !words && !who) who = w; else word[words++] = w;
        if (!words || *word[0] == '#') continue;
        printf("%ld %.120s", step, line);

        // The files it may change: those it names, the directories they are in.
        struct stat before[2 * NAMES];
        int known[2 * NAMES] = {0};
        char label[2 * NAMES][16], *where[2 * NAMES];
        int count = 0, named = 0;
        for (int i = 1; i < words && named < NAMES; i++) {
            if (strspn(word[i], "0123456789-.") == strlen(word[i]) && strcmp(word[i], ".")) continue;
            // Other scripts may be at work there.
            if (!strncmp(word[i], "..", 2)) continue;
            char *p = strdup(path(i)), *slash = strrchr(p, '/');
            named++;
            where[count] = p; sprintf(label[count], "%d", named); count++;
            if (slash && slash != p && slash[1]) where[count] = strndup(p, (size_t)(slash - p)); else where[count] = strdup(".");
            sprintf(label[count], "in%d", named); count++;
        }
        tick();
        for (int i = 0; i < count; i++) known[i] = lstat(where[i], &before[i]) == 0;
        printf(" =>");
        fflush(stdout);
        if (who && *who == '@') {
            pid_t child = fork();
            if (child == 0) {
                become(who + 1);
                perform();
                fflush(stdout);
                _exit(0);
            }
            waitpid(child, NULL, 0);
        } else if (who) {
            struct process *p = &processes[(unsigned)atoi(who + 1) % PROCESSES];
            dprintf(p->commands, "%s\n", strchr(line, ' ') + 1);
            answer(p, waits_ms);
        } else if (!strcmp(word[0], "await")) answer(&processes[(unsigned)number(1) % PROCESSES], 5000);
        else if (!strcmp(word[0], "kill")) {
            struct process *p = &processes[(unsigned)number(1) % PROCESSES];
            kill(p->id, SIGKILL);
            waitpid(p->id, NULL, 0);
            close(p->commands);
            close(p->answers);
            start(p);
        } else perform();
        for (int i = 0; i < count; i++) { describe(label[i], known[i], &before[i], where[i], -1); free(where[i]); }
        putchar('\n');
        fflush(stdout);
    }
    // Some may wait for each other.
    for (int i = 1; i < PROCESSES; i++) kill(processes[i].id, SIGKILL);
    return 0;
}
