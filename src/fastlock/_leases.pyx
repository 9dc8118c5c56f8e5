# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
# cython: freethreading_compatible=True
"""The compiled core's loops over many leases.

Law: the same names, arguments and results as ``_pyleases.py``, at a tenth of its
instructions. The fields of a lease are slots of a Python class, which is what reads them
fastest from Python; here they are reached where the slots' descriptors say that they are.

Without the GIL: ``key``, ``pair``, ``_client`` and ``_generation`` are written once, when a
lease is made; of the other fields only bools and ``doubt`` are read or written here, atomically,
as CPython does it, and times are read in the lease's critical section, where CPython writes them.
Bools and ``doubt`` are never freed, so that it does not matter who gives back which reference.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

from types import MemberDescriptorType

from ._doubt import SHARED as _SHARED
from ._doubt import UNDER_WAY as _UNDER_WAY

__all__ = ["Leases"]

cdef object UNDER_WAY = _UNDER_WAY
cdef object SHARED = _SHARED

cdef extern from *:
    """
    static PyObject *fl_get(PyObject **slot) { return __atomic_load_n(slot, __ATOMIC_ACQUIRE); }
    static void fl_put(PyObject **slot, PyObject *value) {
        __atomic_store_n(slot, value, __ATOMIC_RELEASE);
    }
    """
    PyObject *fl_get(PyObject **slot) noexcept
    void fl_put(PyObject **slot, PyObject *value) noexcept

cdef extern from "structmember.h":  # of Python.h only from CPython 3.12 on
    ctypedef struct PyMemberDef:
        Py_ssize_t offset

cdef extern from "Python.h":
    ctypedef struct PyMemberDescrObject:
        PyMemberDef *d_member
    PyObject *Py_False
    PyObject *Py_None
    PyObject *Py_True
    PyObject *PyType_GenericAlloc(PyTypeObject *, Py_ssize_t) except NULL
    PyObject *PySequence_Fast_GET_ITEM(object sequence, Py_ssize_t place)  # borrowed
    PyObject *PyList_GET_ITEM(list sequence, Py_ssize_t place)  # borrowed


cdef Py_ssize_t offset_of(type kind, str name) except -1:
    descriptor = getattr(kind, name)
    if type(descriptor) is not MemberDescriptorType:
        raise TypeError(f"{name} is no slot of {kind!r}")
    return (<PyMemberDescrObject *>descriptor).d_member.offset


cdef inline PyObject **field(PyObject *lease, Py_ssize_t offset) noexcept:
    return <PyObject **>(<char *>lease + offset)


cdef inline void put(PyObject *lease, Py_ssize_t offset, object value) noexcept:
    cdef PyObject *before = fl_get(field(lease, offset))
    Py_INCREF(value)
    fl_put(field(lease, offset), <PyObject *>value)
    Py_XDECREF(before)


cdef inline void put_first(PyObject *lease, Py_ssize_t offset, object value) noexcept:
    Py_INCREF(value)
    field(lease, offset)[0] = <PyObject *>value


# Places in a list: ``first``, and those behind it without a gap, or as ``listed``.
cdef struct Places:
    Py_ssize_t count
    Py_ssize_t first
    PyObject *listed    # borrowed; NULL: no gaps


cdef int places_of(Places *places, object given, list leases) except -1:
    cdef Py_ssize_t i, place
    if type(given) is range and given.step == 1:
        places.listed = NULL
        places.first = given.start
        places.count = len(given)
        if places.count and not 0 <= places.first <= len(leases) - places.count:
            raise IndexError("no lease there")
    elif type(given) is list:
        places.listed = <PyObject *>given
        places.count = len(<list>given)
        for i in range(places.count):
            place = (<list>given)[i]
            if not 0 <= place < len(leases):
                raise IndexError("no lease there")
    else:
        raise TypeError("places are a list, or a range without gaps")
    return 0


cdef inline Py_ssize_t place_of(Places *places, Py_ssize_t i) except -1:
    if places.listed == NULL:
        return places.first + i
    return <object>PyList_GET_ITEM(<list>places.listed, i)


@cython.final
cdef class Leases:
    """Loops over leases of ``kind``, whose ``__init__`` is never called."""
    def __cinit__(self, type kind not None):
        self.kind = kind
        self.client = offset_of(kind, "_client")
        self.generation = offset_of(kind, "_generation")
        self.turn = offset_of(kind, "_turn")
        self.key = offset_of(kind, "key")
        self.pair = offset_of(kind, "pair")
        self.ttl = offset_of(kind, "ttl")
        self.deadline = offset_of(kind, "_deadline")
        self.since = offset_of(kind, "since")
        self.doubt = offset_of(kind, "doubt")
        self.over = offset_of(kind, "over")
        self.freed = offset_of(kind, "freed")

    def __reduce__(self):
        raise TypeError("what belongs to a client cannot be pickled or copied")

    def one(self, client, generation, key, tuple pair not None, ttl, deadline, since=None):
        """A lease; ``ttl`` in seconds. ``since`` is when it began, if that is said."""
        return self.new(client, generation, key, pair, ttl, deadline, since)

    cdef object new(self, client, generation, key, pair, ttl, deadline, since):
        cdef PyObject *raw = PyType_GenericAlloc(<PyTypeObject *>self.kind, 0)
        cdef object lease = <object>raw
        Py_XDECREF(raw)  # ``lease`` has a reference of its own
        put_first(raw, self.client, client)
        put_first(raw, self.generation, generation)
        put_first(raw, self.turn, None)
        put_first(raw, self.key, key)
        put_first(raw, self.pair, pair)
        put_first(raw, self.ttl, ttl)
        put_first(raw, self.deadline, deadline)
        put_first(raw, self.since, since)
        put_first(raw, self.doubt, False)
        put_first(raw, self.over, False)
        put_first(raw, self.freed, False)
        return lease

    def make(self, client, generation, keys, pairs, replies, ttl, deadline):
        """For each OK a lease, for each nil None; up to any other reply. ``ttl`` in seconds."""
        cdef list leases = []
        cdef Py_ssize_t place, count = len(replies)
        cdef object reply
        if not (len(keys) == len(pairs) == count):
            raise ValueError("as many keys and pairs as replies")
        if type(keys) is not list:
            keys = tuple(keys)
        if type(pairs) is not list:
            pairs = tuple(pairs)
        if type(replies) is not list:
            replies = tuple(replies)
        for place in range(count):
            reply = <object>PySequence_Fast_GET_ITEM(replies, place)
            if is_ok(reply):
                leases.append(self.new(
                    client,
                    generation,
                    <object>PySequence_Fast_GET_ITEM(keys, place),
                    <object>PySequence_Fast_GET_ITEM(pairs, place),
                    ttl,
                    deadline,
                    None,
                ))
            elif reply is None:
                leases.append(None)
            else:
                break
        return leases

    def foreign(self, client, generation, list leases not None):
        """Where the first is that is neither None nor this client's of this process; or -1."""
        cdef Py_ssize_t place = 0
        cdef PyObject *raw
        for lease in leases:
            if lease is not None:
                if type(lease) is not self.kind:
                    return place
                raw = <PyObject *>lease
                if (
                    field(raw, self.client)[0] != <PyObject *>client
                    or <object>field(raw, self.generation)[0] != generation
                ):
                    return place
            place += 1
        return -1

    def held(self, list leases not None):
        """Where those are that are not over; a range if all are."""
        cdef list places = []
        cdef Py_ssize_t place = 0
        for lease in leases:
            if lease is None or self.is_over(lease):
                break
            place += 1
        else:
            return range(place)
        places.extend(range(place))
        for lease in leases[place:]:
            if lease is not None and not self.is_over(lease):
                places.append(place)
            place += 1
        return places

    def release(self, list leases not None, places):
        """Say of each that it is under way; the pairs, and where there was doubt before: which."""
        cdef list pairs = []
        cdef dict doubts = {}
        cdef PyObject *doubt
        cdef Places at
        cdef Py_ssize_t i
        cdef object lease
        with cython.critical_section(leases, places):
            places_of(&at, places, leases)
            for i in range(at.count):
                lease = leases[place_of(&at, i)]
                self.check(lease)
                doubt = fl_get(field(<PyObject *>lease, self.doubt))
                if doubt != Py_False:
                    doubts[place_of(&at, i)] = <object>doubt
            for i in range(at.count):
                lease = leases[place_of(&at, i)]
                doubt = fl_get(field(<PyObject *>lease, self.doubt))
                if doubt == Py_False:
                    put(<PyObject *>lease, self.doubt, UNDER_WAY)
                elif doubt == <PyObject *>UNDER_WAY and place_of(&at, i) in doubts:
                    put(<PyObject *>lease, self.doubt, SHARED)
                pairs.append(<object>field(<PyObject *>lease, self.pair)[0])
        return pairs, doubts

    def released(self, list leases not None, places, list results not None):
        """Each is freed by us."""
        cdef Places at
        cdef Py_ssize_t i
        cdef object lease
        if len(results) != len(leases):
            raise ValueError("as many results as leases")
        with cython.critical_section(leases, places):
            places_of(&at, places, leases)
            for i in range(at.count):
                lease = leases[place_of(&at, i)]
                self.check(lease)
                put(<PyObject *>lease, self.over, True)
                put(<PyObject *>lease, self.freed, True)
                put(<PyObject *>lease, self.doubt, False)
                results[place_of(&at, i)] = True

    def holds(self, list leases not None, list results not None, double now):
        """Seconds that leases were held whose result is True, and how many were held so long."""
        cdef list found = []
        cdef Py_ssize_t i, many = 0
        cdef PyObject *deadline
        cdef PyObject *last = NULL
        cdef double seconds = 0
        if len(results) != len(leases):
            raise ValueError("as many results as leases")
        for i in range(len(results)):
            if <PyObject *>results[i] != Py_True:
                continue
            lease = leases[i]
            self.check(lease)
            deadline = fl_get(field(<PyObject *>lease, self.deadline))
            if many and deadline == last and (
                fl_get(field(<PyObject *>lease, self.since)) == Py_None
            ):  # of the same batch
                many += 1
                continue
            if many:
                found.append((seconds, many))
            with cython.critical_section(lease):
                seconds = now - self.began(<PyObject *>lease)
            many = 1
            last = deadline if fl_get(field(<PyObject *>lease, self.since)) == Py_None else NULL
        if many:
            found.append((seconds, many))
        return found

    cdef tuple pair_to_free(self, object lease, object generation, double *since):
        """Say that it is under way; None if it is over, in doubt already, or another process's.

        ``since`` is when it began, in seconds. The lease's critical section is entered.
        """
        cdef PyObject *raw = <PyObject *>lease
        if (
            self.is_over(lease)
            or field(raw, self.doubt)[0] != Py_False
            or <object>field(raw, self.generation)[0] != generation
        ):
            return None
        put(raw, self.doubt, UNDER_WAY)
        since[0] = self.began(raw)
        return <tuple>field(raw, self.pair)[0]

    cdef double began(self, PyObject *raw) except? -1:
        """When it began, in seconds; the lease's critical section is entered."""
        if field(raw, self.since)[0] != Py_None:
            return <object>field(raw, self.since)[0]
        return since_of(
            <object>field(raw, self.deadline)[0], <object>field(raw, self.ttl)[0]
        )

    cdef int freed_by_us(self, object lease) except -1:
        put(<PyObject *>lease, self.over, True)
        put(<PyObject *>lease, self.freed, True)
        return 0

    cdef bint is_over(self, object lease) except -1:
        self.check(lease)
        return fl_get(field(<PyObject *>lease, self.over)) == Py_True

    cdef int check(self, object lease) except -1:
        if type(lease) is not self.kind:
            raise TypeError(f"{lease!r} is not of {self.kind!r}")
        return 0


cdef inline bint is_ok(object reply):
    return (
        PyBytes_CheckExact(reply)
        and PyBytes_GET_SIZE(reply) == 2
        and PyBytes_AS_STRING(reply)[0] == b"O"
        and PyBytes_AS_STRING(reply)[1] == b"K"
    )
