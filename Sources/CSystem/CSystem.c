#define _GNU_SOURCE
#include "CSystem.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

const int32_t o3_O_DIRECT = O_DIRECT, o3_O_PATH = O_PATH, o3_O_TMPFILE = O_TMPFILE;
const int32_t o3_O_NOATIME = O_NOATIME;
const int32_t o3_SEEK_DATA = SEEK_DATA, o3_SEEK_HOLE = SEEK_HOLE;
const int32_t o3_FALLOC_FL_KEEP_SIZE = FALLOC_FL_KEEP_SIZE;
const int32_t o3_FALLOC_FL_PUNCH_HOLE = FALLOC_FL_PUNCH_HOLE;
const int32_t o3_FALLOC_FL_ZERO_RANGE = FALLOC_FL_ZERO_RANGE;
#ifndef MADV_COLLAPSE  // Headers older than Linux 6.1.
#define MADV_COLLAPSE 25
#endif
const int32_t o3_MADV_COLLAPSE = MADV_COLLAPSE;
const uint32_t o3_RENAME_NOREPLACE = RENAME_NOREPLACE, o3_RENAME_EXCHANGE = RENAME_EXCHANGE,
               o3_RENAME_WHITEOUT = RENAME_WHITEOUT;

void *o3_scratch(void) {
    static _Thread_local _Alignas(64) unsigned char scratch[O3_SCRATCH_BYTES];
    return scratch;
}

_Thread_local uint32_t o3_until_sample = O3_SAMPLED_EVERY - 1;

int o3_futex_wait(const uint32_t *address, uint32_t expected, const struct timespec *timeout) {
    return syscall(SYS_futex, address, FUTEX_WAIT, expected, timeout, NULL, 0) == -1 ? -errno : 0;
}
int o3_futex_wake(const uint32_t *address, int count) {
    long woken = syscall(SYS_futex, address, FUTEX_WAKE, count, NULL, NULL, 0);
    return woken == -1 ? -errno : (int)woken;
}

int32_t o3_gettid(void) { return (int32_t)syscall(SYS_gettid); }
int o3_getcpu(void) { return sched_getcpu(); }
int o3_pidfd_open(int32_t pid) {
    long fd = syscall(SYS_pidfd_open, pid, 0);
    return fd == -1 ? -errno : (int)fd;
}
void o3_set_thread_name(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
int o3_set_affinity(const int32_t *processors, int32_t count) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int32_t index = 0; index < count; index++) CPU_SET(processors[index], &set);
    return sched_setaffinity(0, sizeof set, &set) == -1 ? -errno : 0;
}
int o3_set_idle_priority(void) {
    struct sched_param parameter = {0};
    return sched_setscheduler(0, SCHED_IDLE, &parameter) == -1 ? -errno : 0;
}
int o3_set_parent_death_signal(int signal) { return prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) == -1 ? -errno : 0; }
int o3_setfsuid(uint32_t uid) { return setfsuid(uid); }

void o3_tune_allocator(void) {
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    mallopt(M_ARENA_MAX, 4);
}
int o3_fallocate(int fd, int mode, int64_t offset, int64_t length) {
    return fallocate(fd, mode, offset, length) == -1 ? -errno : 0;
}
int o3_sync_file_range(int fd, int64_t offset, int64_t length) {
    return sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE) == -1 ? -errno : 0;
}

static int wait_for_child(pid_t child) {
    int status;
    if (child < 0) return -errno;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}
// Between fork and _exit only system calls: other threads may hold any lock.
int o3_syncfs_in_child(const char *path) {
    pid_t child = fork();
    if (child == 0) {
        close_range(0, ~0U, 0);
        int directory = open(path, O_RDONLY | O_DIRECTORY);
        _exit(directory < 0 || syncfs(directory) != 0 ? errno : 0);
    }
    return wait_for_child(child);
}
int o3_umount_in_child(const char *path, int flags) {
    pid_t child = fork();
    if (child == 0) {
        close_range(0, ~0U, 0);
        _exit(umount2(path, flags) != 0 ? errno : 0);
    }
    return wait_for_child(child);
}
int o3_renameat2(const char *from, const char *to, uint32_t flags) {
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) == -1 ? -errno : 0;
}
int64_t o3_getrandom(void *buffer, size_t length) {
    ssize_t count = getrandom(buffer, length, 0);
    return count == -1 ? -errno : count;
}

int o3_S_ISREG(uint32_t mode) { return S_ISREG(mode); }
int o3_S_ISDIR(uint32_t mode) { return S_ISDIR(mode); }
int o3_S_ISLNK(uint32_t mode) { return S_ISLNK(mode); }

int o3_fuse_clone(int fd, int session_fd) {
    uint32_t source = (uint32_t)session_fd;
    return ioctl(fd, _IOR(229, 0, uint32_t), &source) == -1 ? -errno : 0;
}

int o3_memfd_create(const char *name) {
    int fd = memfd_create(name, MFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int o3_socket_pair(int32_t ends[2]) {
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0 ? 0 : -errno;
}

union rights {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(o3_maximum_descriptors * sizeof(int32_t))];
};

int64_t o3_send_descriptors(int socket, const void *bytes, size_t length, const int32_t *descriptors, int32_t count) {
    if (count < 0 || count > o3_maximum_descriptors) return -EINVAL;
    struct iovec piece = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    union rights rights;
    memset(&rights, 0, sizeof rights);
    if (count > 0) {
        message.msg_control = rights.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int32_t));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int32_t));
        memcpy(CMSG_DATA(header), descriptors, count * sizeof(int32_t));
    }
    ssize_t sent;
    do sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

int64_t o3_receive_descriptors(int socket, void *bytes, size_t length, int32_t *descriptors, int32_t *count) {
    struct iovec piece = {bytes, length};
    union rights rights;
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = rights.bytes, .msg_controllen = sizeof rights};
    ssize_t received;
    do received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    int32_t room = *count;
    *count = 0;
    if (received < 0) return -errno;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        int32_t found = (int32_t)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int32_t));
        for (int32_t index = 0; index < found; index++) {
            int32_t descriptor;
            memcpy(&descriptor, CMSG_DATA(header) + index * sizeof descriptor, sizeof descriptor);
            if (*count < room) descriptors[(*count)++] = descriptor;
            else close(descriptor);
        }
    }
    return message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EMSGSIZE : received;
}
