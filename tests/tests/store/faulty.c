/* Stands between SQLite and the file system of one process (LD_PRELOAD): counts what is written and synced, fails or ends the
   process at the n-th, and keeps a log of all of it, from which a test builds the files as a loss of power would leave them.

   FREEHOLD_FAULTY_AT     the operation that fails, from 1; 0 or absent: none
   FREEHOLD_FAULTY_HOW    eio, enospc, kill (before it), torn (after half of it), answer (an error; killed once somebody was told of it)
   FREEHOLD_FAULTY_STAYS  set: every later one fails, too
   FREEHOLD_FAULTY_LOG    where to keep the log: kind, file, offset, length, bytes */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define FILES 4096

static char files[FILES]; /* d database, w write-ahead log, j journal, a acknowledgements, f folder; 0 anything else */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_file = -1;
static unsigned long done, fail_at;
static const char *how;
static int stays;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_unlink)(const char *);

__attribute__((constructor)) static void begin(void) {
    real_open = dlsym(RTLD_NEXT, "open");
    real_close = dlsym(RTLD_NEXT, "close");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    const char *at = getenv("FREEHOLD_FAULTY_AT"), *place = getenv("FREEHOLD_FAULTY_LOG");
    fail_at = at ? strtoul(at, NULL, 10) : 0;
    how = getenv("FREEHOLD_FAULTY_HOW");
    stays = getenv("FREEHOLD_FAULTY_STAYS") != NULL;
    if (place) log_file = real_open(place, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int ends(const char *name, const char *with) {
    size_t n = strlen(name), m = strlen(with);
    return n >= m && strcmp(name + n - m, with) == 0;
}

static char kind_of(const char *name) {
    if (ends(name, ".db")) return 'd';
    if (ends(name, ".db-wal")) return 'w';
    if (ends(name, ".db-journal")) return 'j';
    if (ends(name, ".db.acks")) return 'a';
    if (ends(name, "/faulty")) return 'f';
    return 0;
}

static char kind(int fd) { return fd >= 0 && fd < FILES ? files[fd] : 0; }

static void all(const void *bytes, size_t length) {
    const char *at = bytes;
    while (length > 0) {
        ssize_t n = real_write(log_file, at, length);
        if (n <= 0) abort();
        at += n;
        length -= (size_t)n;
    }
}

static void note(char what, char file, uint64_t offset, const void *bytes, uint64_t length) {
    if (log_file < 0) return;
    int kept = errno;
    char head[18] = {what, file};
    memcpy(head + 2, &offset, 8);
    memcpy(head + 10, &length, 8);
    pthread_mutex_lock(&lock);
    all(head, sizeof head);
    if (bytes) all(bytes, length);
    pthread_mutex_unlock(&lock);
    errno = kept;
}

/* 0: go on. -1: fail, errno is set. 1: do half of it, then end. */
static int fate(int is_write) {
    unsigned long n = __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
    if (fail_at == 0 || n < fail_at || (n > fail_at && !stays)) return 0;
    if (!strcmp(how, "kill")) raise(SIGKILL);
    if (!strcmp(how, "torn")) return 1;
    errno = !strcmp(how, "enospc") && is_write ? ENOSPC : EIO;
    return -1;
}

static int opened(const char *name, int flags, mode_t mode) {
    char what = kind_of(name);
    struct stat there;
    int is_new = what && (flags & O_CREAT) && stat(name, &there) != 0;
    int fd = real_open(name, flags, mode);
    if (fd >= 0 && fd < FILES) files[fd] = what;
    if (fd >= 0 && is_new) note('C', what, 0, NULL, 0);
    return fd;
}

static mode_t mode_of(int flags, va_list more) { return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(more, int) : 0; }

int open(const char *name, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, more);
    va_end(more);
    return opened(name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, more);
    va_end(more);
    return opened(name, flags | O_LARGEFILE, mode);
}

int close(int fd) {
    if (fd >= 0 && fd < FILES) files[fd] = 0;
    return real_close(fd);
}

static ssize_t written(int fd, const void *bytes, size_t length, off_t offset, int at_offset) {
    char file = kind(fd);
    if (file && file != 'a') {
        if (!at_offset) offset = lseek(fd, 0, SEEK_CUR);
        int half = fate(1);
        if (half < 0) return -1;
        if (half) {
            if (at_offset) real_pwrite(fd, bytes, length / 2, offset);
            else real_write(fd, bytes, length / 2);
            raise(SIGKILL);
        }
    }
    ssize_t n = at_offset ? real_pwrite(fd, bytes, length, offset) : real_write(fd, bytes, length);
    if (file && n > 0) note(file == 'a' ? 'A' : 'W', file, (uint64_t)offset, bytes, (uint64_t)n);
    if (file == 'a' && fail_at > 0 && done >= fail_at && !strcmp(how, "answer")) raise(SIGKILL);
    return n;
}

ssize_t write(int fd, const void *bytes, size_t length) { return written(fd, bytes, length, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return written(fd, bytes, length, offset, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) { return written(fd, bytes, length, offset, 1); }

static int synced(int fd, int (*real)(int)) {
    char file = kind(fd);
    if (!file) return real(fd);
    int half = fate(0);
    if (half < 0) return -1;
    int outcome = real(fd);
    if (half) raise(SIGKILL);
    if (outcome == 0) note('S', file, 0, NULL, 0);
    return outcome;
}

int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

static int cut(int fd, off_t length) {
    char file = kind(fd);
    if (!file) return real_ftruncate(fd, length);
    int half = fate(1);
    if (half < 0) return -1;
    int outcome = real_ftruncate(fd, length);
    if (half) raise(SIGKILL);
    if (outcome == 0) note('T', file, (uint64_t)length, NULL, 0);
    return outcome;
}

int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off_t length) { return cut(fd, length); }

int unlink(const char *name) {
    char file = kind_of(name);
    int outcome = real_unlink(name);
    if (outcome == 0 && file) note('U', file, 0, NULL, 0);
    return outcome;
}
