
/*
 * A disk that is slow or fails, and a clock that is wrong, for LD_PRELOAD.  The
 * disk concerns descriptors and mappings of files named data.mdb alone.  It
 * does what the file named by ASANA_SHIM says at each call:
 *
 *     delay_ms=N    a sync takes N milliseconds longer
 *     stuck=N       the Nth sync and those after it end when this is changed
 *     write=ERRNO   writes fail
 *     sync=ERRNO    syncs fail
 *     dsync=ERRNO   writes to O_DSYNC descriptors are done and then fail
 *     short=1       half of the bytes are written
 *     ahead=N       the time of day is N seconds later
 *
 * A write to an O_DSYNC descriptor is a sync as well, for the delay and for
 * the count: each adds a line to the file ASANA_SHIM with the suffix .syncs.
 *
 * If there is a file with the suffix .disk, it gets what was synced, and that
 * alone: it is what a power cut would leave.
 */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>


/* LMDB writes its two meta pages, and these alone, to O_DSYNC descriptors */
#define METAS  (2 * 4096)
#define WHOLE  ((off64_t) 1 << 40)


typedef struct {
    long  delay_ms;
    long  stuck;
    long  write;
    long  sync;
    long  dsync;
    long  half;
    long  ahead;
} faults_t;


static char  control[4096];
static char  syncs[4096 + 8];
static char  disk[4096 + 8];

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off64_t);
static int (*real_fdatasync)(int);
static int (*real_fsync)(int);
static int (*real_msync)(void *, size_t, int);
static int (*real_gettimeofday)(struct timeval *, void *);


static void __attribute__((constructor))
init(void)
{
    char  *path;

    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_pwritev = dlsym(RTLD_NEXT, "pwritev64");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_msync = dlsym(RTLD_NEXT, "msync");
    real_gettimeofday = dlsym(RTLD_NEXT, "gettimeofday");

    /* nginx clears its environment */

    path = getenv("ASANA_SHIM");

    if (path) {
        snprintf(control, sizeof(control), "%s", path);
        snprintf(syncs, sizeof(syncs), "%s.syncs", control);
        snprintf(disk, sizeof(disk), "%s.disk", control);
    }
}


static long
value(const char *text, const char *name)
{
    const char  *p;

    /* each name is preceded by a line feed */

    p = strstr(text, name);

    return p ? atol(p + strlen(name)) : 0;
}


static void
faults(faults_t *f)
{
    int      fd, saved;
    char     text[256];
    ssize_t  n;

    saved = errno;
    text[0] = '\n';
    n = 0;

    fd = open(control, O_RDONLY|O_CLOEXEC);

    if (fd != -1) {
        n = read(fd, text + 1, sizeof(text) - 2);
        close(fd);
    }

    text[n > 0 ? n + 1 : 1] = '\0';

    f->delay_ms = value(text, "\ndelay_ms=");
    f->stuck = value(text, "\nstuck=");
    f->write = value(text, "\nwrite=");
    f->sync = value(text, "\nsync=");
    f->dsync = value(text, "\ndsync=");
    f->half = value(text, "\nshort=");
    f->ahead = value(text, "\nahead=");

    errno = saved;
}


static int
ends(const char *path, const char *end)
{
    size_t  n, len;

    n = strlen(path);
    len = strlen(end);

    return n >= len && strcmp(path + n - len, end) == 0;
}


static int
is_store(const char *path)
{
    return ends(path, "/data.mdb") || ends(path, "/data.mdb (deleted)");
}


static int
of_store(int fd)
{
    int      saved;
    char     name[64], path[4096];
    ssize_t  n;

    if (control[0] == '\0') {
        return 0;
    }

    saved = errno;

    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    n = readlink(name, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = '\0';

    errno = saved;

    return is_store(path);
}


static int
maps_store(void *addr)
{
    int            found;
    char           line[4200];
    FILE          *maps;
    unsigned long  from, to, at;

    found = 0;
    at = (unsigned long) addr;

    maps = control[0] ? fopen("/proc/self/maps", "re") : NULL;

    if (maps == NULL) {
        return 0;
    }

    while (!found && fgets(line, sizeof(line), maps)) {
        line[strcspn(line, "\n")] = '\0';
        found = sscanf(line, "%lx-%lx", &from, &to) == 2
                && from <= at && at < to && is_store(line);
    }

    fclose(maps);

    return found;
}


static void
slow(faults_t *f)
{
    int              fd;
    long             n;
    struct stat      st;
    struct timespec  ts;

    n = 0;

    fd = open(syncs, O_WRONLY|O_APPEND|O_CLOEXEC);

    if (fd != -1) {
        (void) !real_write(fd, "sync\n", 5);

        if (fstat(fd, &st) == 0) {
            n = st.st_size / 5;
        }

        close(fd);
    }

    ts.tv_sec = f->delay_ms / 1000;
    ts.tv_nsec = f->delay_ms % 1000 * 1000000;

    while (nanosleep(&ts, &ts) == -1 && errno == EINTR) { /* void */ }

    while (f->stuck && f->stuck <= n) {
        usleep(5000);
        faults(f);
    }
}


/* copies the first so many bytes to where a power cut does not reach them */

static void
persist(int fd, off64_t size)
{
    int      from, to, saved;
    char     name[64], buf[65536];
    ssize_t  n;
    off64_t  offset;

    saved = errno;

    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);

    to = open(disk, O_WRONLY|O_CLOEXEC);
    from = (to == -1) ? -1 : open(name, O_RDONLY|O_CLOEXEC);

    for (offset = 0; from != -1 && offset < size; offset += n) {

        n = size - offset < (off64_t) sizeof(buf) ? size - offset
                                                  : (off64_t) sizeof(buf);
        n = pread64(from, buf, n, offset);

        if (n <= 0 || real_pwrite(to, buf, n, offset) != n) {
            break;
        }
    }

    if (from != -1) {
        close(from);
    }

    if (to != -1) {
        close(to);
    }

    errno = saved;
}


static int
synced(int fd, int rc)
{
    if (rc == 0 && of_store(fd)) {
        persist(fd, WHOLE);
    }

    return rc;
}


static int
sync_fault(void)
{
    faults_t  f;

    faults(&f);
    slow(&f);

    errno = f.sync;

    return f.sync ? -1 : 0;
}


static int
write_fault(faults_t *f)
{
    faults(f);

    errno = f->write;

    return f->write ? -1 : 0;
}


static ssize_t
written(int fd, faults_t *f, ssize_t n)
{
    int  flags, saved;

    saved = errno;
    flags = fcntl(fd, F_GETFL);

    if (flags != -1 && (flags & O_DSYNC)) {
        slow(f);

        if (f->dsync) {
            saved = f->dsync;
            n = -1;

        } else {
            persist(fd, METAS);
        }
    }

    errno = saved;

    return n;
}


/* a part of the first piece only is short enough */

static size_t
half_of(const struct iovec *iov)
{
    return iov->iov_len > 1 ? iov->iov_len / 2 : iov->iov_len;
}


ssize_t
write(int fd, const void *buf, size_t n)
{
    faults_t  f;

    if (!of_store(fd)) {
        return real_write(fd, buf, n);
    }

    if (write_fault(&f)) {
        return -1;
    }

    return written(fd, &f, real_write(fd, buf, f.half ? n / 2 : n));
}


ssize_t
pwrite64(int fd, const void *buf, size_t n, off64_t offset)
{
    faults_t  f;

    if (!of_store(fd)) {
        return real_pwrite(fd, buf, n, offset);
    }

    if (write_fault(&f)) {
        return -1;
    }

    return written(fd, &f, real_pwrite(fd, buf, f.half ? n / 2 : n, offset));
}


ssize_t
pwrite(int fd, const void *buf, size_t n, off_t offset)
{
    return pwrite64(fd, buf, n, offset);
}


ssize_t
writev(int fd, const struct iovec *iov, int n)
{
    faults_t  f;

    if (!of_store(fd)) {
        return real_writev(fd, iov, n);
    }

    if (write_fault(&f)) {
        return -1;
    }

    return written(fd, &f,
                   f.half ? real_write(fd, iov->iov_base, half_of(iov))
                          : real_writev(fd, iov, n));
}


ssize_t
pwritev64(int fd, const struct iovec *iov, int n, off64_t offset)
{
    faults_t  f;

    if (!of_store(fd)) {
        return real_pwritev(fd, iov, n, offset);
    }

    if (write_fault(&f)) {
        return -1;
    }

    return written(fd, &f,
                   f.half ? real_pwrite(fd, iov->iov_base, half_of(iov),
                                        offset)
                          : real_pwritev(fd, iov, n, offset));
}


ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
    return pwritev64(fd, iov, n, offset);
}


int
fdatasync(int fd)
{
    return (of_store(fd) && sync_fault()) ? -1
           : synced(fd, real_fdatasync(fd));
}


int
fsync(int fd)
{
    return (of_store(fd) && sync_fault()) ? -1 : synced(fd, real_fsync(fd));
}


int
msync(void *addr, size_t n, int flags)
{
    return (maps_store(addr) && sync_fault()) ? -1
           : real_msync(addr, n, flags);
}


int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    int       rc;
    faults_t  f;

    rc = real_gettimeofday(tv, tz);

    if (rc == 0) {
        faults(&f);
        tv->tv_sec += f.ahead;
    }

    return rc;
}
