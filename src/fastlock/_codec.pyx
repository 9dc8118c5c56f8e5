# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
# cython: freethreading_compatible=True
"""The compiled core's decoder: RESP parsed by hiredis.

Law: the same names, arguments, results and errors as ``_pycodec.py``; it reads
RESP and writes none, and knows no sockets. What is marked nogil touches no Python object.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastlock._hiredis cimport *

from ._resp import (
    ELEMENT_COST,
    ERROR_COST,
    FEED_TYPE,
    MALFORMED,
    MAX_BIGNUM,
    MAX_DEPTH,
    MAX_LINE,
    MAX_REPLY,
    Push,
)
from .errors import ProtocolError, ServerError

__all__ = ["Decoder"]

cdef size_t c_element_cost = ELEMENT_COST
cdef size_t c_error_cost = ERROR_COST
cdef size_t c_max_reply = MAX_REPLY
cdef size_t c_max_line = MAX_LINE
cdef size_t c_max_bignum = MAX_BIGNUM
cdef int c_max_depth = MAX_DEPTH


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
