# What the compiled Straight needs of the compiled encoder.

cimport cython

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
