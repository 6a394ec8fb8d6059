/* What a machine does to a process, for tests; preloaded before chatd (machine.py builds it).
 *
 * MACHINE_CLOCK=FILE     the wall clock is off by the 8 bytes in it, nanoseconds; mapped, so that it jumps when they change.
 *                        The monotonic clock stays as it is.
 * MACHINE_DISK=DIR       what of the files directly in it would be there after a loss of power is kept in
 * MACHINE_PLATTER=DIR    files of the same names: what was written, by whatever process, becomes part of them when its file is
 *                        synced, by whatever process, and not before: also what a process wrote that was killed since. What waits
 *                        is listed beside each, in a file ".NAME". Names are kept at once, as a journalled file system does.
 * MACHINE_FORGETS=END    syncs of files whose names end so do nothing, and say that they did.
 * MACHINE_SYNC_MS=N      each sync takes so much longer.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
REAL(int, real_truncate, int, off_t);
REAL(int, real_sync, int);

enum { PIECE = 65536 };
struct range { off_t from, to; };

static const char *disk, *platter, *forgets;
static long sync_ms;
static volatile int64_t *offset;

__attribute__((constructor)) static void begin(void)
{
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
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

/* The list of what waits for a sync, locked: every process on this disk has the same. */
static int waiting(const char *name)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/.%s", platter, name);
    int list = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (list < 0 || flock(list, LOCK_EX))
        abort();
    return list;
}

static void note(int fd, off_t from, size_t size)
{
    char path[PATH_MAX];
    const char *name = name_of(fd, path);
    if (!name || !size)
        return;
    struct range range = {from, from + (off_t)size};
    int list = waiting(name);
    if (real_pwrite(list, &range, sizeof range, lseek(list, 0, SEEK_END)) != sizeof range)
        abort();
    close(list);
}

/* Noted before, for the process may be killed in between; and after, for somebody may have synced in between. */
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at)
{
    note(fd, at, size);
    ssize_t done = real_pwrite(fd, data, size, at);
    int fault = errno;
    if (done > 0)
        note(fd, at, (size_t)done);
    errno = fault;
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

static void keep(int fd, const char *name)
{
    char path[PATH_MAX], piece[PIECE];
    struct stat found;
    struct range range;
    int list = waiting(name);
    snprintf(path, sizeof path, "%s/%s", platter, name);
    int kept = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (kept < 0 || fstat(fd, &found))
        abort();
    for (off_t next = 0; pread(list, &range, sizeof range, next) == sizeof range; next += sizeof range)
        for (off_t at = range.from; at < range.to;) {
            size_t most = range.to - at < PIECE ? (size_t)(range.to - at) : PIECE;
            ssize_t size = pread(fd, piece, most, at);
            if (size <= 0)
                break; /* cut off meanwhile */
            if (real_pwrite(kept, piece, size, at) != size)
                abort();
            at += size;
        }
    if (real_truncate(kept, found.st_size) || real_truncate(list, 0))
        abort();
    close(kept);
    close(list);
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
    if (result == 0 && name)
        keep(fd, name);
    return result;
}

int fdatasync(int fd) { return synced(fd); }
int fsync(int fd) { return synced(fd); }
