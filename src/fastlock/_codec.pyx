# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
# cython: freethreading_compatible=True
"""The compiled core's codec: RESP parsed by hiredis, and packed.

Law: the same names, arguments, results and errors as ``_pycodec.py``; it knows
bytes and no sockets. What is marked nogil touches no Python object.
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
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from fastlock._hiredis cimport *

from ._args import SURELY_SHORT, wire_key
from ._resp import (
    ELEMENT_COST,
    ERROR_COST,
    FEED_TYPE,
    MALFORMED,
    MAX_BIGNUM,
    MAX_DEPTH,
    MAX_LINE,
    MAX_REPLY,
    PACK_TYPES,
    Push,
)
from .errors import ProtocolError, ServerError

__all__ = ["Decoder", "Numbered", "Prepared", "pack", "prepare"]

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
cdef size_t c_element_cost = ELEMENT_COST
cdef size_t c_error_cost = ERROR_COST
cdef size_t c_max_reply = MAX_REPLY
cdef size_t c_max_line = MAX_LINE
cdef size_t c_max_bignum = MAX_BIGNUM
cdef int c_max_depth = MAX_DEPTH

# ------------------------------------------------------------------ encoding


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


# ------------------------------------------------------------------ decoding

cdef inline Reply **items_of(Reply *reply) noexcept nogil:
    return <Reply **>(reply + 1)


# What locks are answered with, again and again: these cost no memory while they are parsed,
# and one piece for a run of equal ones.
cdef struct Model:
    Reply reply
    char text[2]

cdef Model model_ok, model_nil, model_no, model_yes
model_ok.reply.kind = REDIS_REPLY_STATUS
model_ok.reply.size = 2
model_ok.text[0], model_ok.text[1] = b"O", b"K"
model_nil.reply.kind = REDIS_REPLY_NIL
model_no.reply.kind = model_yes.reply.kind = REDIS_REPLY_INTEGER
model_yes.reply.integer = 1


cdef Reply *copy_of(const Reply *model, Py_ssize_t times) noexcept nogil:
    cdef Reply *reply = <Reply *>malloc(sizeof(Model))
    if reply != NULL:
        memcpy(reply, model, sizeof(Model))
        reply.times = times
        reply.model = model
    return reply


cdef Reply *split_reply(Reply *reply, Py_ssize_t times) noexcept nogil:
    """Take so many, fewer than it stands for, from ``reply``; NULL: out of memory."""
    cdef Reply *part = copy_of(reply.model, times)
    if part != NULL:
        reply.times -= times
    return part


cdef Reply *new_reply(const redisReadTask *task, size_t extra) noexcept nogil:
    cdef Reply *reply = <Reply *>malloc(sizeof(Reply) + extra)
    if reply != NULL:
        reply.kind = task.type
        reply.times = 1
        reply.model = NULL
        reply.size = 0
        reply.next = NULL
        if task.parent != NULL:
            items_of(<Reply *>task.parent.obj)[task.idx] = reply
    return reply


cdef void *create_string(const redisReadTask *task, char *text, size_t size) noexcept nogil:
    cdef Codec *codec = <Codec *>task.privdata
    cdef Reply *reply
    cdef bint bulk = task.type == REDIS_REPLY_STRING or task.type == REDIS_REPLY_VERB
    cdef size_t cost = size
    if bulk:
        if text[size] != 13 or text[size + 1] != 10:
            return NULL
    elif size > c_max_line:
        return NULL
    elif task.type == REDIS_REPLY_ERROR:
        cost += c_error_cost
    elif task.type == REDIS_REPLY_STATUS and size <= 2:
        cost = 0  # OK, of which there is one
    if cost > codec.left:
        return NULL
    if (
        task.type == REDIS_REPLY_STATUS
        and task.parent == NULL
        and size == 2
        and text[0] == b'O'
        and text[1] == b'K'
    ):
        return &model_ok
    if task.type == REDIS_REPLY_BIGNUM:
        if size - (size > 0 and text[0] == b'-') - 1 >= c_max_bignum:  # also: no digit at all
            return NULL
    codec.left -= cost
    if task.type == REDIS_REPLY_VERB:
        text += 4
        size -= 4
    reply = new_reply(task, size)
    if reply != NULL:
        reply.size = size
        memcpy(text_of(reply), text, size)
    return reply


cdef void *create_array(const redisReadTask *task, size_t count) noexcept nogil:
    cdef Codec *codec = <Codec *>task.privdata
    cdef Reply *reply
    cdef int depth = 0
    cdef size_t i
    cdef const redisReadTask *outer = task.parent
    while outer != NULL:
        depth += 1
        outer = outer.parent
    if (
        count > codec.left // c_element_cost
        or depth >= c_max_depth
        or task.type == REDIS_REPLY_ATTR
        or (task.type == REDIS_REPLY_PUSH and depth)
    ):
        return NULL
    codec.left -= count * c_element_cost
    reply = new_reply(task, count * sizeof(void *))
    if reply != NULL:
        reply.size = count
        for i in range(count):
            items_of(reply)[i] = NULL
    return reply


cdef void *create_integer(const redisReadTask *task, long long value) noexcept nogil:
    cdef Reply *reply
    if (
        task.type == REDIS_REPLY_INTEGER
        and task.parent == NULL
        and (value == 0 or value == 1)
    ):
        return &model_yes if value else &model_no
    reply = new_reply(task, 0)
    if reply != NULL:
        reply.integer = value
    return reply


cdef void *create_double(
    const redisReadTask *task, double value, char *text, size_t size
) noexcept nogil:
    cdef Reply *reply = new_reply(task, 0)
    if reply != NULL:
        reply.real = value
    return reply


cdef void *create_nil(const redisReadTask *task) noexcept nogil:
    if task.type == REDIS_REPLY_ATTR or task.type == REDIS_REPLY_PUSH:
        return NULL
    if task.parent == NULL:
        return &model_nil
    cdef Reply *reply = new_reply(task, 0)
    if reply != NULL:
        reply.kind = REDIS_REPLY_NIL
    return reply


cdef void *create_bool(const redisReadTask *task, int value) noexcept nogil:
    cdef redisReader *reader = (<Codec *>task.privdata).reader
    if reader.buf[reader.pos - 3] == 0:  # hiredis takes a NUL for "false"
        return NULL
    return create_integer(task, value)


cdef void free_reply(void *pointer) noexcept nogil:
    cdef Reply *reply = <Reply *>pointer
    cdef size_t i
    if reply == NULL or reply.times == 0:
        return
    if is_aggregate(reply.kind):
        for i in range(reply.size):
            free_reply(items_of(reply)[i])
    free(reply)


cdef void free_chain(Reply *reply) noexcept nogil:
    cdef Reply *next
    while reply != NULL:
        next = reply.next
        free_reply(reply)
        reply = next


cdef bint is_aggregate(int kind) noexcept nogil:
    return (
        kind == REDIS_REPLY_ARRAY
        or kind == REDIS_REPLY_MAP
        or kind == REDIS_REPLY_SET
        or kind == REDIS_REPLY_PUSH
    )


cdef redisReplyObjectFunctions functions
functions.createString = create_string
functions.createArray = create_array
functions.createInteger = create_integer
functions.createDouble = create_double
functions.createNil = create_nil
functions.createBool = create_bool
functions.freeObject = free_reply


cdef int open_codec(Codec *codec) except -1:
    codec.left = c_max_reply
    codec.spent = 0
    codec.failed = False
    codec.reader = redisReaderCreateWithFunctions(&functions)
    if codec.reader == NULL:
        raise MemoryError()
    codec.reader.privdata = codec
    return 0


cdef void close_codec(Codec *codec) noexcept nogil:
    redisReaderFree(codec.reader)
    codec.reader = NULL


cdef bint feed_codec(Codec *codec, const char *data, size_t size) noexcept nogil:
    """False: out of memory."""
    return redisReaderFeed(codec.reader, data, size) == REDIS_OK


cdef int next_replies(Codec *codec, Reply **chain) noexcept nogil:
    """All replies that are complete now, in order. 0: more bytes are needed. -1: malformed."""
    cdef Reply **tail = chain
    cdef Reply *last = NULL
    cdef Reply *reply = NULL
    cdef int status
    chain[0] = NULL
    while True:
        status = next_reply(codec, &reply)
        if status <= 0:
            return status
        if reply.times == 0:
            if last != NULL and last.model == reply:
                last.times += 1
                continue
            reply = copy_of(reply, 1)
            if reply == NULL:  # as when hiredis finds no memory
                codec.failed = True
                return -1
        tail[0] = last = reply
        tail = &reply.next


cdef int next_reply(Codec *codec, Reply **reply) noexcept nogil:
    """1: ``reply`` is a complete top-level reply, perhaps a model. Else as ``next_replies``."""
    cdef void *parsed = NULL
    if codec.failed:
        return -1
    if redisReaderGetReply(codec.reader, &parsed) == REDIS_OK:
        if parsed != NULL:
            if (<Reply *>parsed).kind != REDIS_REPLY_PUSH:
                codec.spent += c_max_reply - codec.left
            codec.left = c_max_reply
            reply[0] = <Reply *>parsed
            return 1
        if not hopeless(codec):
            return 0
    codec.failed = True
    return -1


cdef bint hopeless(Codec *codec) noexcept nogil:
    """Whether the incomplete item already announces, or is, more than may still come."""
    cdef redisReader *reader = codec.reader
    cdef size_t pending = reader.len - reader.pos
    cdef char *at = reader.buf + reader.pos
    cdef size_t announced = 0
    cdef size_t most = c_max_bignum + 1  # characters of a line, a sign among them
    cdef size_t i = 0
    cdef int kind
    if reader.ridx < 0 or pending == 0:
        return False
    kind = reader.task[reader.ridx].type
    if kind == REDIS_REPLY_STRING or kind == REDIS_REPLY_VERB:
        while i < pending and at[i] >= 48 and at[i] <= 57:
            if announced <= codec.left:
                announced = announced * 10 + <size_t>(at[i] - 48)
            i += 1
        if i + 1 < pending and at[i] == 13 and at[i + 1] == 10:
            return announced > codec.left
    elif kind == REDIS_REPLY_STATUS or kind == REDIS_REPLY_ERROR:
        most = max(most, min(codec.left, c_max_line))
    return pending > most + 1 and not has_line(at, pending)


cdef bint has_line(char *at, size_t size) noexcept nogil:
    cdef size_t i
    for i in range(size - 1):
        if at[i] == 13 and at[i + 1] == 10:
            return True
    return False


cdef bytes ok = b"OK"


cdef object to_python(Reply *reply):
    cdef int kind = reply.kind
    cdef size_t i
    cdef bytes text
    if (
        kind == REDIS_REPLY_STRING
        or kind == REDIS_REPLY_STATUS
        or kind == REDIS_REPLY_VERB
    ):
        if reply.size == 2 and text_of(reply)[0] == b'O' and text_of(reply)[1] == b'K':
            return ok
        return PyBytes_FromStringAndSize(text_of(reply), reply.size)
    if kind == REDIS_REPLY_INTEGER:
        return reply.integer
    if kind == REDIS_REPLY_NIL:
        return None
    if is_aggregate(kind):
        values = Push() if kind == REDIS_REPLY_PUSH else []
        for i in range(reply.size):
            values.append(to_python(items_of(reply)[i]))
        return values
    if kind == REDIS_REPLY_DOUBLE:
        return reply.real
    if kind == REDIS_REPLY_BOOL:
        return reply.integer != 0
    text = PyBytes_FromStringAndSize(text_of(reply), reply.size)
    if kind == REDIS_REPLY_BIGNUM:
        return int(text)
    return ServerError(text.decode("utf-8", "replace"))


cdef list values_of(Reply *chain):
    """The chain's replies as Python values; frees the chain whatever happens."""
    cdef list values
    cdef Reply *reply
    try:
        if chain == NULL:
            return []
        values = [to_python(chain)] * chain.times  # of those in a row none can be changed
        reply = chain.next
        while reply != NULL:
            if reply.times == 1:
                values.append(to_python(reply))
            else:
                values += [to_python(reply)] * reply.times
            reply = reply.next
        return values
    finally:
        free_chain(chain)


@cython.final
cdef class Decoder:
    """Bytes in, replies out; the result does not depend on how they are chunked.

    Simple and bulk strings are ``bytes``, numbers ``int`` / ``float`` / ``bool``,
    nulls ``None``, arrays and sets ``list``, maps a flat ``list`` of keys and
    values, pushes ``Push``, server errors ``ServerError`` values. A malformed
    stream gives one ``ProtocolError`` value after all good replies; from then on
    ``feed`` raises it. Belongs to one thread at a time. No pickling, no subclasses.
    """
    cdef Codec codec

    def __cinit__(self):
        open_codec(&self.codec)

    def __dealloc__(self):
        close_codec(&self.codec)

    def __reduce__(self):
        raise TypeError("a Decoder cannot be pickled or copied")

    @property
    def spent(self):
        """What all replies so far have cost, in bytes as ``MAX_REPLY`` counts; pushes nothing."""
        return self.codec.spent

    @cython.critical_section  # used wrongly it must not crash, with or without the GIL
    def feed(self, data):
        """Take in some bytes; return the replies that are complete now, in order.

        Raises TypeError unless ``data`` is exact ``bytes``, ProtocolError when the
        stream was found malformed by an earlier call.
        """
        cdef Reply *chain = NULL
        cdef int status
        if not PyBytes_CheckExact(data):
            raise TypeError(FEED_TYPE)
        if self.codec.failed:
            raise ProtocolError(MALFORMED)
        if not feed_codec(&self.codec, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)):
            raise MemoryError()
        status = next_replies(&self.codec, &chain)
        replies = values_of(chain)
        if status < 0:
            replies.append(ProtocolError(MALFORMED))
        return replies
