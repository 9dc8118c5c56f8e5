# What the compiled Straight needs of the compiled Leases.

cimport cython


@cython.final
cdef class Leases:
    cdef type kind
    # Where in a lease these slots are, in bytes.
    cdef Py_ssize_t client, generation, turn, key, pair, ttl, deadline, doubt, over, freed

    cdef object new(self, client, generation, key, pair, ttl, deadline)
    cdef tuple pair_to_free(self, object lease, object generation)
    cdef int freed_by_us(self, object lease) except -1
    cdef bint is_over(self, object lease) except -1
    cdef int check(self, object lease) except -1
