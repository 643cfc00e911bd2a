// Shims for what Swift cannot import from the C library: variadic functions, macros with casts,
// and processor instructions. No logic lives here.
//
// _GNU_SOURCE changes the layout of system types and must stay out of this header (two modules would
// disagree on them): what needs it is declared here and defined in CSystem.c.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/xattr.h>
#include <time.h>

// MARK: Constants hidden behind _GNU_SOURCE

extern const int32_t o3_O_NOATIME, o3_O_DIRECT, o3_O_PATH, o3_O_TMPFILE, o3_SEEK_DATA, o3_SEEK_HOLE;
extern const int32_t o3_FALLOC_FL_KEEP_SIZE, o3_FALLOC_FL_PUNCH_HOLE, o3_FALLOC_FL_ZERO_RANGE;
extern const int32_t o3_MADV_COLLAPSE;
extern const uint32_t o3_RENAME_NOREPLACE, o3_RENAME_EXCHANGE, o3_RENAME_WHITEOUT;

// MARK: Futex. `address` may lie in memory shared between processes.

/// Sleeps while `*address == expected`, for at most `timeout` (NULL: no limit). Returns 0 or -errno.
int o3_futex_wait(const uint32_t *address, uint32_t expected, const struct timespec *timeout);
/// Wakes at most `count` sleepers. Returns how many were woken, or -errno.
int o3_futex_wake(const uint32_t *address, int count);

// MARK: Processes and threads

int32_t o3_gettid(void);
int o3_getcpu(void);
/// Returns a descriptor that becomes readable when the process dies, or -errno.
int o3_pidfd_open(int32_t pid);
void o3_set_thread_name(const char *name);
/// Keeps the calling thread, and those it starts, on these processors. Returns 0 or -errno.
int o3_set_affinity(const int32_t *processors, int32_t count);
/// The calling thread runs only on processors that nobody else wants. Returns 0 or -errno.
int o3_set_idle_priority(void);
/// Asks for `signal` when the parent process dies. Returns 0 or -errno.
int o3_set_parent_death_signal(int signal);
/// Asks the processor for a cache line that will be read soon. Any address.
static inline void o3_prefetch(const void *address) { __builtin_prefetch(address); }

/// Memory of the calling thread for bytes that are used at once, O3_SCRATCH_BYTES of it.
#define O3_SCRATCH_BYTES 32768
void *o3_scratch(void);

/// Counts calls of the calling thread: 1 at each O3_SAMPLED_EVERY-th one, else 0. A prime, so that what a thread does in turns
/// is met by turns.
#define O3_SAMPLED_EVERY 127
extern _Thread_local uint32_t o3_until_sample;
static inline int o3_is_sampled(void) {
    if (__builtin_expect(o3_until_sample != 0, 1)) {
        o3_until_sample--;
        return 0;
    }
    o3_until_sample = O3_SAMPLED_EVERY - 1;
    return 1;
}

static inline void o3_cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/// The calling thread's user for file access from now on; returns the one before.
int o3_setfsuid(uint32_t uid);

/// Keeps large buffers that come and go (read-ahead, blocks) from being mapped and unmapped each time, and
/// the heap from growing an arena for every thread.
void o3_tune_allocator(void);

// MARK: Files. Each returns 0 (or a count), or -errno.

int o3_fallocate(int fd, int mode, int64_t offset, int64_t length);
/// Starts writing the range back to storage without waiting for it.
int o3_sync_file_range(int fd, int64_t offset, int64_t length);
/// syncfs(2) with the directory `path`, and umount2(2), by a child that keeps no descriptor of this process: where they
/// wait for this very process, its death ends the wait. 0, or an errno; -errno when there is no child.
int o3_syncfs_in_child(const char *path);
int o3_umount_in_child(const char *path, int flags);
int o3_renameat2(const char *from, const char *to, uint32_t flags);
int64_t o3_getrandom(void *buffer, size_t length);
/// A file in memory without a name, closed on exec. Returns its descriptor, or -errno.
int o3_memfd_create(const char *name);

int o3_S_ISREG(uint32_t mode);
int o3_S_ISDIR(uint32_t mode);
int o3_S_ISLNK(uint32_t mode);

// MARK: ioctl on /dev/fuse

/// FUSE_DEV_IOC_CLONE: makes `fd` a further channel of the session behind `session_fd`. 0 or -errno.
int o3_fuse_clone(int fd, int session_fd);

// MARK: Descriptors through a Unix socket (SCM_RIGHTS)

enum { o3_maximum_descriptors = 80 };
/// Sends one message of a SOCK_SEQPACKET socket, with up to `o3_maximum_descriptors` descriptors. Returns the
/// bytes sent, or -errno.
int64_t o3_send_descriptors(int socket, const void *bytes, size_t length, const int32_t *descriptors, int32_t count);
/// Waits for one message. Its descriptors, closed on exec, are put into `descriptors` and counted in `count`, which
/// holds the room there on entry; what has no room is closed. Returns the bytes received (0: the other end is
/// gone), or -errno; -EMSGSIZE for a message that was cut.
int64_t o3_receive_descriptors(int socket, void *bytes, size_t length, int32_t *descriptors, int32_t *count);
/// A pair of connected SOCK_SEQPACKET sockets, closed on exec. Returns 0 or -errno.
int o3_socket_pair(int32_t ends[2]);

// MARK: CRC32C (Castagnoli) by instruction

#if defined(__x86_64__)
static inline int o3_has_crc32c_instruction(void) { return __builtin_cpu_supports("sse4.2"); }
__attribute__((target("sse4.2"))) static inline uint64_t o3_crc32c_u64(uint64_t crc, uint64_t value) {
    return __builtin_ia32_crc32di(crc, value);
}
__attribute__((target("sse4.2"))) static inline uint32_t o3_crc32c_u8(uint32_t crc, uint8_t value) {
    return __builtin_ia32_crc32qi(crc, value);
}
/// The register state after `length` bytes; the caller inverts before and after.
__attribute__((target("sse4.2"))) static inline uint32_t o3_crc32c_bytes(
    uint32_t state, const uint8_t *bytes, size_t length) {
    uint64_t crc = state;
    while (length >= 8) {
        uint64_t word;
        __builtin_memcpy(&word, bytes, 8);
        crc = __builtin_ia32_crc32di(crc, word);
        bytes += 8;
        length -= 8;
    }
    uint32_t tail = (uint32_t)crc;
    while (length-- > 0) tail = __builtin_ia32_crc32qi(tail, *bytes++);
    return tail;
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
static inline int o3_has_crc32c_instruction(void) { return 1; }
static inline uint32_t o3_crc32c_bytes(uint32_t state, const uint8_t *bytes, size_t length) {
    while (length >= 8) {
        uint64_t word;
        __builtin_memcpy(&word, bytes, 8);
        state = __crc32cd(state, word);
        bytes += 8;
        length -= 8;
    }
    while (length-- > 0) state = __crc32cb(state, *bytes++);
    return state;
}
#else
static inline int o3_has_crc32c_instruction(void) { return 0; }
static inline uint32_t o3_crc32c_bytes(uint32_t state, const uint8_t *bytes, size_t length) {
    (void)bytes; (void)length;
    return state;
}
#endif
