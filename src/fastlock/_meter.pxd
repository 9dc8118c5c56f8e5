# What other parts of the compiled core count with.

cimport cython

cdef extern from "_meter.h":
    enum:
        FL_ACQUIRED
        FL_REFUSED
        FL_RELEASED
        FL_COUNTERS
        FL_WAIT
        FL_HOLD
        FL_TRIP
        FL_TIMES
        FL_BOUNDS
    ctypedef unsigned long long fl_count_t
    ctypedef struct fl_meter:
        fl_count_t counters[13]
        fl_count_t buckets[3][27]
        fl_count_t sums[3]
    const double *fl_bounds
    fl_count_t fl_add(fl_count_t *, fl_count_t) noexcept nogil
    fl_count_t fl_read(const fl_count_t *) noexcept nogil
    void fl_time(fl_meter *, int, double, fl_count_t) noexcept nogil


@cython.final
cdef class Meter:
    cdef fl_meter data
