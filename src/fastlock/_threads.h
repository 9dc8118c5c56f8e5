/* A thread that Python does not know, and bells to wake it, for the compiled heartbeat.
 * Law: no state, no allocation, nothing of Python. Times are nanoseconds. */
#ifndef FASTLOCK_THREADS_H
#define FASTLOCK_THREADS_H

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

/* A condition variable whose waits run on the monotonic clock where the system offers it. */
static inline int fl_bell_init(pthread_cond_t *bell) {
#ifdef __APPLE__
    return pthread_cond_init(bell, NULL);
#else
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc != 0) return rc;
    rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (rc == 0) rc = pthread_cond_init(bell, &attr);
    pthread_condattr_destroy(&attr);
    return rc;
#endif
}
static inline void fl_bell_wait(pthread_cond_t *bell, pthread_mutex_t *mutex, long long ns) {
    struct timespec when;
    if (ns < 0) ns = 0;
#ifdef __APPLE__
    when.tv_sec = ns / 1000000000; when.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait_relative_np(bell, mutex, &when);
#else
    clock_gettime(CLOCK_MONOTONIC, &when);
    ns += when.tv_nsec;
    when.tv_sec += ns / 1000000000; when.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(bell, mutex, &when);
#endif
}
/* No signal's handler runs in the thread: the main thread waits for signals. */
static inline int fl_thread_start(pthread_t *thread, void *(*body)(void *), void *arg) {
    sigset_t all, before;
    pthread_attr_t attr;
    size_t stack = 256 * 1024;
    int rc = pthread_attr_init(&attr);
    if (rc != 0) return rc;
    if (stack < (size_t)PTHREAD_STACK_MIN) stack = (size_t)PTHREAD_STACK_MIN;
    pthread_attr_setstacksize(&attr, stack);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(thread, &attr, body, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return rc;
}
/* Of the calling thread, as top and gdb show it. */
static inline void fl_thread_name(const char *name) {
#ifdef __linux__
    prctl(PR_SET_NAME, name, 0, 0, 0);
#else
    (void)name;
#endif
}
/* Seconds for sleeping: as long as the machine is awake. */
static inline double fl_steady(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
