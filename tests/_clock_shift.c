/* A wall clock that a test moves, for servers: LD_PRELOAD it, and name in CLOCK_SHIFT a file that
   holds an int, the seconds to add. The monotonic clock goes on as it is.

   Law: no memory is asked for: allocators call clock_gettime before they are ready. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int shift(void)
{
    static volatile const int *shared;

    if (shared == NULL) {
        const char *path = getenv("CLOCK_SHIFT");
        int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        void *mapped = MAP_FAILED;

        if (file >= 0)
            mapped = mmap(NULL, sizeof(int), PROT_READ, MAP_SHARED, file, 0);
        if (mapped == MAP_FAILED)
            _exit(99);
        close(file);
        shared = mapped;
    }
    return *shared;
}

int clock_gettime(clockid_t which, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, which, now);

    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec exact;

    clock_gettime(CLOCK_REALTIME, &exact);
    if (now != NULL)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
