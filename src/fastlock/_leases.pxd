# What the compiled Straight needs of the compiled Leases.

cimport cython
from cpython.object cimport PyObject


cdef inline double since_of(double deadline, double ttl) noexcept nogil:
    """When a lease began that was never extended: the span of ``_claim.py`` before its end."""
    return deadline - (0.99 * ttl - 0.002)


@cython.final
cdef class Leases:
    cdef type kind
    # Where in a lease these slots are, in bytes.
    cdef Py_ssize_t client, generation, turn, key, pair, ttl, deadline, since, doubt, over
    cdef Py_ssize_t freed

    cdef object new(self, client, generation, key, pair, ttl, deadline, since)
    cdef tuple pair_to_free(self, object lease, object generation, double *since)
    cdef double began(self, PyObject *raw) except? -1
    cdef int freed_by_us(self, object lease) except -1
    cdef bint is_over(self, object lease) except -1
    cdef int check(self, object lease) except -1
