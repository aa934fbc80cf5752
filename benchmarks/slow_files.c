/* Preloaded into a process, it makes each open and each stat below a directory wait, and counts them.
 *
 * SLOW_FILES_ROOT is the directory, SLOW_FILES_COUNTS a file with room for two longs: opens and stats.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DESCRIPTORS = 1 << 16, DELAY_NS = 1000000 };

static const char *root;
static size_t root_length;
static long *counts;
static unsigned char is_below[DESCRIPTORS];

__attribute__((constructor)) static void begin(void) {
    root = getenv("SLOW_FILES_ROOT");
    root_length = root ? strlen(root) : 0;
    const char *path = getenv("SLOW_FILES_COUNTS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *shared = file < 0 ? MAP_FAILED : mmap(0, 2 * sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    counts = shared == MAP_FAILED ? 0 : shared;
    if (file >= 0) close(file);
}

static int descriptor_below(int fd) { return fd >= 0 && fd < DESCRIPTORS && is_below[fd]; }

static int below(int directory, const char *path) {
    if (!path || !*path || (*path != '/' && directory != AT_FDCWD)) return descriptor_below(directory);
    return root && !strncmp(path, root, root_length) && (!path[root_length] || path[root_length] == '/');
}

static void wait_as(int what, int is_slow) {
    if (!is_slow || !counts) return;
    __atomic_fetch_add(&counts[what], 1, __ATOMIC_RELAXED);
    nanosleep(&(struct timespec){0, DELAY_NS}, 0);
}

static int opened(int fd, int is_slow) {
    if (fd >= 0 && fd < DESCRIPTORS) is_below[fd] = is_slow;
    return fd;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MODE(after) \
    mode_t mode = 0; \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list list; \
        va_start(list, after); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    }
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        int is_slow = below(AT_FDCWD, path); \
        wait_as(0, is_slow); \
        return opened(NEXT(name)(path, flags, mode), is_slow); \
    }
#define OPENAT(name) \
    int name(int directory, const char *path, int flags, ...) { \
        MODE(flags) \
        int is_slow = below(directory, path); \
        wait_as(0, is_slow); \
        return opened(NEXT(name)(directory, path, flags, mode), is_slow); \
    }
#define STAT(name, type) \
    int name(const char *path, struct type *into) { \
        wait_as(1, below(AT_FDCWD, path)); \
        return NEXT(name)(path, into); \
    }
#define FSTAT(name, type) \
    int name(int fd, struct type *into) { \
        wait_as(1, descriptor_below(fd)); \
        return NEXT(name)(fd, into); \
    }
#define FSTATAT(name, type) \
    int name(int directory, const char *path, struct type *into, int flags) { \
        wait_as(1, below(directory, path)); \
        return NEXT(name)(directory, path, into, flags); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)
FSTAT(fstat, stat)
FSTAT(fstat64, stat64)
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)

int statx(int directory, const char *restrict path, int flags, unsigned mask, struct statx *restrict into) {
    wait_as(1, below(directory, path));
    return NEXT(statx)(directory, path, flags, mask, into);
}

/* As programs call them that were built for glibc before 2.33. */
int __xstat(int version, const char *path, struct stat *into) { return (void)version, stat(path, into); }
int __xstat64(int version, const char *path, struct stat64 *into) { return (void)version, stat64(path, into); }
int __lxstat(int version, const char *path, struct stat *into) { return (void)version, lstat(path, into); }
int __lxstat64(int version, const char *path, struct stat64 *into) { return (void)version, lstat64(path, into); }
int __fxstat(int version, int fd, struct stat *into) { return (void)version, fstat(fd, into); }
int __fxstat64(int version, int fd, struct stat64 *into) { return (void)version, fstat64(fd, into); }
