# What the compiled Pipe needs of the compiled codec.

from fastlock._hiredis cimport redisReader

# One parsed reply. Text of ``size`` bytes, or ``size`` pointers to items, follows
# the struct in the same allocation.
cdef struct Reply:
    int kind            # REDIS_REPLY_*
    size_t size
    long long integer   # of INTEGER and BOOL
    double real         # of DOUBLE
    Reply *next         # the next top-level reply of the same owner

# hiredis's reader and the limits it lacks; the reader's privdata.
cdef struct Codec:
    redisReader *reader
    size_t left         # bytes this top-level reply may still cost
    bint failed

cdef int open_codec(Codec *codec) except -1
cdef void close_codec(Codec *codec) noexcept nogil
cdef bint feed_codec(Codec *codec, const char *data, size_t size) noexcept nogil
cdef int next_reply(Codec *codec, Reply **reply) noexcept nogil
cdef void free_reply(void *reply) noexcept nogil
cdef void free_chain(Reply *reply) noexcept nogil
cdef list values_of(Reply *chain)
