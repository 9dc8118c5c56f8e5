/* Threads, clocks and sockets for the compiled core: what POSIX systems do differently, in one place.
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
/* A place for one thread to sleep in until it is told to go on. Telling it before it sleeps is
 * not lost; it may also wake for no reason. Only its owner parks in it; anybody may unpark.
 * On Linux the word is a futex: unlike a condition variable it needs no mutex, whose unlocking
 * would cost one system call more for every sleep. */
#if defined(__linux__) && defined(__LP64__)
#include <linux/futex.h>
#include <sys/syscall.h>
enum { FL_ASLEEP = -1, FL_NOBODY = 0, FL_TOLD = 1 };
typedef struct { int word; } fl_parker;
static inline int fl_parker_init(fl_parker *p) {
    p->word = FL_NOBODY;
    return 0;
}
static inline void fl_parker_destroy(fl_parker *p) { (void)p; }
static inline void fl_park(fl_parker *p, long long ns) {
    struct timespec span;
    if (ns < 0) ns = 0;
    if (__atomic_sub_fetch(&p->word, 1, __ATOMIC_ACQUIRE) == FL_ASLEEP) {
        span.tv_sec = ns / 1000000000;
        span.tv_nsec = ns % 1000000000;
        syscall(SYS_futex, &p->word, FUTEX_WAIT_PRIVATE, FL_ASLEEP, &span, NULL, 0);
        __atomic_exchange_n(&p->word, FL_NOBODY, __ATOMIC_ACQUIRE);
    }
}
static inline void fl_unpark(fl_parker *p) {
    if (__atomic_exchange_n(&p->word, FL_TOLD, __ATOMIC_RELEASE) == FL_ASLEEP)
        syscall(SYS_futex, &p->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
#else
typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int told;
} fl_parker;
static inline int fl_parker_init(fl_parker *p) {
    int rc = pthread_mutex_init(&p->mutex, NULL);
    p->told = 0;
    if (rc != 0) return rc;
#ifdef __APPLE__
    rc = pthread_cond_init(&p->cond, NULL);
#else
    pthread_condattr_t attr;
    rc = pthread_condattr_init(&attr);
    if (rc == 0) rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (rc == 0) rc = pthread_cond_init(&p->cond, &attr);
    pthread_condattr_destroy(&attr);
#endif
    if (rc != 0) pthread_mutex_destroy(&p->mutex);
    return rc;
}
static inline void fl_parker_destroy(fl_parker *p) {
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->mutex);
}
static inline void fl_park(fl_parker *p, long long ns) {
    struct timespec when;
    if (ns < 0) ns = 0;
    pthread_mutex_lock(&p->mutex);
    if (!p->told) {
#ifdef __APPLE__
        when.tv_sec = ns / 1000000000;
        when.tv_nsec = ns % 1000000000;
        pthread_cond_timedwait_relative_np(&p->cond, &p->mutex, &when);
#else
        clock_gettime(CLOCK_MONOTONIC, &when);
        ns += when.tv_nsec;
        when.tv_sec += ns / 1000000000;
        when.tv_nsec = ns % 1000000000;
        pthread_cond_timedwait(&p->cond, &p->mutex, &when);
#endif
    }
    p->told = 0;
    pthread_mutex_unlock(&p->mutex);
}
static inline void fl_unpark(fl_parker *p) {
    pthread_mutex_lock(&p->mutex);
    p->told = 1;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->mutex);
}
#endif
static inline long long fl_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}
/* Leases are measured on it, in seconds: it counts suspended time, and never jumps. */
static inline double fl_clock(void) {
    struct timespec now;
#if defined(CLOCK_BOOTTIME)
    clock_gettime(CLOCK_BOOTTIME, &now);
#else  /* macOS: CLOCK_MONOTONIC includes sleep */
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
static inline int fl_poll(int fd, int events, long long ns) {
    struct pollfd p = {fd, (short)events, 0};
    int rc = poll(&p, 1, (int)((ns + 999999) / 1000000));
    return rc > 0 ? p.revents : 0;
}
static inline void fl_receive_slice(int fd, long us) {
    struct timeval tv = {0, us};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
}
/* A flag that is set once and for all, and looked at without the mutex. */
static inline void fl_raise_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELEASE); }
static inline int fl_flag(const int *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
static inline void errno_set(int value) { errno = value; }
static inline void fl_reset_on_close(int fd) {
    struct linger on = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &on, sizeof on);
}

#endif
