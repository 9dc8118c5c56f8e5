# What the compiled heartbeat needs of the compiled Pipe.

from fastlock._codec cimport Reply

cdef bint exchange(
    void *pipe, const char *text, size_t size, int count, long long patience, const int *stop,
    Reply **chain
) noexcept nogil
