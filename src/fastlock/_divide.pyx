# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
# cython: freethreading_compatible=True
"""The compiled core's loops over a batch whose pairs belong to the servers of their slots.

Law: the same names, arguments and results as ``_pydivide.py``, at a tenth of its
instructions. They know keys, slots and lists; whose a slot is, and what an answer means, others
know.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_SIZE
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr

from ._slots import SLOTS
from .errors import ServerError

__all__ = ["Division", "slot"]

cdef extern from "Python.h":
    PyObject *PyList_GET_ITEM(list sequence, Py_ssize_t place)  # borrowed
    PyObject *PyTuple_GET_ITEM(PyObject *tuple, Py_ssize_t place)  # borrowed
    PyTypeObject *Py_TYPE(PyObject *)

cdef enum:
    COUNT = 16384  # of slots

cdef unsigned short table[4][256]  # CRC16/XMODEM of each byte with so many zero bytes behind it
cdef PyTypeObject *refusal = <PyTypeObject *>ServerError


cdef void fill_table() noexcept:
    cdef unsigned int byte, value, _bit, behind
    for byte in range(256):
        value = byte << 8
        for _bit in range(8):
            value = (value << 1) ^ (0x1021 if value & 0x8000 else 0)
        table[0][byte] = value & 0xFFFF
    for behind in range(1, 4):
        for byte in range(256):
            value = table[behind - 1][byte]
            table[behind][byte] = ((value << 8) & 0xFFFF) ^ table[0][value >> 8]


fill_table()
assert SLOTS == COUNT


cdef inline bint is_pair(PyObject *pair) noexcept:
    return (
        PyTuple_CheckExact(<object>pair)
        and PyTuple_GET_SIZE(<object>pair) == 2
        and PyBytes_CheckExact(<object>PyTuple_GET_ITEM(pair, 0))
    )


cdef unsigned int hashed(PyObject *key) noexcept:
    """What stands between the first brace and the first closing one behind it, else all."""
    cdef const unsigned char *text = <const unsigned char *>PyBytes_AS_STRING(<object>key)
    cdef const unsigned char *end = text + PyBytes_GET_SIZE(<object>key)
    cdef const unsigned char *opened
    cdef const unsigned char *closed
    cdef unsigned int crc = 0
    opened = <const unsigned char *>memchr(text, b"{", end - text)
    if opened != NULL:
        opened += 1
        closed = <const unsigned char *>memchr(opened, b"}", end - opened)
        if closed > opened:
            text, end = opened, closed
    while end - text >= 4:  # a byte at a time takes three times as long
        crc = (
            table[3][(crc >> 8) ^ text[0]]
            ^ table[2][(crc & 0xFF) ^ text[1]]
            ^ table[1][text[2]]
            ^ table[0][text[3]]
        )
        text += 4
    while text < end:
        crc = ((crc << 8) & 0xFFFF) ^ table[0][(crc >> 8) ^ text[0]]
        text += 1
    return crc % COUNT


def slot(bytes key not None):
    """0 to 16383; as ``_slots.slot``."""
    return hashed(<PyObject *>key)


@cython.final
cdef class Division:
    """``pairs`` by the servers of their keys' slots.

    ``serving`` has a server for each slot, whatever stands for one; the same object is the same
    server. ``servers`` are those met, ``parts`` the pairs of each in their order.
    """
    cdef readonly list servers
    cdef readonly list parts
    cdef Py_ssize_t count
    cdef unsigned short *whose  # for each pair the number of its server

    def __cinit__(self, list pairs not None, list serving not None):
        cdef Py_ssize_t place, which
        cdef Py_ssize_t *sizes
        cdef PyObject *pair
        cdef PyObject *server
        self.servers, self.parts = [], []
        self.count = len(pairs)
        self.whose = <unsigned short *>malloc(self.count * sizeof(unsigned short) + 1)
        sizes = <Py_ssize_t *>calloc(self.count + 1, sizeof(Py_ssize_t))
        try:
            if self.whose == NULL or sizes == NULL:
                raise MemoryError()
            # Steps of their own, each without a branch on the one before: what they load from
            # memory is then loaded for several pairs at once.
            for place in range(self.count):
                pair = PyList_GET_ITEM(pairs, place)
                if not is_pair(pair):
                    raise TypeError("a pair is a tuple that begins with its key")
                self.whose[place] = hashed(PyTuple_GET_ITEM(pair, 0))
            with cython.critical_section(serving):  # others may change it
                if len(serving) != COUNT:
                    raise ValueError("a server for each slot")
                for place in range(self.count):
                    server = PyList_GET_ITEM(serving, self.whose[place])
                    which = self.number_of(server)
                    sizes[which] += 1
                    self.whose[place] = which
            for which in range(len(self.servers)):
                self.parts.append(PyList_New(sizes[which]))
                sizes[which] = 0
            for place in range(self.count):
                which = self.whose[place]
                pair = PyList_GET_ITEM(pairs, place)
                Py_INCREF(<object>pair)
                PyList_SET_ITEM(
                    <object>PyList_GET_ITEM(self.parts, which), sizes[which], <object>pair
                )
                sizes[which] += 1
        finally:
            free(sizes)

    cdef inline Py_ssize_t number_of(self, PyObject *server) except -1:
        cdef Py_ssize_t which, known = len(self.servers)
        for which in range(known):
            if PyList_GET_ITEM(self.servers, which) == server:
                return which
        self.servers.append(<object>server)
        return known

    def __dealloc__(self):
        free(self.whose)

    def __reduce__(self):
        raise TypeError("what belongs to one call cannot be pickled or copied")

    def places(self):
        """For each server the places of its pairs."""
        found = [[] for _ in self.servers]
        for place in range(self.count):
            found[self.whose[place]].append(place)
        return found

    def merged(self, list answers not None):
        """The servers' ``answers``, a list of each, in the order of the pairs.

        None if one is missing, or a ServerError.
        """
        cdef Py_ssize_t known = len(self.servers), place, which
        cdef Py_ssize_t *next
        cdef list replies, answer
        cdef PyObject *reply
        if len(answers) != known:
            raise ValueError("an answer of each server")
        for which in range(known):
            answer = answers[which]
            if answer is None or len(answer) != len(<list>PyList_GET_ITEM(self.parts, which)):
                return None
        next = <Py_ssize_t *>calloc(known + 1, sizeof(Py_ssize_t))
        if next == NULL:
            raise MemoryError()
        try:
            replies = PyList_New(self.count)
            for place in range(self.count):  # nothing else runs before it is full
                which = self.whose[place]
                reply = PyList_GET_ITEM(<list>PyList_GET_ITEM(answers, which), next[which])
                if Py_TYPE(reply) == refusal:
                    return None
                next[which] += 1
                Py_INCREF(<object>reply)
                PyList_SET_ITEM(replies, place, <object>reply)
            return replies
        finally:
            free(next)
