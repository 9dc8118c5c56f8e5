# What the compiled Pipe and Straight need of the compiled codec.

cimport cython

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

cdef enum:
    MOST_HOLES = 3

# The values of one command: where their texts are, and their sizes.
cdef struct Filling:
    const char *texts[MOST_HOLES]
    size_t sizes[MOST_HOLES]
    char digits[MOST_HOLES][24]


@cython.final
cdef class Prepared:
    cdef bytes text                     # the parts that stay, packed
    cdef int holes
    cdef size_t stops[MOST_HOLES]       # where in ``text`` each hole is
    cdef bint numeric[MOST_HOLES]

    cdef int weigh(self, Filling *filling, int hole, object value) except -1
    cdef size_t size(self, Filling *filling) noexcept
    cdef char *write(self, Filling *filling, char *at, int begin, int end) noexcept
    cdef char *finish(self, char *at) noexcept
    cdef bytes behind(self, object third)


@cython.final
cdef class Numbered:
    # No lock: the counter is atomic, and the rest never changes.
    cdef bytes prefix
    cdef bytes suffix
    cdef unsigned long long following   # fl_take's alone

    cdef bytes one(self)
    cdef bytes numbered(self, unsigned long long number)

cdef bytes wire_of(object key, bytes prefix)
