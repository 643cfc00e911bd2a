// Measures small-file work in a directory: creates, stats, reads, lists and deletes files, and prints
// one line a phase: NAME OPERATIONS_PER_SECOND. Each phase runs alone, over files spread over
// subdirectories of 1,000.
//
//   smallfiles DIRECTORY COUNT SIZE
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FILES_PER_DIRECTORY = 1000 };

static const char *base;

static void fail(const char *what, const char *path) {
    fprintf(stderr, "smallfiles: cannot %s %s: %s\n", what, path, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void directory_name(char *path, int directory) { sprintf(path, "%s/d%04d", base, directory); }

static void file_name(char *path, int file) {
    sprintf(path, "%s/d%04d/f%07d", base, file / FILES_PER_DIRECTORY, file);
}

static void report(const char *name, int operations, double start) {
    printf("%s %.1f\n", name, operations / (now() - start));
    fflush(stdout);
}

// What the kernel remembers of the files must not answer for the file system.
static void drop_caches(void) {
    sync();
    int file = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (file < 0) return;
    if (write(file, "2", 1) != 1) perror("drop_caches");
    close(file);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: smallfiles DIRECTORY COUNT SIZE\n");
        return 2;
    }
    base = argv[1];
    int count = atoi(argv[2]), size = atoi(argv[3]);
    int directories = (count + FILES_PER_DIRECTORY - 1) / FILES_PER_DIRECTORY;
    char path[4096];
    char *content = malloc(size), *read_back = malloc(size);
    for (int i = 0; i < size; i++) content[i] = 'a' + i * 7 % 26;

    for (int d = 0; d < directories; d++) {
        directory_name(path, d);
        if (mkdir(path, 0755)) fail("create", path);
    }

    double start = now();
    for (int i = 0; i < count; i++) {
        file_name(path, i);
        int file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (file < 0) fail("create", path);
        if (write(file, content, size) != size) fail("write", path);
        if (close(file)) fail("close", path);
    }
    report("create", count, start);

    drop_caches();
    start = now();
    for (int i = 0; i < count; i++) {
        struct stat info;
        file_name(path, i);
        if (stat(path, &info)) fail("stat", path);
        if (info.st_size != size) { fprintf(stderr, "smallfiles: %s has a wrong size\n", path); return 1; }
    }
    report("stat", count, start);

    drop_caches();
    start = now();
    for (int i = 0; i < count; i++) {
        file_name(path, i);
        int file = open(path, O_RDONLY);
        if (file < 0) fail("open", path);
        if (read(file, read_back, size) != size) fail("read", path);
        if (memcmp(read_back, content, size)) { fprintf(stderr, "smallfiles: %s has wrong content\n", path); return 1; }
        close(file);
    }
    report("read", count, start);

    drop_caches();
    start = now();
    int listed = 0;
    for (int d = 0; d < directories; d++) {
        directory_name(path, d);
        DIR *stream = opendir(path);
        if (!stream) fail("list", path);
        for (struct dirent *entry; (entry = readdir(stream));) {
            struct stat info;
            if (entry->d_name[0] == '.') continue;
            // As `ls -l` does.
            if (fstatat(dirfd(stream), entry->d_name, &info, AT_SYMLINK_NOFOLLOW)) fail("stat", entry->d_name);
            listed++;
        }
        closedir(stream);
    }
    if (listed != count) { fprintf(stderr, "smallfiles: listed %d of %d files\n", listed, count); return 1; }
    report("list", count, start);

    start = now();
    for (int i = 0; i < count; i++) {
        file_name(path, i);
        if (unlink(path)) fail("delete", path);
    }
    report("delete", count, start);
    for (int d = 0; d < directories; d++) {
        directory_name(path, d);
        if (rmdir(path)) fail("delete", path);
    }
    return 0;
}
