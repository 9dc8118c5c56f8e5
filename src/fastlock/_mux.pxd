# What the compiled Pipe, Straight and Heartbeat need of the compiled Mux, and what a call came to.

cimport cython

from fastlock._codec cimport Codec, Reply

cdef extern from "_posix.h":
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct fl_parker:
        pass

cdef enum State:
    WAITING, DONE, FAILED, ABANDONED

cdef enum Outcome:
    ANSWERED, ENDED, TIMED_OUT, SIGNALS, NO_MEMORY

# One caller's place in the order of answers. Places are recycled, never freed before
# the Pipe, so a late signal to one can only be a spurious wake-up. All under the mutex.
cdef struct Place:
    Place *next
    Place *next_to_wake     # the leader's alone, also after its owner has recycled the place
    int want
    int got
    State state
    bint away               # its owner runs signal handlers: it cannot lead now
    long long begin         # stream offset of the first byte
    long long number        # of a deferred command, which has no owner; 0: any other
    long long usual         # a deferred command's usual answer
    Reply *first            # its replies, in order
    Reply *last
    fl_parker parker        # its owner sleeps here

# Bytes queued for the socket. ``start`` to ``size`` are not yet written.
cdef struct Buffer:
    char *data
    size_t start
    size_t size
    size_t room


cdef class Mux:
    cdef int fd
    cdef pthread_mutex_t mutex
    cdef Codec codec        # the leader's
    cdef size_t held        # the leader's: what the replies to the oldest place have cost so far
    cdef char *chunk        # the leader's
    cdef bint leading
    cdef bint reading       # the leader sits in a receive, or is about to
    cdef bint writing
    cdef int users          # threads inside; a broken Pipe's last one closes it
    cdef int unanswered     # places between head and tail
    cdef Place *head        # oldest unanswered
    cdef Place *tail
    cdef Place *spare
    cdef Place *kept        # deferred commands that were answered in an unusual way, oldest first
    cdef Place *last_kept
    cdef long long deferred  # numbers given out
    cdef long long done     # the highest one that is answered
    cdef Buffer out         # queued
    cdef int waiting        # places whose commands are in it
    cdef Buffer wire        # taken, being written; the writer's
    cdef long long queued   # stream offsets, in bytes
    cdef long long written
    cdef int ended          # a flag: set by fl_raise_flag alone
    cdef bint reset_on_close
    cdef int error          # errno of what ended it, 0 if none
    cdef const char *reason  # static text

    cdef Outcome enter(
        self, const char *text, size_t size, int count, Place **made
    ) noexcept nogil
    cdef bint leave(self, Place *place, Reply **chain) noexcept nogil
    cdef void fail(self, const char *reason, int error, bint reset=*) noexcept nogil
    cdef void close_if_unused(self) noexcept nogil
    cdef Place *new_place(self) noexcept nogil
    cdef void recycle(self, Place *place) noexcept nogil
    cdef void file_away(self, Place *place) noexcept nogil
    cdef void let_lead(self) noexcept nogil
    cdef Outcome wait(self, Place *place, long long deadline, bint main) noexcept nogil
    cdef bint lead(self, Place *place, long long deadline, bint main) noexcept nogil
    cdef ssize_t receive(self, long long wait, bint blocked) noexcept nogil
    cdef void digest(self, size_t size) noexcept nogil
    cdef void wake(self, Place *to_wake, int count) noexcept nogil
    cdef bint flush(self) noexcept nogil
    cdef bint exchange(
        self, const char *text, size_t size, int count, long long patience, const int *stop,
        Reply **chain
    ) noexcept nogil
