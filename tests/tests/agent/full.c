/* Stands between a control plane on SQLite and its disk (LD_PRELOAD): as long as the file that FREEHOLD_FULL_WHILE names is there,
   the files of the database do not grow, as on a disk without room. What they hold can be overwritten. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static const char *marker;
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);

__attribute__((constructor)) static void begin(void) {
    marker = getenv("FREEHOLD_FULL_WHILE");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
}

/* Whether writing up to here would take room that is not there. */
static int is_refused(int fd, off_t end) {
    char link[64], name[4096];
    struct stat now;
    int kept = errno, refused = 0;
    if (marker && access(marker, F_OK) == 0 && fstat(fd, &now) == 0 && S_ISREG(now.st_mode) && end > now.st_size) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, name, sizeof name - 1);
        if (length > 0) {
            name[length] = 0;
            refused = strstr(name, ".db") != NULL;
        }
    }
    errno = refused ? ENOSPC : kept;
    return refused;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    off_t at = marker ? lseek(fd, 0, SEEK_CUR) : -1;
    if (at >= 0 && is_refused(fd, at + (off_t)length)) return -1;
    return real_write(fd, bytes, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    if (is_refused(fd, at + (off_t)length)) return -1;
    return real_pwrite(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) { return pwrite(fd, bytes, length, at); }

int ftruncate(int fd, off_t length) {
    if (is_refused(fd, length)) return -1;
    return real_ftruncate(fd, length);
}

int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }
