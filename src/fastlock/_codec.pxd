# What the compiled Pipe and Straight need of the compiled decoder.

from fastlock._hiredis cimport redisReader

# One parsed reply, or several equal ones in a row. Text of ``size`` bytes, or ``size``
# pointers to items, follows the struct in the same allocation.
cdef struct Reply:
    int kind            # REDIS_REPLY_*
    Py_ssize_t times    # how many top-level replies it stands for; 0: a static model
    const Reply *model  # what it is a copy of, or NULL
    size_t size
    long long integer   # of INTEGER and BOOL
    double real         # of DOUBLE
    Reply *next         # the next top-level reply of the same owner

cdef inline char *text_of(Reply *reply) noexcept nogil:
    return <char *>(reply + 1)

# hiredis's reader and the limits it lacks; the reader's privdata.
cdef struct Codec:
    redisReader *reader
    size_t left         # bytes this top-level reply may still cost
    size_t spent        # what all replies so far have cost, but for pushes
    bint failed

cdef int open_codec(Codec *codec) except -1
cdef void close_codec(Codec *codec) noexcept nogil
cdef bint feed_codec(Codec *codec, const char *data, size_t size) noexcept nogil
cdef int next_replies(Codec *codec, Reply **chain) noexcept nogil
cdef Reply *split_reply(Reply *reply, Py_ssize_t times) noexcept nogil
cdef bint is_aggregate(int kind) noexcept nogil
cdef void free_reply(void *reply) noexcept nogil
cdef void free_chain(Reply *reply) noexcept nogil
cdef list values_of(Reply *chain)
