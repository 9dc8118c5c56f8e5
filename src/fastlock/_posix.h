/* Threads, clocks and sockets for _core.pyx: what POSIX systems do differently, in one place.
 * Law: no state, no allocation, nothing of Python. Times are nanoseconds. */
#ifndef FASTLOCK_POSIX_H
#define FASTLOCK_POSIX_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
/* Condition waits run on the monotonic clock where the system offers it. */
static int fl_cond_init(pthread_cond_t *cond) {
#ifdef __APPLE__
    return pthread_cond_init(cond, NULL);
#else
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc == 0) rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (rc == 0) rc = pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
    return rc;
#endif
}
static void fl_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, long long ns) {
    struct timespec when;
#ifdef __APPLE__
    when.tv_sec = ns / 1000000000; when.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait_relative_np(cond, mutex, &when);
#else
    clock_gettime(CLOCK_MONOTONIC, &when);
    ns += when.tv_nsec;
    when.tv_sec += ns / 1000000000; when.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(cond, mutex, &when);
#endif
}
static long long fl_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}
/* Leases are measured on it, in seconds: it counts suspended time, and never jumps. */
static double fl_clock(void) {
    struct timespec now;
#if defined(CLOCK_BOOTTIME)
    clock_gettime(CLOCK_BOOTTIME, &now);
#else  /* macOS: CLOCK_MONOTONIC includes sleep */
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
static int fl_poll(int fd, int events, long long ns) {
    struct pollfd p = {fd, (short)events, 0};
    int rc = poll(&p, 1, (int)((ns + 999999) / 1000000));
    return rc > 0 ? p.revents : 0;
}
static void fl_receive_slice(int fd, long us) {
    struct timeval tv = {0, us};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
}
/* A flag that is set once and for all, and looked at without the mutex. */
static void fl_raise_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELEASE); }
static int fl_flag(const int *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
static void errno_set(int value) { errno = value; }
static void fl_reset_on_close(int fd) {
    struct linger on = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &on, sizeof on);
}

#endif
