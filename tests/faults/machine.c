/* What a machine does to a process, for tests; preloaded before chatd (machine.py builds it).
 *
 * MACHINE_CLOCK=FILE     the wall clock is off by the 8 bytes in it, nanoseconds; mapped, so that it jumps when they change.
 *                        The monotonic clock stays as it is.
 * MACHINE_DISK=DIR       what of the files directly in it would be there after a loss of power is kept in
 * MACHINE_PLATTER=DIR    files of the same names: what was written becomes part of them when its file is synced by the process
 *                        that wrote it, and not before. Names are kept at once, as a journalled file system does.
 * MACHINE_FORGETS=END    syncs of files whose names end so do nothing, and say that they did.
 * MACHINE_SYNC_MS=N      each sync takes so much longer.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(result, name, ...) static result (*name)(__VA_ARGS__)
REAL(int, real_clock, clockid_t, struct timespec *);
REAL(ssize_t, real_pwrite, int, const void *, size_t, off_t);
REAL(ssize_t, real_write, int, const void *, size_t);
REAL(int, real_truncate, int, off_t);
REAL(int, real_sync, int);

enum { FILES = 64, PIECE = 65536 };
struct range { off_t from, to; };
struct file { dev_t dev; ino_t ino; struct range *ranges; size_t count, room; };

static const char *disk, *platter, *forgets;
static long sync_ms;
static volatile int64_t *offset;
static struct file files[FILES];
static size_t known;
static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void)
{
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_truncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_sync = dlsym(RTLD_NEXT, "fdatasync");
    disk = getenv("MACHINE_DISK");
    platter = getenv("MACHINE_PLATTER");
    forgets = getenv("MACHINE_FORGETS");
    sync_ms = getenv("MACHINE_SYNC_MS") ? atol(getenv("MACHINE_SYNC_MS")) : 0;
    const char *clock = getenv("MACHINE_CLOCK");
    int fd = clock ? open(clock, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *seen = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
        offset = seen == MAP_FAILED ? NULL : seen;
        close(fd);
    }
}

/* --- the clock --------------------------------------------------------------------------------- */

int clock_gettime(clockid_t which, struct timespec *now)
{
    int result = real_clock(which, now);
    if (result == 0 && offset && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        int64_t all = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + *offset;
        now->tv_sec = all / 1000000000;
        now->tv_nsec = all % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec found;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now)
        *now = found.tv_sec;
    return found.tv_sec;
}

/* --- the disk ---------------------------------------------------------------------------------- */

/* The name of a file that lies directly in the disk's directory; NULL for all others. */
static const char *name_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    size_t root = disk ? strlen(disk) : 0;
    if (!root || !platter || size <= (ssize_t)root)
        return NULL;
    path[size] = 0;
    if (strncmp(path, disk, root) || path[root] != '/' || strchr(path + root + 1, '/'))
        return NULL;
    return path + root + 1;
}

static struct file *file_of(int fd)
{
    struct stat found;
    if (fstat(fd, &found))
        return NULL;
    for (size_t n = 0; n < known; n++)
        if (files[n].dev == found.st_dev && files[n].ino == found.st_ino)
            return &files[n];
    if (known == FILES)
        abort();
    files[known] = (struct file){.dev = found.st_dev, .ino = found.st_ino};
    return &files[known++];
}

static void note(int fd, off_t from, ssize_t size)
{
    char path[PATH_MAX];
    int before = errno;
    if (size > 0 && name_of(fd, path)) {
        pthread_mutex_lock(&owner);
        struct file *file = file_of(fd);
        if (file && file->count == file->room) {
            file->room = file->room ? 2 * file->room : 64;
            file->ranges = realloc(file->ranges, file->room * sizeof *file->ranges);
            if (!file->ranges)
                abort();
        }
        if (file)
            file->ranges[file->count++] = (struct range){from, from + size};
        pthread_mutex_unlock(&owner);
    }
    errno = before;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at)
{
    ssize_t done = real_pwrite(fd, data, size, at);
    note(fd, at, done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t write(int fd, const void *data, size_t size)
{
    ssize_t done = real_write(fd, data, size);
    if (disk && done > 0)
        note(fd, lseek(fd, 0, SEEK_CUR) - done, done);
    return done;
}

static void keep(int fd, const char *name)
{
    char path[PATH_MAX], piece[PIECE];
    struct stat found;
    snprintf(path, sizeof path, "%s/%s", platter, name);
    int kept = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    struct file *file = file_of(fd);
    if (kept < 0 || !file || flock(kept, LOCK_EX) || fstat(fd, &found)) /* another node may keep the same file */
        abort();
    for (size_t n = 0; n < file->count; n++)
        for (off_t at = file->ranges[n].from; at < file->ranges[n].to;) {
            size_t most = file->ranges[n].to - at < PIECE ? (size_t)(file->ranges[n].to - at) : PIECE;
            ssize_t size = pread(fd, piece, most, at);
            if (size <= 0)
                break; /* cut off meanwhile */
            if (real_pwrite(kept, piece, size, at) != size)
                abort();
            at += size;
        }
    file->count = 0;
    if (real_truncate(kept, found.st_size))
        abort();
    close(kept);
}

static int synced(int fd)
{
    char path[PATH_MAX];
    const char *name = name_of(fd, path);
    size_t size = name ? strlen(name) : 0, end = forgets ? strlen(forgets) : 0;
    if (sync_ms)
        nanosleep(&(struct timespec){sync_ms / 1000, sync_ms % 1000 * 1000000}, NULL);
    if (name && end && size >= end && !strcmp(name + size - end, forgets))
        return 0;
    int result = real_sync(fd);
    if (result == 0 && name) {
        pthread_mutex_lock(&owner);
        keep(fd, name);
        pthread_mutex_unlock(&owner);
    }
    return result;
}

int fdatasync(int fd) { return synced(fd); }
int fsync(int fd) { return synced(fd); }
