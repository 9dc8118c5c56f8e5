# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
# cython: freethreading_compatible=True
"""The compiled core's encoder: commands packed as RESP, keys and tokens made bytes.

Law: the same names, arguments, results and errors as ``_pypack.py``; it writes
RESP and reads none, and knows no sockets. What is marked nogil touches no Python object.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.long cimport PyLong_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DATA, PyUnicode_GET_LENGTH
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from ._args import SURELY_SHORT, wire_key
from ._resp import PACK_TYPES

__all__ = ["Numbered", "Prepared", "pack", "prepare"]

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)

cdef extern from *:
    """
    /* The first of so many numbers, which nobody else ever gets. */
    static unsigned long long fl_take(unsigned long long *next, unsigned long long count) {
        return __atomic_fetch_add(next, count, __ATOMIC_RELAXED);
    }
    """
    unsigned long long fl_take(unsigned long long *next, unsigned long long count) noexcept

cdef Py_ssize_t c_surely_short = SURELY_SHORT


cdef inline int digits_of(unsigned long long value, char *end) noexcept nogil:
    """Write ``value`` in decimal so that it ends before ``end``; return its length."""
    cdef int count = 0
    while True:
        count += 1
        end[-count] = 48 + <char>(value % 10)
        value //= 10
        if value == 0:
            return count


cdef inline char *put_header(char *at, char kind, size_t number) noexcept nogil:
    cdef char digits[24]
    cdef int count
    at[0] = kind
    if number < 100:  # what most values measure
        count = 1
        if number >= 10:
            at[1] = 48 + <char>(number // 10)
            count = 2
        at[count] = 48 + <char>(number % 10)
        at[count + 1] = 13
        at[count + 2] = 10
        return at + count + 3
    count = digits_of(number, digits + 24)
    memcpy(at + 1, digits + 24 - count, count)
    at[count + 1] = 13
    at[count + 2] = 10
    return at + count + 3


cdef inline size_t header_size(size_t number) noexcept nogil:
    cdef size_t size = 4
    while number >= 10:
        number //= 10
        size += 1
    return size


def pack(*args):
    """One command as a RESP array of bulk strings.

    Takes exact ``bytes`` and exact ``int`` (64 bits, sent in decimal); anything
    else is a TypeError, an integer out of range an OverflowError.
    """
    cdef size_t total = header_size(len(args))
    cdef size_t size
    cdef long long number
    cdef char digits[24]
    cdef char *at
    for arg in args:
        if PyBytes_CheckExact(arg):
            size = PyBytes_GET_SIZE(arg)
        elif PyLong_CheckExact(arg):
            try:
                number = arg
            except OverflowError:
                raise OverflowError(PACK_TYPES) from None
            size = digits_of(magnitude(number), digits + 24) + (number < 0)
        else:
            raise TypeError(PACK_TYPES)
        total += header_size(size) + size + 2
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, total)
    at = put_header(PyBytes_AS_STRING(packed), b'*', len(args))
    for arg in args:
        if PyBytes_CheckExact(arg):
            size = PyBytes_GET_SIZE(arg)
            at = put_header(at, b'$', size)
            memcpy(at, PyBytes_AS_STRING(arg), size)
        else:
            number = arg
            size = digits_of(magnitude(number), digits + 24)
            if number < 0:
                size += 1
                digits[24 - size] = b'-'
            at = put_header(at, b'$', size)
            memcpy(at, digits + 24 - size, size)
        at[size] = 13
        at[size + 1] = 10
        at += size + 2
    return packed


cdef inline unsigned long long magnitude(long long number) noexcept nogil:
    return <unsigned long long>number if number >= 0 else 0 - <unsigned long long>number


@cython.final
cdef class Prepared:
    """A command with holes; see ``prepare``."""

    def __cinit__(self):
        self.text = b""

    def fill(self, first=None, second=None, third=None):
        """The command with these values, packed. Raises as ``pack``."""
        cdef Filling filling
        cdef bytes packed
        self.weigh(&filling, 0, first)
        self.weigh(&filling, 1, second)
        self.weigh(&filling, 2, third)
        packed = PyBytes_FromStringAndSize(NULL, self.size(&filling))
        self.finish(self.write(&filling, PyBytes_AS_STRING(packed), 0, self.holes))
        return packed

    def many(self, list pairs not None, third=None):
        """One after the other, with each pair as first and second value and the same third."""
        cdef Filling filling
        cdef bytes tail  # the same in every command
        cdef size_t most
        cdef size_t room = 0
        cdef size_t used = 0
        cdef size_t size = 0            # of the command before this one
        cdef size_t[2] sizes = [0, 0]   # of its values
        cdef char *packed = NULL
        cdef char *grown
        cdef char *at
        if self.holes < 2:
            raise TypeError(PACK_TYPES)
        tail = self.behind(third)
        most = self.stops[1] + PyBytes_GET_SIZE(tail) + 2 * 26  # but for the values
        try:
            for first, second in pairs:
                self.weigh(&filling, 0, first)
                self.weigh(&filling, 1, second)
                if room - used < most + filling.sizes[0] + filling.sizes[1]:
                    room += room // 2 + len(pairs) * (most + filling.sizes[0] + filling.sizes[1])
                    grown = <char *>realloc(packed, room)
                    if grown == NULL:
                        raise MemoryError()
                    packed = grown
                at = packed + used
                if size and sizes[0] == filling.sizes[0] and sizes[1] == filling.sizes[1]:
                    # The same but for the values, which stand in the same places.
                    memcpy(at, at - size, size)
                    at += size - PyBytes_GET_SIZE(tail) - 2 - sizes[1]
                    memcpy(at, filling.texts[1], sizes[1])
                    at = packed + used + self.stops[0] + header_size(sizes[0])
                    memcpy(at, filling.texts[0], sizes[0])
                else:
                    at = self.write(&filling, at, 0, 2)
                    memcpy(at, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
                    size = at + PyBytes_GET_SIZE(tail) - packed - used
                    sizes[0] = filling.sizes[0]
                    sizes[1] = filling.sizes[1]
                used += size
            return packed[:used]
        finally:
            free(packed)

    cdef int weigh(self, Filling *filling, int hole, object value) except -1:
        """Note where the value's text is, and its size; an integer's is written there."""
        cdef long long number
        cdef char *end
        if hole >= self.holes:
            if value is not None:
                raise TypeError(PACK_TYPES)
        elif not self.numeric[hole]:
            if not PyBytes_CheckExact(value):
                raise TypeError(PACK_TYPES)
            filling.sizes[hole] = PyBytes_GET_SIZE(value)
            filling.texts[hole] = PyBytes_AS_STRING(value)
        else:
            if not PyLong_CheckExact(value):
                raise TypeError(PACK_TYPES)
            try:
                number = value
            except OverflowError:
                raise OverflowError(PACK_TYPES) from None
            end = filling.digits[hole] + 24
            filling.sizes[hole] = digits_of(magnitude(number), end)
            if number < 0:
                filling.sizes[hole] += 1
                end[-<ssize_t>filling.sizes[hole]] = b'-'
            filling.texts[hole] = end - filling.sizes[hole]
        return 0

    cdef size_t size(self, Filling *filling) noexcept:
        cdef size_t total = PyBytes_GET_SIZE(self.text)
        cdef int i
        for i in range(self.holes):
            total += header_size(filling.sizes[i]) + filling.sizes[i] + 2
        return total

    cdef char *write(self, Filling *filling, char *at, int begin, int end) noexcept:
        """Values ``begin`` to ``end``, each with the text before it; behind the last byte."""
        cdef const char *text = PyBytes_AS_STRING(self.text)
        cdef size_t start = self.stops[begin - 1] if begin else 0
        cdef size_t size
        cdef int i
        for i in range(begin, end):
            memcpy(at, text + start, self.stops[i] - start)
            size = filling.sizes[i]
            at = put_header(at + (self.stops[i] - start), b'$', size)
            start = self.stops[i]
            memcpy(at, filling.texts[i], size)
            at[size] = 13
            at[size + 1] = 10
            at += size + 2
        return at

    cdef char *finish(self, char *at) noexcept:
        """The text behind the last value."""
        cdef size_t start = self.stops[self.holes - 1] if self.holes else 0
        cdef size_t size = PyBytes_GET_SIZE(self.text) - start
        memcpy(at, PyBytes_AS_STRING(self.text) + start, size)
        return at + size

    cdef bytes behind(self, object third):
        """What comes behind the second value."""
        cdef Filling filling
        cdef bytes tail
        cdef char *at
        self.weigh(&filling, 2, third)
        tail = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(self.text) + 64 + (
            filling.sizes[2] if self.holes > 2 else 0
        ))
        at = self.finish(self.write(&filling, PyBytes_AS_STRING(tail), 2, self.holes))
        return PyBytes_AS_STRING(tail)[: at - PyBytes_AS_STRING(tail)]


def prepare(*parts):
    """One command with holes, ``fill(values...)`` and ``many(pairs, third)`` pack it.

    ``parts`` are what ``pack`` takes; the types ``bytes`` and ``int`` among them, 3 at
    most, stand for values to come.
    """
    cdef Prepared prepared = Prepared()
    cdef bytes text = b"*%d\r\n" % len(parts)
    for part in parts:
        if part is bytes or part is int:
            if prepared.holes == MOST_HOLES:
                raise TypeError("a prepared command has at most 3 holes")
            prepared.numeric[prepared.holes] = part is int
            prepared.stops[prepared.holes] = PyBytes_GET_SIZE(text)
            prepared.holes += 1
        else:
            text += pack(part)[4:]
    prepared.text = text
    return prepared


cdef bytes wire_of(object key, bytes prefix):
    """``wire_key``, at less cost for the usual key."""
    if (
        PyUnicode_CheckExact(key)
        and PyUnicode_IS_COMPACT_ASCII(key)
        and 0 < PyUnicode_GET_LENGTH(key) <= c_surely_short
    ):
        return joined(prefix, <const char *>PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key))
    return wire_key(key, prefix)


cdef bytes joined(bytes prefix, const char *text, Py_ssize_t size):
    cdef Py_ssize_t before = PyBytes_GET_SIZE(prefix)
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, before + size)
    cdef char *at = PyBytes_AS_STRING(whole)
    memcpy(at, PyBytes_AS_STRING(prefix), before)
    memcpy(at + before, text, size)
    return whole


cdef const char *hexadecimal = b"0123456789abcdef"


@cython.final
cdef class Numbered:
    """Prefix, a number in hex, suffix: ``next()`` counts from 1.

    Any thread may call it; no two calls give the same bytes.
    """
    def __cinit__(self, bytes prefix not None, bytes suffix not None):
        self.prefix = prefix
        self.suffix = suffix
        self.following = 1

    def next(self):
        """One more."""
        return self.one()

    cdef bytes one(self):
        return self.numbered(fl_take(&self.following, 1))

    cdef bytes numbered(self, unsigned long long number):
        cdef Py_ssize_t before = PyBytes_GET_SIZE(self.prefix)
        cdef Py_ssize_t behind = PyBytes_GET_SIZE(self.suffix)
        cdef Py_ssize_t digits = 1
        cdef unsigned long long rest = number >> 4
        while rest:
            digits += 1
            rest >>= 4
        cdef bytes whole = PyBytes_FromStringAndSize(NULL, before + digits + behind)
        cdef char *at = PyBytes_AS_STRING(whole)
        memcpy(at, PyBytes_AS_STRING(self.prefix), before)
        at += before + digits
        memcpy(at, PyBytes_AS_STRING(self.suffix), behind)
        while digits:
            at -= 1
            at[0] = hexadecimal[number & 15]
            number >>= 4
            digits -= 1
        return whole

    def pairs(self, list keys not None, bytes prefix not None):
        """(wire key, one more) for each key, in order; ConfigError for what is no key."""
        cdef list pairs = []
        cdef bytes wire
        cdef bytes token = None
        cdef unsigned long long number = fl_take(&self.following, len(keys))
        cdef unsigned long long end = number + len(keys)
        cdef char *at
        for key in keys:
            wire = wire_of(key, prefix)
            if number == end:  # the list has grown
                number = fl_take(&self.following, 1)
                end = number + 1
                token = None
            if token is not None and number & 15:  # as the one before, but for its last digit
                token = PyBytes_FromStringAndSize(PyBytes_AS_STRING(token), PyBytes_GET_SIZE(token))
                at = PyBytes_AS_STRING(token) + PyBytes_GET_SIZE(token)
                at[-PyBytes_GET_SIZE(self.suffix) - 1] = hexadecimal[number & 15]
            else:
                token = self.numbered(number)
            number += 1
            pairs.append((wire, token))
        return pairs
