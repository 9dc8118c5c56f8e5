# What the compiled Straight and Heartbeat need of the compiled core: the Pipe.

cimport cython

from fastlock._codec cimport Reply
from fastlock._mux cimport SIGNALS, Mux, Outcome, Place


@cython.final
cdef class Pipe(Mux):
    cdef object __weakref__
    cdef str told           # the reason given to abort()

    cdef Outcome ask(
        self, const char *text, size_t size, int count, double timeout, Reply **chain, bint *sent
    ) except? SIGNALS
    cdef Outcome submit(
        self, const char *text, size_t size, int count, Place **made
    ) noexcept nogil
    cdef Outcome finish(
        self, Place *place, double timeout, Reply **chain, bint *sent
    ) except? SIGNALS
    cdef Outcome go_on(
        self, Place *place, long long deadline, bint main, Reply **chain, bint *sent
    ) except? SIGNALS
    cdef object failure(self, Outcome outcome, Reply *chain, bint sent)
    cdef int end(self, str reason, bint reset) except -1
    cdef str why(self)
