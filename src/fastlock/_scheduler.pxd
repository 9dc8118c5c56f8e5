# What the compiled Heartbeat needs of its Scheduler.

cimport cython

from fastlock._beats cimport Entry, Heap, News
from fastlock._codec cimport Reply

cdef extern from "_threads.h":
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass

cdef enum:
    NAP = 1             # s: how late the end of a suspend may be noticed

cdef enum Asking:
    CONNECTED, ASKING, ASKED


cdef class Scheduler:
    cdef pthread_mutex_t mutex
    cdef pthread_cond_t bell        # wakes the thread
    cdef pthread_cond_t told        # wakes who waits for news
    cdef pthread_cond_t landed      # wakes who waits for an answer
    cdef pthread_t thread
    cdef bint running
    cdef int stopped
    cdef int epoch                  # of forks
    cdef double patience
    cdef double wakes               # when the thread looks again by itself
    cdef Heap due
    cdef Heap ends
    cdef long long numbers
    cdef unsigned long long renewals  # usual replies in time
    cdef Entry *first_news
    cdef Entry *last_news
    cdef void *pipe                 # NULL: none, or it has ended
    cdef void *used                 # by the thread, now
    cdef Asking asking
    cdef Entry **batch              # the thread's
    cdef char *wire                 # the thread's
    cdef size_t room

    # The mutex is not held.
    cdef void halt(self) noexcept nogil
    cdef void wait_for_end(self) noexcept nogil
    # The mutex is held.
    cdef bint start(self) noexcept nogil
    cdef void plan(self, Entry *entry, double due) noexcept nogil
    cdef void tell(self, Entry *entry, News news) noexcept nogil
    cdef void finish(self, Entry *entry, News news) noexcept nogil
    cdef void look_for_ends(self) noexcept nogil
    # The thread's.
    cdef void run(self) noexcept nogil
    cdef void ask(self) noexcept nogil
    cdef void send_due(self, double now) noexcept nogil
    cdef bint write(self, Entry *entry, size_t *size) noexcept nogil
    cdef void land_all(self, Reply *chain, int count, double sent_at, double now) noexcept nogil
    cdef bint land(self, Entry *entry, Reply *reply, double sent_at, double now) noexcept nogil
