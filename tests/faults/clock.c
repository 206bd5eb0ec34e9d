/* Another wall clock for one process: LD_PRELOAD this, and AIOS_TEST_CLOCK names a file that holds seconds to add.

   Only what Python itself asks is answered wrongly. Libraries such as gRPC hand deadlines on the true clock to the
   kernel; a wrong time there would be a hang of our own making, which no clock that is set causes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int (*clock_gettime_t)(clockid_t, struct timespec *);

static clock_gettime_t true_clock;
static volatile const int64_t *offset;

__attribute__((constructor)) static void start(void) {
    true_clock = (clock_gettime_t)dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("AIOS_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        offset = mapped;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!true_clock)
        true_clock = (clock_gettime_t)dlsym(RTLD_NEXT, "clock_gettime");
    int failed = true_clock(id, now);
    Dl_info caller;
    if (!failed && id == CLOCK_REALTIME && offset && *offset &&
        dladdr(__builtin_return_address(0), &caller) && caller.dli_fname) {
        const char *slash = strrchr(caller.dli_fname, '/');
        const char *name = slash ? slash + 1 : caller.dli_fname;
        if (!strncmp(name, "python", 6) || !strncmp(name, "libpython", 9))
            now->tv_sec += *offset;
    }
    return failed;
}
